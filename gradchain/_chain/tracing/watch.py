"""Watch a stage run: which operations it calls, whether it reads shapes or values, draws noise, asks for totals."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gradchain._chain.context import Context, Keeping, Reduction
from gradchain._chain.tracing.operations import is_exact, is_half, mixing, operation, tensors_in
from gradchain._core.shard import Shard
from gradchain.errors import ChainError
from gradchain.storage import Storage

_T = torch.Tensor
SHAPES: dict[Any, str] = {
    _T.shape.__get__: ".shape",  # type: ignore[attr-defined]
    _T.ndim.__get__: ".ndim",  # type: ignore[attr-defined]
    _T.nbytes.__get__: ".nbytes",  # type: ignore[attr-defined]
    **{
        getattr(_T, name): f".{name}()"
        for name in ("size", "dim", "numel", "nelement", "ndimension", "stride", "is_contiguous", "storage_offset")
    },
    _T.__len__: "len()",
    torch.numel: "torch.numel",
}
READS: dict[Any, str] = {
    getattr(_T, name): f".{name}()"
    for name in ("item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__", "is_nonzero")
}


class Fault(ChainError):
    """A stage breaks a rule for all stages."""


NOISE = "its noise depends on the place of an element"
"""Why a storage is not elementwise, if there is no other reason."""


class Branched(Exception):
    """A stage reads the value of a hyperparameter."""


@dataclass
class Deeds:
    """The observed actions of one stage. The texts complete a sentence that begins with "its update"."""

    mixes: str | None = None
    """What mixes the elements of a tensor."""
    shapes: str | None = None
    """How it reads the shape."""
    place: str | None = None
    """Why an element's bits may depend on its place."""
    draws: bool = False
    """Whether it draws noise, which depends on the place of an element."""
    asks: str | None = None
    """The request that asks about other parameters."""
    numeric: bool = False
    """Whether it reads the value of a hyperparameter."""
    records: dict[str, None] = field(default_factory=dict[str, None])

    def mixing(self, what: str) -> None:
        self.mixes = self.mixes or what


class Watch(TorchDispatchMode):
    """Notes what the running stage does (`with watch.at(deeds)`), and refuses what no stage may do."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[torch.Size] = set()
        """The shapes of the stage's tensors, and of scalars."""
        self.deeds: Deeds | None = None
        self.address, self.method, self.last = "", "", ""
        self.given: list[torch.Tensor] = []
        """What the stage may read and not write."""
        self.tensor_numbers = False
        """Whether the hyperparameters are tensors: to read one is then to branch on it."""
        self.storing = False
        """Whether it is a storage that asks for totals."""
        self.storages: dict[str, Deeds] = {}
        """The actions of each slot's storage, by `stage.slot`."""
        self.key: torch.Tensor | None = None
        self.drawn = False
        """Whether the key of the noise has been used, by a stage or by a storage."""
        self.state: list[torch.Tensor] = []
        self.made: list[tuple[str, list[torch.Tensor]]] = []
        """The output of each stage in the last step."""

    @contextlib.contextmanager
    def at(self, address: str, deeds: Deeds, method: str, given: list[torch.Tensor]) -> Generator[None]:
        before = self.address, self.method, self.given, self.shapes, self.deeds
        self.address, self.method, self.last = address, f"its {method}", address
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            self.given, self.shapes = given, {torch.Size(), *(tensor.shape for tensor in given)}
        self.deeds = deeds
        try:
            yield
        finally:
            self.address, self.method, self.given, self.shapes, self.deeds = before

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """While gradchain's own code runs inside a stage."""
        deeds, self.deeds = self.deeds, None
        try:
            yield
        finally:
            self.deeds = deeds

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # it is skipped from further out

    def reads(self, how: str) -> None:
        """Note that a value is read."""
        if self.tensor_numbers:
            raise Branched
        raise Fault(
            f"{self.address}: {self.method} looks at a value ({how}), for which it has to wait for the device. Choose with "
            "torch.where instead of `if`, and calculate with tensors.",
            stage=self.address,
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.key is not None and args and args[0] is self.key:
            self.drawn = True
        deeds = self.deeds
        if deeds is None:
            return func(*args, **kwargs)
        self.deeds = None
        try:
            self._check(func, args, kwargs)
            if (generator := kwargs.get("generator")) is not None:  # one of the stage's own: it shall not notice
                kwargs = {**kwargs, "generator": generator.clone_state()}
            result = func(*args, **kwargs)
            if deeds.mixes is None or deeds.place is None:  # only the first of each is noted
                self._note(deeds, func, args, tensors_in((*args, *kwargs.values(), result)))
            return result
        finally:
            self.deeds = deeds

    def _note(self, deeds: Deeds, func: Any, args: Any, leaves: list[torch.Tensor]) -> None:
        if what := mixing(func, leaves, self.shapes):
            deeds.mixing(f"{self.method} calls {what}")
        elif deeds.place is not None:
            return
        elif not is_exact(func, args):
            deeds.place = f"{self.method} calls {func}, whose rounding may depend on the place of an element"
        elif operation(func).computes and any(map(is_half, leaves)):
            deeds.place = (
                f"{self.method} computes in half precision, which is rounded otherwise at the ends of a tensor"
            )

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        about = operation(func)
        if about.looks:
            self.reads(str(func))
        if about.draws and kwargs.get("generator") is None:
            raise Fault(
                f"{self.address}: {self.method} calls {func}, whose random numbers are others after a resume, on another "
                "device, or when sharded. Take them from ctx.random_bits().",
                stage=self.address,
            )
        for position, name in about.written:
            held = args[position] if position < len(args) else kwargs.get(name)
            given = {memory(tensor) for tensor in self.given}
            if any(memory(x) in given for x in tensors_in([held])):
                raise Fault(
                    f"{self.address}: {self.method} wrote into a gradient, a parameter or a slot that it got ({func}). "
                    "Return new tensors (value * 2, not value.mul_(2)).",
                    stage=self.address,
                )


class Looks(TorchFunctionMode):
    """Tells a watch when shapes or values are read."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        deeds = self.watch.deeds
        if deeds is not None:
            if func in READS:
                self.watch.reads(READS[func])
            if func in SHAPES and deeds.shapes is None:
                deeds.shapes = f"{self.watch.method} reads {SHAPES[func]}"
        return func(*args, **kwargs) if kwargs else func(*args)


class Witness(Context):
    """The context of a step, which reports to a watch what a stage reads."""

    watch: Watch

    @staticmethod
    def of(ctx: Context, watch: Watch) -> Witness:
        """The same context: it shares all attributes."""
        witness = object.__new__(Witness)
        witness.__dict__ = ctx.__dict__
        witness.__dict__["watch"] = watch
        return witness

    def _looks(self, what: str) -> None:
        if (deeds := self.watch.deeds) is not None:
            deeds.shapes = deeds.shapes or f"{self.watch.method} reads ctx.{what}"

    @property
    def shape(self) -> torch.Size:
        self._looks("shape")
        return self.__dict__["shard"].shape

    @property
    def numel(self) -> int:
        self._looks("numel")
        return self.__dict__["shard"].shape.numel()

    @property
    def shard(self) -> Shard:  # type: ignore[override]
        self._looks("shard")
        return self.__dict__["shard"]

    def _read(self, state: Any, slot: str, storage_dtype: bool) -> torch.Tensor:
        with self.watch.paused():  # storages are looked at apart
            return super()._read(state, slot, storage_dtype)

    def as_stored(self, storage: Storage, dense: torch.Tensor, purpose: str, *, signed: bool = True) -> Keeping:
        """The work of a storage, and not of the stage."""
        running, watch = super().as_stored(storage, dense, purpose, signed=signed), self.watch
        answer: Any = None
        while True:
            with watch.paused():
                try:
                    request = running.send(answer)
                except StopIteration as stop:
                    return stop.value
            watch.storing = True
            answer = yield request
            watch.storing = False

    def record(self, name: str, value: torch.Tensor, reduce: Reduction = "mean") -> None:
        if (deeds := self.watch.deeds) is not None:
            deeds.records[name] = None
        super().record(name, value, reduce)

    def contribute(self, **values: torch.Tensor) -> None:
        with self.watch.paused():
            super().contribute(**values)
        if (deeds := self.watch.deeds) is not None:
            deeds.mixing(f"{self.watch.method} calls ctx.contribute")

    def random_bits(self, purpose: str = "", seed: int = 0, like: torch.Tensor | None = None) -> torch.Tensor:
        if (deeds := self.watch.deeds) is not None:
            deeds.draws = True
            if like is not None:
                deeds.mixing(f"{self.watch.method} draws noise for another tensor")
        with self.watch.paused():
            return super().random_bits(purpose, seed, like)


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]

"""What a stage can read besides the update: the parameter, its slots, the step's scalars, random bits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from gradchain._core.noise import random_bits, salt_of
from gradchain._core.reduce import Request, Totals, accumulate
from gradchain._core.shard import Shard, Space
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import compute_dtype, finite
from gradchain.storage import SlotView, Storage

Reduction = Literal["mean", "sum", "total", "rows"]
"""How the reports of parameters are combined.

`total` is for contributions to shared numbers, `rows` for sums over the elements here, which other processes add to.
"""

Recorded: TypeAlias = "dict[tuple[str, Reduction], torch.Tensor]"
"""What a parameter recorded in a step, by name."""

Keeping: TypeAlias = "Generator[Request, Totals, torch.Tensor]"

Lazy: TypeAlias = "torch.Tensor | Callable[[], torch.Tensor]"
"""A slot; or what loads it from its storage when it is read."""


class Context:
    """One parameter at one step, as the current stage sees it.

    | attribute | meaning |
    |---|---|
    | `param` | the parameter in compute precision (a master copy, if the chain keeps one) |
    | `stored_param` | the parameter as it is stored |
    | `gradient` | the raw gradient; one in float16 comes in float32 |
    | `dtype` | the compute dtype: that of the parameter, float32 for float16, or what `promote` says |
    | `role` | the parameter's role, or `None` |
    | `shape`, `numel` | of the whole parameter, of which this process may hold some rows |
    | `shard` | which rows those are |
    | `ctx["name"]` | a per-step scalar that the stage declared in `scalars` |
    """

    def __init__(
        self,
        param: torch.Tensor,
        gradient: torch.Tensor,
        state: Mapping[str, Lazy],
        role: str | None,
        shard: Shard | None = None,
    ) -> None:
        self.shard = Shard.whole(param.shape) if shard is None else shard
        self.stored_param = param
        self.dtype = compute_dtype(param.dtype)
        self.param = param.to(self.dtype)
        self.gradient = gradient.to(self.dtype if gradient.dtype == param.dtype else compute_dtype(gradient.dtype))
        self.role = role
        self.recorded: dict[tuple[str, Reduction], torch.Tensor] = {}
        self._before, self._state = dict(state), dict(state)
        self._scalars: Mapping[str, Any] = {}
        self._readable: tuple[str, ...] = ()
        self._stage = ""
        self.noise_key: torch.Tensor | None = None
        self.observed = False

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "param":  # `within` has taken it away
                raise ChainError(
                    f"{self._stage} reads the parameter between low_rank and the stage that leaves it again, where "
                    f"directions are smaller than it. Put {self._stage} before low_rank, or behind that stage.",
                    stage=self._stage,
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def narrowed(self) -> bool:
        """Whether directions are smaller than the parameter here."""
        return "param" not in self.__dict__

    def within(self, space: Space) -> Context:
        """Look at the same step where directions have another shape, and there is no parameter.

        Returns: a context that shares the slots, the noise and what is recorded.
        """
        inside = self.now()
        inside.shard, inside.role = space.shard(self.shard), None
        inside.__dict__.pop("param", None)
        inside.stored_param = self.stored_param.new_zeros(()).expand(inside.shard.here)
        return inside

    def facing(self, update: Update) -> Context:
        """Take the projected gradient for the raw one, where directions have another shape. Returns: itself."""
        if self.narrowed and update.outside is not None:
            self.gradient = update.outside.projected
        return self

    def enter(self, address: str, scalars: Mapping[str, Any], readable: tuple[str, ...]) -> None:
        """Switch to the next stage."""
        self._stage, self._scalars, self._readable = address, scalars, readable

    def now(self) -> Context:
        """The context as it is for the present stage.

        Returns: one that stays with it.
        """
        now = object.__new__(Context)
        now.__dict__.update(self.__dict__)
        return now

    def read(self, slot: str, *, storage_dtype: bool = False) -> torch.Tensor:
        """Read a slot that the stage owns or lists in `reads`.

        Returns: the rows here; floating slots in compute precision, or in their stored dtype with `storage_dtype`.
        Raises: ChainError: the stage does not declare the slot, or its owner keeps none for this parameter.
        """
        return self._read(self._state, slot, storage_dtype)

    def previous(self, slot: str) -> torch.Tensor:
        """Read a slot as it was after the last step, even if its owner has already updated it.

        Returns: the rows here, in compute precision.
        Raises: ChainError: as `read`.
        """
        return self._read(self._before, slot, False)

    def read_or(self, slot: str, default: Any, *, storage_dtype: bool = False) -> Any:
        """Read an optional slot. Returns: as `read`, or `default` where no stage keeps the slot for this parameter."""
        return self.read(slot, storage_dtype=storage_dtype) if slot in self._state else default

    def _read(self, state: Mapping[str, Lazy], slot: str, storage_dtype: bool) -> torch.Tensor:
        if slot not in self._readable:
            raise ChainError(
                f"{self._stage} reads slot {slot!r} without owning or declaring it; declare it in `slots`, "
                f"or list it in `reads`, as earlier({slot!r}) or later({slot!r}).",
                stage=self._stage,
            )
        if slot not in state:
            raise ChainError(
                f"{self._stage} reads slot {slot!r}, which its owner does not keep for a parameter of shape "
                f"{tuple(self.stored_param.shape)}.",
                stage=self._stage,
            )
        value = state[slot]
        if not isinstance(value, torch.Tensor):
            value = value()
        return value.to(self.dtype) if value.is_floating_point() and not storage_dtype else value

    def as_stored(self, storage: Storage, dense: torch.Tensor, purpose: str, *, signed: bool = True) -> Keeping:
        """Round a tensor of the parameter's shape as a storage does. Returns: a generator of it, for `yield from`."""
        kept = SlotView(self.shape, compute_dtype(self.stored_param.dtype), signed, self.shard)

        def bits(like: torch.Tensor | None = None, part: str = "") -> torch.Tensor:
            return self.random_bits(f"{purpose}.{part}", like=like)

        parts = storage.store(finite(dense, torch.float32), kept, bits)
        loaded = storage.load(parts if isinstance(parts, Mapping) else (yield from parts), kept)
        return loaded.reshape(dense.shape).to(self.dtype)

    def store(self, slot: str, value: torch.Tensor) -> None:
        """Make the new value of a slot visible to the stages that follow."""
        self._state[slot] = value

    def __getitem__(self, scalar: str) -> Any:
        if scalar not in self._scalars:
            known = ", ".join(self._scalars) or "none"
            raise ChainError(
                f"{self._stage} asks for scalar {scalar!r}; its `scalars` and fields give: {known}.", stage=self._stage
            )
        return self._scalars[scalar]

    def record(self, name: str, value: torch.Tensor, reduce: Reduction = "mean") -> None:
        """Report a 0-d tensor, made of totals, to `optimizer.telemetry()`: the mean or sum over parameters. Never syncs."""
        self.recorded[name, reduce] = value

    def observe(self, name: str, make: Callable[[], torch.Tensor]) -> None:
        """Report the mean of what `make` returns, over all elements of all parameters, to `optimizer.telemetry()`.

        Its name there is `stage/name`. `make` is called only where telemetry is on, so that it costs nothing else. It
        returns a tensor with a number, or true or false, for each element here, for each row, or for all.
        """
        if self.observed:
            values = make()
            each = self.stored_param.numel() / max(values.numel(), 1)
            self.recorded[f"{self._stage}/{name}", "rows"] = accumulate(values) * each

    def contribute(self, **values: torch.Tensor) -> None:
        """Add 0-d tensors, of the rows in this process, to the totals that `share` gets after the step. Never syncs.

        Raises: ChainError: a tensor is not 0-d.
        """
        for name, value in values.items():
            if value.ndim != 0:
                raise ChainError(
                    f"{self._stage} contributes {name!r} of shape {tuple(value.shape)}; sum it up to one number.",
                    stage=self._stage,
                )
            self.recorded[f"{self._stage}.{name}", "total"] = value

    @property
    def shape(self) -> torch.Size:
        """The shape of the whole parameter, of which this process may hold a part."""
        return self.shard.shape

    @property
    def numel(self) -> int:
        """The number of elements of the whole parameter."""
        return self.shape.numel()

    def random_bits(self, purpose: str = "", seed: int = 0, like: torch.Tensor | None = None) -> torch.Tensor:
        """Draw 32 random bits for each element here, or for each element of `like`, which the whole parameter has once.

        Each stage has bits of its own for each purpose; for one that begins with a slash, all stages have the same.

        Returns: int32, the same on every device, sharded or not, and after a resume.
        Raises: ChainError: the stage drew no bits when it was traced.
        """
        if self.noise_key is None:
            raise ChainError(
                f"{self._stage} draws random bits, and drew none when it was tried on small tensors. Draw them in every "
                "step, and choose with torch.where whether they count.",
                stage=self._stage,
            )
        salt = salt_of(purpose if purpose.startswith("/") else f"{self._stage}/{purpose}", seed)
        if like is not None:
            return random_bits(like, self.noise_key, salt)
        return random_bits(self.stored_param, self.noise_key, salt, self.shard.offset)

"""What a function does to tensors, as text: the same text, the same computation.

The compiler's own tracer would tell as well, but takes seconds to import. Here tensors without memory stand in for the
given ones, and each operation under them is noted with its numbers and the places of its tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CONSTANT = 1024
"""The most elements of a tensor that a function brings along, and which is noted with its values."""

PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
"""What is noted as it is written."""


class Untold(Exception):
    """What a function does cannot be told from its text."""


def transcript(function: Callable[..., Sequence[torch.Tensor]], examples: Sequence[torch.Tensor]) -> str:
    """The operations that a function does to tensors like these, which may have no memory.

    Raises:
        Untold: it brings along what cannot be noted.
        Exception: what it raises; that it wants to know an element, or an operation has no way to go without memory.
    """
    noted = _Transcript()
    given = [noted.stand_in(torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta")) for x in examples]
    with torch.no_grad(), noted:
        made = function(*given)
    return "\n".join([*noted.lines, f"return {noted.told(list(made))}"])


class StandIn(torch.Tensor):
    """A tensor on a CPU, to all who look, of shape and dtype alone."""

    meta: torch.Tensor
    number: int

    @staticmethod
    def of(meta: torch.Tensor, number: int) -> StandIn:
        here = torch.device("cpu")
        sizes = meta.size(), meta.stride(), meta.storage_offset()
        made: StandIn = torch.Tensor._make_wrapper_subclass(StandIn, *sizes, dtype=meta.dtype, device=here)  # pyright: ignore
        made.meta, made.number = meta, number
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Untold(f"{func} of a stand-in that is used later")


class _Transcript(TorchDispatchMode):
    """Notes operations, and does them to tensors without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._count = 0

    def stand_in(self, meta: torch.Tensor) -> StandIn:
        made = StandIn.of(meta, self._count)
        self._count += 1
        self.lines.append(f"%{made.number}: {meta.dtype} {tuple(meta.shape)} {meta.stride()} {meta.storage_offset()}")
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: dict[int, StandIn] = {}
        kwargs = kwargs or {}
        self.lines.append(f"{func} {self.told(args)} {self.told(kwargs)}")
        on_meta = {"device": torch.device("meta")} if "device" in kwargs or _is_made_of_nothing(func) else {}
        made = func(*_meta(args, given), **{**_meta(kwargs, given), **on_meta})
        return self._wrapped(made, given)

    def told(self, x: Any) -> str:
        """An argument as text."""
        if isinstance(x, StandIn):
            return f"%{x.number}"
        if isinstance(x, torch.Tensor):
            return _values(x)
        if isinstance(x, Mapping):
            return "{" + ", ".join(f"{key}={self.told(value)}" for key, value in x.items()) + "}"  # pyright: ignore
        if isinstance(x, (list, tuple)):
            return f"[{', '.join(map(self.told, x))}]"  # pyright: ignore
        if type(x) in PLAIN:
            return repr(x)
        raise Untold(f"an argument of type {type(x).__name__}")

    def _wrapped(self, made: Any, given: Mapping[int, StandIn]) -> Any:
        """The same result, of stand-ins; what was written into stays itself."""
        if isinstance(made, torch.Tensor):
            same = given.get(id(made))
            return self.stand_in(made) if same is None else same
        if isinstance(made, (list, tuple)):
            return type(made)([self._wrapped(x, given) for x in made])  # pyright: ignore
        if type(made) in PLAIN:
            return made
        raise Untold(f"a result of type {type(made).__name__}")


def _meta(x: Any, given: dict[int, StandIn]) -> Any:
    """An argument without memory; notes which tensors stand for which."""
    if isinstance(x, StandIn):
        given[id(x.meta)] = x
        return x.meta
    if isinstance(x, torch.Tensor):
        return x.to("meta")
    if isinstance(x, Mapping):
        return {key: _meta(value, given) for key, value in x.items()}  # pyright: ignore
    return type(x)([_meta(part, given) for part in x]) if isinstance(x, (list, tuple)) else x  # pyright: ignore


def _values(x: torch.Tensor) -> str:
    """A tensor that a function brings along."""
    if x.device.type != "cpu" or x.layout != torch.strided or x.numel() > CONSTANT:
        raise Untold("a large tensor of its own")
    return f"<{x.dtype} {tuple(x.shape)} {x.tolist()!r}>"


def _is_made_of_nothing(func: Any) -> bool:
    """Whether an operation makes a tensor of no other."""
    schema = func._schema
    own = any(argument.name == "device" for argument in schema.arguments)
    return own and not any("Tensor" in str(argument.type) for argument in schema.arguments)

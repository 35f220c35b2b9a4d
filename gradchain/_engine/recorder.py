"""Calls of torch, noted as they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradchain._engine.writing import memory_of

Columns = Mapping[str, torch.Tensor]
"""The parameter, the gradient and the slots, by names; the first two are `PARAM` and `GRADIENT`."""

PARAM, GRADIENT = "param", "gradient"


class NoTape(Exception):
    """A step cannot be played."""


@dataclass(frozen=True)
class Operation:
    """One call of torch, and what it made."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    made: Any

    def reads(self) -> list[torch.Tensor]:
        return tensors_in((self.args, self.kwargs))

    def fresh(self) -> list[torch.Tensor]:
        """What it has made that it was not given."""
        given = set(map(id, self.reads()))
        return [x for x in tensors_in(self.made) if id(x) not in given]


class Recorder(TorchFunctionMode):
    """Notes the calls that make tensors."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._given = {memory_of(x) for x in columns.values()}

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = tensors_in((args, kwargs))
        versions = [0 if x.is_inference() else x._version for x in read]
        made = func(*args, **kwargs)
        written = [x for x, version in zip(read, versions) if not x.is_inference() and x._version != version]
        if any(memory_of(x) in self._given for x in written):
            raise NoTape("it writes into what it is given")
        if written or (tensors_in(made) and not any(made is x for x in read)):
            self.operations.append(Operation(func, args, kwargs, made))
        return made


def tensors_in(x: Any) -> list[torch.Tensor]:
    """All tensors in nested containers."""
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, Mapping):
        return tensors_in(list(x.values()))  # pyright: ignore
    return [found for part in x for found in tensors_in(part)] if isinstance(x, (tuple, list)) else []

"""What the tiles of a large tensor are stepped with: its state, or one with wider slots that is packed in the end."""

from __future__ import annotations

import torch

from gradchain._chain import wide
from gradchain._chain.program import Program, State
from gradchain._chain.tracing import traits_of
from gradchain._engine.param_step import ParamStep
from gradchain._engine.writing import overwrite


class Widened:
    """A program and a state without noise, for one step of a whole parameter."""

    def __init__(self, item: ParamStep, program: Program, key: int | None = None) -> None:
        self.item, self.program, self.key = item, program, key
        self.state: State = item.state if key is None else wide.unpacked(item.program, item.state, item.owner.detach())

    @staticmethod
    def of(item: ParamStep) -> Widened | None:
        """`None` if noise is drawn for the elements of the parameter, not only for what its slots are packed to."""
        if item.index is None:
            return Widened(item, item.program)
        program, key = wide.widened(item.program), item.noise
        if program is None or key is None or traits_of(program, item.owner).draws:
            return None
        return Widened(item, program, key)

    def pack(self) -> None:
        """Write what the wider slots are kept as."""
        if self.key is None:
            return
        param, key = self.item.owner.detach(), torch.tensor(self.key, dtype=torch.int32)
        packed = wide.packed(self.item.program, self.item.state, self.state, param, key)
        overwrite([self.item.state[name] for name in packed], list(packed.values()))

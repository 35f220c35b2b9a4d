"""The state after a step: what stages return for their slots, as their storages keep it."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from types import GeneratorType
from typing import Any, TypeAlias, cast

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import Slot
from gradchain._chain.returned import ask, rows_here
from gradchain._chain.slots import PLAIN, as_kept, check_slot, noise_for, stored
from gradchain._chain.stage import Slots, Stage
from gradchain._core.reduce import Request, Totals
from gradchain._core.shard import Shard
from gradchain.errors import ChainError

Tensors: TypeAlias = "dict[str, torch.Tensor]"
Asking: TypeAlias = "Generator[tuple[str, Request], Totals, None]"


class NewState:
    """The tensors that a step changes, by their names in the state."""

    def __init__(
        self, owners: Mapping[str, tuple[str, Slot]], halves: Mapping[str, int], state: Mapping[str, torch.Tensor]
    ) -> None:
        self.owners, self.halves, self.state = owners, halves, state
        self.changed: Tensors = {}
        self.later: dict[str, tuple[Generator[Request, Any, Tensors], Shard]] = {}
        """What stores the slots that ask together, and which part of their tensor is here."""

    def take(self, address: str, stage: Stage, slots: Slots, ctx: Context) -> Asking:
        """Take in the slots that a stage returned: dense for the stages that follow, packed for the state."""
        for slot, dense in slots.items():
            if slot not in stage.known_slots:
                owned = ", ".join(stage.known_slots) or "none"
                raise ChainError(
                    f"{address} returned slot {slot!r}, which its `slots` does not declare (it declares: {owned}).",
                    stage=address,
                )
            key = f"{address}.{slot}"
            like = self.state.get(key, ctx.stored_param)
            if not isinstance(dense, torch.Tensor) or dense.shape != like.shape:  # pyright: ignore[reportUnnecessaryIsInstance]
                dense = rows_here(dense, like, ctx.shard)
                check_slot(address, slot, dense, like.shape)
            ctx.store(slot, dense)
            yield from self._pack(key, slot, dense, ctx)

    def _pack(self, key: str, slot: str, dense: torch.Tensor, ctx: Context) -> Asking:
        """Pack one slot, or leave it for later."""
        declared, param = self.owners[slot][1], ctx.stored_param
        alike = dense.dtype == param.dtype and dense.shape == param.shape and dense.is_floating_point()
        if alike and declared.storage in PLAIN and key in self.state and self.state[key].dtype == dense.dtype:
            self.changed[key] = dense  # as it is
            return
        bits = functools.partial(noise_for, ctx.now(), slot, self.halves.get(slot))
        parts = stored(key, declared, dense, param, ctx.shard, bits)
        if isinstance(parts, GeneratorType):
            joins = declared.kept_as is not None and declared.kept_as.asks_together
            if joins and ctx.shard.group is not None:  # else it need not ask, and is best stored where it is made
                self.later[key] = parts, ctx.shard
                return
            parts = cast("Tensors", (yield from ask(key, parts, ctx.shard)))
        self._keep(parts)

    def _keep(self, parts: Tensors) -> None:
        self.changed |= {name: as_kept(part, self.state[name]) for name, part in parts.items()}

    def finished(self) -> Generator[tuple[str, Request], Totals, Tensors]:
        """Pack the slots that were left, which ask at one time for the sums that they ask for at the same point."""
        answers: dict[str, Any] = dict.fromkeys(self.later)
        while answers:
            asked: dict[Any, dict[str, Request]] = {}
            for key, answer in answers.items():
                running, shard = self.later[key]
                try:
                    asked.setdefault(shard.group, {})[key] = _sums(key, running.send(answer))
                except StopIteration as stop:
                    self._keep(stop.value)
            answers = {}
            for group, requests in asked.items():
                partials = {f"{key}.{name}": x for key, each in requests.items() for name, x in each.partials.items()}
                totals = vars((yield next(iter(requests)), Request("tensor", partials, group=group)))
                for key, each in requests.items():
                    answers[key] = Totals(**{name: totals[f"{key}.{name}"] for name in each.partials})
        return self.changed


def _sums(key: str, request: Request) -> Request:
    """What a slot that is stored with others asks for.

    Raises: ChainError: it asks for something else than sums over its tensor.
    """
    if type(request) is Request and request.scope == "tensor" and request.combine == "sum":
        return request
    raise ChainError(
        f"{key}: its storage declares asks_together, and asks for something else than sums over its tensor. Ask with "
        "whole_tensor(...) or tensor_partials(...), or leave asks_together out.",
        stage=key,
    )

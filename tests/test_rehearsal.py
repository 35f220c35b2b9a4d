"""Every case on a split tensor, rehearsed in one process; and stages that do not yield what they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradchain as gc
from gradchain._chain import shared
from gradchain._dist.check_split import check_split
from tests.laws.cases import Case
from tests.laws.running import over_all_cases

SHAPES = [(4,), (4, 3), (4, 1), (4, 3, 3, 2)]


def rehearse(chain: gc.Chain, shape: tuple[int, ...]) -> None:
    program = chain.route("w", torch.empty(shape))
    group = {**chain.hyperparameters, **shared.initial(chain, chain.hyperparameters, torch.device("cpu"))}
    for stage in chain:
        group = {**stage.initial_entries(chain.hyperparameters), **group}
    check_split(program, torch.Size(shape), [program.numbers(chain.bindings, group, step) for step in (1, 2)], "w")


@over_all_cases
def test_split_tensors_are_stepped_as_whole_ones(case: Case) -> None:
    for shape in SHAPES:
        rehearse(case.chain, shape)  # its error names the shape


class by_hand(gc.Stage):
    """Divides by the norm without asking for the whole of it."""

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update.replace(value=update.value / (1 + update.value.norm()))


class by_local_size(gc.Stage):
    """Takes the size of what is here for that of the tensor."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        t = yield gc.whole_tensor(g=update.value)
        return update.replace(value=update.value - t.g / update.value.numel())


class largest(gc.Stage):
    """Asks for nothing where there is nothing."""

    def update(self, update: gc.Update, ctx: gc.Context) -> Any:
        if update.value.numel() == 0:
            return update
        t = yield gc.whole_tensor_max(g=update.value.abs())
        return update.replace(value=update.value / t.g)


@pytest.mark.parametrize("stage", [by_hand(), by_local_size(), largest()], ids=str)
def test_a_stage_that_keeps_to_its_part_is_found_out(stage: gc.Stage) -> None:
    with pytest.raises(gc.ChainError, match=f"whole one: {stage.address} .*yield whole_tensor"):
        rehearse(gc.chain(stage, gc.scale_by_learning_rate(0.1)), (40, 3))

"""What is computed every so many steps: when it is due, for a step that the host counts and for one that the device does."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

import gradchain
from tests.transforms import steps as taken


@pytest.mark.parametrize("every", [1, 2, 7])
def test_the_first_step_is_due_and_each_that_many_later(every: int) -> None:
    for step in range(1, 30):
        expected = step % every == 1 % every
        assert gradchain.refresh_due(step, every) == (1.0 if expected else None)
        on_device = gradchain.refresh_due(torch.tensor(float(step)), every)
        assert on_device.shape == ()
        assert on_device == float(expected)


def test_the_device_is_not_asked() -> None:
    assert gradchain.refresh_due(torch.empty((), device="meta"), 3).is_meta


@pytest.mark.parametrize("every", [1, 3, 4])
def test_those_that_take_turns_have_steps_of_their_own(every: int) -> None:
    """All in the first step, and then one of each `every` parameters in a row in each step."""
    for first in range(0, 5 * every, every):
        later = []
        for turn in range(first, first + every):
            due = [at for at in range(1, 5 * every) if gradchain.refresh_due(at, every, turn)]
            on_device = [at for at in range(1, 5 * every) if gradchain.refresh_due(torch.tensor(1.0 * at), every, turn)]
            assert due == on_device
            assert due[0] == 1
            after = [at for at in due if at > 1] if every > 1 else due
            assert {b - a for a, b in itertools.pairwise(after)} == {every}
            later.append(after[-1] % every)
        assert sorted(later) == list(range(every))


def test_layers_that_recur_do_not_meet() -> None:
    """Every fourth parameter is a large one: they are not all due in the same step of four."""
    large = [turn for turn in range(64) if turn % 4 == 2]
    for at in range(6, 30):
        assert sum(gradchain.refresh_due(at, 4, turn) is not None for turn in large) == len(large) // 4


CHAINS: dict[str, list[Any]] = {
    "soap": [gradchain.soap(every=3, spread=True)],
    "shampoo": [gradchain.shampoo(every=3, spread=True)],
    "low_rank": [gradchain.low_rank(2, 3, spread=True), gradchain.first_moment(), gradchain.full_rank()],
    "random": [gradchain.low_rank(2, 3, "gaussian", spread=True), gradchain.scale_by_low_rank()],
}
SHAPES = [(4, 6), (6, 4), (5, 5), (4, 6), (4, 6), (6, 4), (5, 5)]
COUNTED = {"soap": "qr", "shampoo": "eigh", "low_rank": "svd"}


def optimizer(name: str, **options: Any) -> gradchain.Optimizer:
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
    chain = gradchain.chain(*CHAINS[name], gradchain.scale_by_learning_rate(0.1))
    return gradchain.Optimizer(params, chain, **{"compile": False, **options})


def gradients(steps: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(steps)]


def stepped(optimizer: gradchain.Optimizer, grads: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [taken.step(optimizer, *each) for each in grads][-1]


@pytest.mark.parametrize("name", COUNTED)
def test_the_work_is_spread_over_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    real = getattr(torch.linalg, COUNTED[name])

    def counted(x: torch.Tensor, **given: Any) -> Any:
        called.append(len(x) if x.ndim > 2 else 1)
        return real(x, **given)

    ours, counts = optimizer(name), []
    stepped(ours, gradients(1))
    monkeypatch.setattr(torch.linalg, COUNTED[name], counted)
    for grads in gradients(6):
        called.clear()
        stepped(ours, [grads])
        counts.append(sum(called) // (1 if name == "low_rank" else 2))
    assert counts[:3] == counts[3:]
    assert sum(counts[:3]) == len(SHAPES)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("name", CHAINS)
def test_each_goes_as_it_would_in_its_own_steps(name: str) -> None:
    """The first parameter has the steps of the published rule; a copy of the chain steps all as pure functions do."""
    grads = gradients(7)
    ours = optimizer(name)
    plain = gradchain.chain(*CHAINS[name], gradchain.scale_by_learning_rate(0.1)).with_options(spread=False)
    alone = gradchain.Optimizer([torch.nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))], plain, compile=False)
    ends = stepped(ours, grads)
    assert torch.equal(ends[0], stepped(alone, [each[:1] for each in grads])[0])
    chain = ours.chain
    params = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    state = chain.init(params)
    for each in grads:
        updates, state = chain.update(each, state, params)
        params = gradchain.apply_updates(params, updates)
    for end, same in zip(ends, params, strict=True):
        torch.testing.assert_close(end, same)
    for end, same in zip(ends, stepped(optimizer(name, capturable=True), grads), strict=True):
        torch.testing.assert_close(end, same)


@pytest.mark.parametrize("name", CHAINS)
def test_resume_in_the_middle_of_a_period_is_bit_exact(name: str) -> None:
    grads = gradients(9)
    whole, again = optimizer(name), optimizer(name)
    held = stepped(whole, grads[:4])
    saved = copy.deepcopy(whole.state_dict())
    ends = stepped(whole, grads[4:])
    for param, value in zip(again.param_groups[0]["params"], held, strict=True):
        param.data.copy_(value)
    again.load_state_dict(saved)
    assert all(map(torch.equal, stepped(again, grads[4:]), ends))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soap", "low_rank"])
def test_the_number_of_graphs_does_not_grow(name: str) -> None:
    ours = optimizer(name, compile=True)
    ends = stepped(ours, gradients(7))
    made = ours.compile_report()
    assert made.fallbacks == ()
    assert len(made.buckets) == len(set(SHAPES)) * (3 if name == "soap" else 2)  # the first step of SOAP is another one
    for end, same in zip(ends, stepped(optimizer(name), gradients(7)), strict=True):
        torch.testing.assert_close(end, same)
    stepped(ours, gradients(14))
    assert ours.compile_report().kernels == made.kernels

"""The communication that is counted on meta tensors is that of real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradchain
from gradchain._chain.tracing import reaching_out
from gradchain._core import exchange, totals
from gradchain.distributed import Cost, cost
from tests.distributed import costs, worlds

NAMES = [*gradchain.recipes(), *costs.PARTS]
MATRICES = ["muon", "soap", "shampoo", "adv-muon", "orthogonalize"]
JOINT = {"adamw": 0, "gyro-adam": 0, "clip_by_global_norm": 2, "kourkoutas_beta": 2, "adv-prodigy": 2, "prodigy": 2}
"""Exchanges under ZeRO-1: one for each round of a stage over all parameters, one to find that there are no more, and one for
shared numbers."""


def on_paper(names: list[str], world: int, shapes: Any = costs.SHAPES) -> dict[str, list[int]]:
    found = {name: cost(costs.chain_of(name), shapes, world) for name in names}
    return {name: [each.collectives, each.numbers, each.matrix_bytes] for name, each in found.items()}


def together(ranks: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """What one process counted, and the bytes that all exchanged."""
    return {name: [*ranks[0][name][:2], sum(rank[name][2] for rank in ranks)] for name in ranks[0]}


def alone() -> list[str]:
    """Those that ask about one parameter at a time."""
    return [name for name in NAMES if reaching_out(costs.chain_of(name), [torch.zeros(4, 4)]) is None]


def one_by_one(names: list[str], world: int) -> dict[str, list[int]]:
    """The sums over parameters, each of which is alone in its rounds."""
    each = [on_paper(names, world, [shape]) for shape in costs.SHAPES]
    return {name: [sum(found[name][place] for found in each) for place in range(3)] for name in names}


def check(world: int, names: list[str], monkeypatch: pytest.MonkeyPatch, *more: worlds.Job) -> None:
    """Count, on so many processes."""
    jobs: list[worlds.Job] = [(costs.split_rows, {"names": names}), *more]
    counted = list(zip(*worlds.run_all(jobs, world, seconds=120), strict=True))
    assert together(counted[0]) == on_paper(names, world)
    for (job, options), ranks in zip(jobs[1:], counted[1:], strict=True):
        if job is costs.partitioned:
            assert ranks[0] == {name: [exchanges, 0] for name, exchanges in JOINT.items()}
        elif job is costs.one_by_one:
            assert together(ranks) == one_by_one(options["names"], world)
        else:
            monkeypatch.setattr(totals, "FEW", options.get("few", totals.FEW))
            monkeypatch.setattr(exchange, "PART", options.get("part", exchange.PART))
            assert together(ranks) == on_paper(options["names"], world)
            monkeypatch.undo()


@pytest.mark.slow
def test_as_many_as_on_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts = (costs.split_rows, {"names": MATRICES, "part": 1})
    check(2, NAMES, monkeypatch, (costs.partitioned, {"names": list(JOINT)}), in_parts)


def test_one_process_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    check(1, list(JOINT), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_as_many_with_many_maxima_or_one_by_one(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(
        world,
        NAMES,
        monkeypatch,
        (costs.partitioned, {"names": list(JOINT)}),
        (costs.one_by_one, {"names": alone()}),
        (costs.split_rows, {"names": NAMES, "few": 50}),
    )


def test_a_model_counts_as_its_shapes() -> None:
    model = torch.nn.Linear(64, 48, device="meta")
    assert cost("rose", model, 2) == cost("rose", [(48, 64), (48,)], 2) == Cost(2, 2, 10)
    assert cost("gyro-adam", [(3, 2, 2)], 2) == cost("gyro-adam", [(3, 4)], 2) == Cost(2, 2, 4)
    assert cost("adams", [()], 2) == cost("adams", [], 2) == cost("adams", [(4, 3)], 1) == Cost(0, 0, 0)


def test_alike_tensors_are_run_once_and_counted_each() -> None:
    for name in NAMES:
        once, both = (cost(costs.chain_of(name), [(12, 16), (6,)] * times, 2) for times in (1, 2))
        joint = "prodigy" in name or name in ("clip_by_global_norm", "kourkoutas_beta")
        assert once.rounds == both.rounds
        assert joint or 2 * once.numbers == both.numbers


@pytest.mark.parametrize(
    ("kind", "said", "arguments"),
    [
        (gradchain.errors.UnknownNameError, "adams", ("adms", [(3, 2)], 2)),
        (gradchain.OptionError, "world = 0", ("adams", [(3, 2)], 0)),
        (gradchain.ParameterError, "shapes such as", ("adams", [("a", 2)], 2)),
    ],
)
def test_what_cannot_be_counted(kind: type[Exception], said: str, arguments: Any) -> None:
    with pytest.raises(kind, match=said):
        cost(*arguments)

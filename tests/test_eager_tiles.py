"""Large tensors stepped eagerly in tiles of rows: whatever a chain asks for, they come out as whole ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import gradchain as gc
from gradchain._engine import eager, eager_tiles
from tests.laws.cases import CASES
from tests.laws.running import gradients, optimize, tensors, tolerance

SHAPES = [(40, 5), (160,), (), (3, 4), (0, 3), (12, 3, 4, 5), (1, 90), (33, 7)]


def tiles_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tiles that are made from now on, with small tensors for large ones."""
    made: list[int] = []
    begun = eager_tiles.Tiles.__init__

    def begin(self: Any, *args: Any) -> None:
        begun(self, *args)
        made.append(len(self.tasks))

    monkeypatch.setattr(eager_tiles, "ELEMENTS", 16)
    monkeypatch.setattr(eager_tiles.Tiles, "__init__", begin)
    return made


@pytest.mark.parametrize("name", CASES)
def test_tiles_are_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = CASES[name].chain
    params, grads = tensors(1, SHAPES, torch.float64), gradients(4, SHAPES, torch.float64)
    monkeypatch.setattr(eager, "divided", lambda works: ([], list(works)))
    whole, plain = optimize(chain, params, grads)
    made = tiles_of(monkeypatch)
    ours, optimizer = optimize(chain, params, grads)
    within = max(tolerance(chain), 1e-9)
    for a, b, p, q in zip(ours, whole, optimizer.state.values(), plain.state.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within)
        assert p.keys() == q.keys()
        for key, value in p.items():
            torch.testing.assert_close(
                value.double(), q[key].double(), rtol=within, atol=within, msg=f"{key} of {name}"
            )
    assert all(count > 1 for count in made)


def test_most_recipes_can_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = set[str]()
    for name in ("gyro-adam", "gyro-sgd", "rose", "adams", "lamb", "adv-prodigy", "adafactor"):
        made = tiles_of(monkeypatch)
        optimize(gc.recipe(name), tensors(1, SHAPES), gradients(1, SHAPES))
        cut |= {name} if made else set()
        monkeypatch.undo()
    assert cut == {"gyro-adam", "gyro-sgd", "rose", "adams", "lamb", "adv-prodigy", "adafactor"}


@pytest.mark.parametrize("storage", ["bf16", "int8", "fp16"])
def test_noise_and_scales_are_those_of_the_whole(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gc.recipe("adamw").with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})
    shapes = [(70, 90), (6300,)]  # blocks begin and end within tiles
    params, grads = tensors(1, shapes), gradients(3, shapes)
    whole, plain = optimize(chain, params, grads)
    made = tiles_of(monkeypatch)
    ours, optimizer = optimize(chain, params, grads)
    assert len(made) >= 6
    for a, b, p, q in zip(ours, whole, optimizer.state.values(), plain.state.values(), strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(value, q[key]) for key, value in p.items())


@pytest.mark.parametrize("storage", ["factored", "factored_vectors", "factored_compact"])
def test_factored_tensors_are_cut_into_rows_of_their_matrix(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = gc.recipe("adamw", lr=0.02).with_options(
        **{"first_moment.storage": storage, "second_moment.storage": storage}
    )
    shapes = [(24, 18), (50, 6, 8), (40, 96), (90,)]  # as matrices: 24 x 18, 50 x 48, 64 x 60, and a vector
    params, grads = tensors(1, shapes), gradients(6, shapes)
    whole, plain = optimize(chain, params, grads)
    monkeypatch.setattr(eager_tiles, "ELEMENTS", 192)
    cut: list[list[tuple[int, ...]]] = []
    begun = eager_tiles.Tiles.__init__

    def begin(self: Any, *args: Any) -> None:
        begun(self, *args)
        cut.append([tuple(task.param.shape) for task in self.tasks])

    monkeypatch.setattr(eager_tiles.Tiles, "__init__", begin)
    ours, optimizer = optimize(chain, params, grads)
    assert cut[:3] == [
        [(8, 18)] * 3,  # ten would fit, and leave a shorter one
        [(4, 6, 8)] * 12 + [(2, 6, 8)],
        [(5, 96)] * 8,  # eight rows of the matrix
    ]
    for a, b, p, q in zip(ours, whole, optimizer.state.values(), plain.state.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        for key, value in p.items():
            torch.testing.assert_close(value, q[key], rtol=1e-6, atol=1e-6)


def test_a_tile_is_not_what_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    params, grads, made = tensors(1, SHAPES[:1]), gradients(6, SHAPES[:1]), tiles_of(monkeypatch)
    results = [
        optimize(gc.chain(gc.orthogonalize(local=local), gc.scale_by_learning_rate(0.1)), params, grads)[0][0]
        for local in (False, True)
    ]
    assert made
    assert torch.equal(*results)


class halves(gc.Stage):
    """Another's stage, which may fail on any rows."""

    def update(self, update: Any, ctx: Any) -> Any:
        totals = yield gc.whole_tensor(x=update.value)
        return update.replace(value=update.value - totals.x / 2)


def test_chains_with_others_stages_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiles_of(monkeypatch)
    optimize(gc.chain(halves(), gc.scale_by_learning_rate(0.1)), [torch.ones(40, 5)], [[torch.ones(40, 5)]])
    assert made == []


def test_a_failure_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiles_of(monkeypatch)
    param = torch.nn.Parameter(torch.ones(40, 5))
    optimizer = gc.optimizer("rose", [param], compile=False)
    param.grad = torch.randn(40, 5)
    optimizer.step()
    before = param.detach().clone()
    monkeypatch.setattr(torch.Tensor, "amax", lambda *_, **__: torch.ones(()).view(2))
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert made
    assert torch.equal(param, before)


def test_what_a_step_makes_is_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    largest: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and not func.is_view and not func._schema.is_mutable:
                largest.append(made.numel())
            return made

    param = torch.nn.Parameter(torch.randn(4096, 256))
    for name in ("gyro-adam", "rose"):
        optimizer = gc.optimizer(name, [param], compile=False)
        param.grad = torch.randn_like(param)
        optimizer.step()
        largest.clear()
        with Sizes():
            optimizer.step()
        assert max(largest) <= eager_tiles.ELEMENTS, name

"""SOAP against its equations, and what it does when a basis is due, is not, or cannot be computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.distributed import cost
from tests.transforms.steps import Array, assert_resumes, moves, optimizer_of, sequence, state_of

LR = gc.scale_by_learning_rate(1.0)
TYPICAL: dict[str, Any] = {"beta1": 0.8, "beta2": 0.9, "shampoo_beta": 0.7, "eps": 1e-3, "every": 3}


def soap_of(
    grads: list[Array], *, beta1: float, beta2: float, shampoo_beta: float, eps: float, every: int, right: bool = True,
    sort: bool = False,
) -> list[Array]:  # fmt: skip
    """The equations, for a square matrix, which has no null space of arbitrary basis; without `right`, from one side.

    With `sort`, as published: before each refresh bases and second moments are put into the order of the eigenvalues.
    """
    moments = [np.zeros((n, n)) for n in grads[0].shape]
    bases, turned = [np.eye(n) for n in grads[0].shape], [True, right]
    m, v, found = np.zeros_like(grads[0]), np.zeros_like(grads[0]), []
    for t, g in enumerate(grads):
        u = np.zeros_like(g)
        if t > 0:
            left, other = bases
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * (left.T @ g @ other) ** 2
            correction = np.sqrt(1 - beta2**t) / (1 - beta1**t)
            u = correction * left @ (left.T @ m @ other / (np.sqrt(v) + eps)) @ other.T
        found.append(u)
        moments = [shampoo_beta * M + (1 - shampoo_beta) * x for M, x in zip(moments, (g @ g.T, g.T @ g), strict=True)]
        made = list(zip(moments, bases, turned, strict=True))
        if t == 0:
            bases = [np.linalg.eigh(M)[1][:, ::-1] if on else Q for M, Q, on in made]
        elif t % every == 0:
            orders = [np.argsort(-np.diag(Q.T @ M @ Q)) if sort else np.arange(len(Q)) for M, Q, _ in made]
            v = v[orders[0]][:, orders[1]]
            bases = [
                np.linalg.qr(M @ Q[:, order])[0] if on else Q for (M, Q, on), order in zip(made, orders, strict=True)
            ]
    return found


def optimizer(
    shape: tuple[int, ...] = (5, 5), dtype: torch.dtype = torch.float64, compile: bool = False, **options: Any
) -> gc.Optimizer:
    capturable = options.pop("capturable", False)
    chain = gc.chain(gc.soap(**{**TYPICAL, **options}), LR)
    param = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    return gc.Optimizer([param], chain, compile=compile, capturable=capturable)


def gradients(shape: tuple[int, ...] = (5, 5), steps: int = 8) -> list[torch.Tensor]:
    return [torch.tensor(g) for g in sequence(shape, steps)]


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_the_equations(every: int, capturable: bool) -> None:
    expected = soap_of(sequence((5, 5), 8), **dict[str, Any](TYPICAL, every=every))
    for u, wanted in zip(moves(optimizer(every=every, capturable=capturable), gradients()), expected, strict=True):
        np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_the_equations_compiled() -> None:
    """In three graphs: of the first step, of a step with a refresh and of one without."""
    ours = optimizer(compile=True)
    for u, wanted in zip(moves(ours, gradients()), soap_of(sequence((5, 5), 8), **TYPICAL), strict=True):
        np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-9, atol=1e-11)
    report = ours.compile_report()
    assert report.fallbacks == ()
    assert len(report.buckets) == 3
    moves(ours, gradients(steps=25))
    assert ours.compile_report().kernels == report.kernels == 2 * len(report.buckets)  # before the matrix, and after
    assert ours.compile_report().seconds == report.seconds


def test_a_long_side_is_not_rotated() -> None:
    grads = sequence((4, 6), 8)
    ours = optimizer((4, 6), largest=5)
    for u, wanted in zip(
        moves(ours, [torch.tensor(g) for g in grads]), soap_of(grads, **TYPICAL, right=False), strict=True
    ):
        np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-9, atol=1e-11)
    assert {"moment_left", "basis_left"} < state_of(ours).keys()
    assert not {"moment_right", "basis_right"} & state_of(ours).keys()


def test_without_sides_it_is_adam_a_step_later() -> None:
    grads = gradients()
    stages = gc.first_moment(0.8), gc.second_moment(0.9), gc.divide(1e-3), LR
    adam = optimizer_of(gc.chain(*stages), torch.zeros(5, 5, dtype=torch.float64))
    found = moves(optimizer(largest=1), grads)
    assert not found[0].any()
    # eps is added before the bias is corrected, as published: at 1e-3 that is seen, and explained by a factor of it.
    for t, (u, theirs) in enumerate(zip(found[1:], moves(adam, grads[1:]), strict=True), 1):
        root = (1 - 0.9**t) ** 0.5
        assert (u / theirs <= 1 + 1e-12).all()
        assert (u / theirs > root * 0.9).all()
    tiny = optimizer_of(gc.chain(*stages[:2], gc.divide(0.0), LR), torch.zeros(5, 5, dtype=torch.float64))
    for u, theirs in zip(moves(optimizer(largest=1, eps=0.0), grads)[1:], moves(tiny, grads[1:]), strict=True):
        torch.testing.assert_close(u, theirs)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 3, 2)], ids=str)
def test_bases_stay_orthonormal_and_become_eigenvectors(shape: tuple[int, ...]) -> None:
    ours = optimizer(shape, every=1, shampoo_beta=0.999)
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(0, 2, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    moves(ours, [sizes * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(60)])
    state = state_of(ours)
    for side in ("left", "right"):
        Q, M = state[f"basis_{side}"], state[f"moment_{side}"]
        torch.testing.assert_close(Q.mT @ Q, torch.eye(len(Q), dtype=Q.dtype))
        if side == "left":  # the sizes of its rows are far apart
            turned = Q.mT @ M @ Q
            shares = turned.diagonal()
            assert (turned - torch.diag(shares)).norm() < 1e-2 * shares.norm()
            assert (shares[:-1] > shares[1:]).all(), "those of the largest eigenvalues first"


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_basis_that_cannot_be_computed_stays(bad: float, capturable: bool) -> None:
    ours = optimizer(capturable=capturable)
    grads = gradients(steps=4)
    moves(ours, grads[:3])
    before = {key: value.clone() for key, value in state_of(ours).items() if key.startswith("basis")}
    grads[3][1, 2] = bad
    moves(ours, grads[3:])  # the fourth step, in which bases are due
    after = state_of(ours)
    assert all(torch.equal(after[key], old) for key, old in before.items())
    assert after["failures"] == 2  # both sides
    moves(ours, gradients(steps=3))  # its moments are lost for good, and its bases are not
    assert after["failures"] == 4
    assert all(after[key].isfinite().all() for key in before)


def test_a_bad_first_gradient_leaves_the_bases_as_they_began() -> None:
    ours = optimizer()
    moves(ours, [torch.full((5, 5), float("nan"), dtype=torch.float64)])
    assert torch.equal(state_of(ours)["basis_left"], torch.eye(5, dtype=torch.float64))
    assert state_of(ours)["failures"] == 2


@pytest.mark.parametrize("capturable", [False, True])
def test_work_that_is_not_due_is_not_done(monkeypatch: pytest.MonkeyPatch, capturable: bool) -> None:
    called: list[str] = []

    def counted(name: str, real: Any) -> Any:
        return lambda *args: called.append(name) or real(*args)  # pyright: ignore[reportUnknownLambdaType]

    for name in ("qr", "eigh"):
        monkeypatch.setattr(torch.linalg, name, counted(name, getattr(torch.linalg, name)))
    ours, counts = optimizer(capturable=capturable), []
    moves(ours, gradients(steps=1))
    for g in gradients(steps=6):
        called.clear()
        moves(ours, [g])
        counts.append((called.count("qr"), called.count("eigh")))
    if capturable:  # what the host does not know is computed in every step
        assert counts == [(2, 2)] * 6
    else:
        assert counts == [(0, 0), (0, 0), (2, 0)] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_in_the_middle_of_a_period_is_bit_exact(dtype: torch.dtype) -> None:
    whole = assert_resumes(lambda: optimizer(dtype=dtype), gradients(steps=9))
    wide = {key: x.dtype for key, x in state_of(whole).items() if key.startswith(("moment", "basis"))}
    assert set(wide.values()) == {torch.float32}


def test_vectors_and_options_out_of_range_are_errors() -> None:
    with pytest.raises(gc.OptionError, match=r"soap takes matrices.*\(5,\)"):
        optimizer((5,))
    with pytest.raises(gc.OptionError, match=r"soap\.every = 0 is outside \[1, inf\)"):
        gc.soap(every=0)


def test_the_recipe_routes_by_role() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
    ours = gc.optimizer("soap", model, compile=False)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    ours.step()
    kept = [any("basis_left" in key for key in ours.state[param]) for param in model.parameters()]
    assert kept == [True, False, False, False]


@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_what_a_sharded_step_sends(name: str) -> None:
    """Two all-to-alls; there the rows of gradient, moments and the squares of rows, and back to each what all have alike."""
    m, n, world, size = 64, 16, 4, 4
    found = cost(name, [(m, n)], world)
    split = {"soap": 3 * m * n, "shampoo": 2 * m * n}[name] + 2 * m * m
    numbers = {"soap": (5, 0), "shampoo": (4, 0)}[name][0]  # in float64: decay rates, eps, what is due
    assert found.collectives == 2 + (name == "shampoo")  # the length of the direction that came in
    assert found.matrix_bytes == size * (2 * split + world * (2 * n * n + 1)) + 8 * world * numbers

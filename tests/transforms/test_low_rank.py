"""Low rank: the equations, what is kept, what is refused; a basis that is due, that is not, and that cannot be found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradchain as gc
from gradchain.distributed import cost
from tests.transforms.steps import Array, assert_resumes, directions, moves, sequence, state_of, step

LR = gc.scale_by_learning_rate(1.0)
B1, B2, EPS, RANK, EVERY = 0.8, 0.9, 1e-3, 2, 3
ADAM = [gc.first_moment(B1), gc.second_moment(B2), gc.divide(EPS)]
SHAPES = [(4, 6), (6, 4), (5, 5), (4, 3, 2)]


def small_adam(grads: list[Array], left: bool, end: str = "full") -> list[Array]:
    """Adam on the projected gradient, and what becomes of it."""
    m: Any = 0.0
    v: Any = 0.0
    basis: Any = None
    found = []
    for t, G in enumerate(grads, 1):
        g = G.reshape(len(G), -1)
        if (t - 1) % EVERY == 0:
            U, _, Vh = (x.numpy() for x in torch.linalg.svd(torch.tensor(g), full_matrices=False))  # its signs are free
            basis = U[:, :RANK] if left else Vh[:RANK].T
        R = basis.T @ g if left else g @ basis
        m, v = B1 * m + (1 - B1) * R, B2 * v + (1 - B2) * R**2
        N = m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)
        if end == "full":
            u = basis @ N if left else N @ basis.T
        elif end == "channel":
            axis = 0 if left else 1
            u = g * np.linalg.norm(N, axis=axis, keepdims=True) / np.linalg.norm(R, axis=axis, keepdims=True)
        else:
            u = g * np.linalg.norm(N) / np.linalg.norm(R)
        found.append(u.reshape(G.shape))
    return found


def optimizer(
    *stages: gc.Stage, shape: tuple[int, ...] = (4, 6), dtype: torch.dtype = torch.float64, compile: bool = False,
    capturable: bool = False,
) -> gc.Optimizer:  # fmt: skip
    param = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    return gc.Optimizer([param], gc.chain(*stages, LR), compile=compile, capturable=capturable)


def gradients(shape: tuple[int, ...] = (4, 6), steps: int = 8) -> list[torch.Tensor]:
    return [torch.tensor(g) for g in sequence(shape, steps)]


def agree(found: list[torch.Tensor], expected: list[Array]) -> None:
    for u, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(u.numpy(), wanted, rtol=1e-9, atol=1e-11)


ENDS = {"full": gc.full_rank(), "channel": gc.scale_by_low_rank(), "tensor": gc.scale_by_low_rank("tensor")}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_equations(shape: tuple[int, ...], end: str, capturable: bool) -> None:
    left = shape[0] < int(np.prod(shape[1:]))
    ours = optimizer(gc.low_rank(RANK, EVERY), *ADAM, ENDS[end], shape=shape, capturable=capturable)
    agree(moves(ours, gradients(shape)), small_adam(sequence(shape, 8), left, end))


@pytest.mark.parametrize(("side", "left"), [("left", True), ("right", False), ("long", False)])
def test_the_side_can_be_chosen(side: str, left: bool) -> None:
    ours = optimizer(gc.low_rank(RANK, EVERY, side=side), *ADAM, gc.full_rank())
    agree(moves(ours, gradients()), small_adam(sequence((4, 6), 8), left))


@pytest.mark.slow
def test_the_equations_compiled() -> None:
    """In two graphs: of a step with a decomposition and of one without."""
    ours = optimizer(gc.low_rank(RANK, EVERY), *ADAM, gc.full_rank(), compile=True)
    agree(moves(ours, gradients()), small_adam(sequence((4, 6), 8), left=True))
    report = ours.compile_report()
    assert report.fallbacks == ()
    assert len(report.buckets) == 2
    moves(ours, gradients(steps=25))
    assert ours.compile_report().kernels == report.kernels == 3  # before the decomposition and after; and the other one
    assert ours.compile_report().seconds == report.seconds


def test_what_is_kept_is_small() -> None:
    for shape, inside, basis in (((8, 20), (3, 20), (8, 3)), ((20, 8), (20, 3), (8, 3)), ((2, 9), (2, 9), (2, 2))):
        state = state_of(optimizer(gc.low_rank(3), *ADAM, gc.full_rank(), shape=shape))
        shapes = {name: tuple(x.shape) for name, x in state.items()}
        wanted = {"exp_avg": inside, "exp_avg_sq": inside, "basis": basis, "failures": (), "step": ()}
        assert shapes == wanted
    random = state_of(optimizer(gc.low_rank(3, projection="gaussian"), gc.first_moment(), gc.scale_by_low_rank()))
    assert {name: tuple(x.shape) for name, x in random.items()} == {"exp_avg": (3, 6), "basis_key": (), "step": ()}


@pytest.mark.parametrize("storage", ["bf16", "int8", "factored", "factored_compact"])
def test_storages_keep_what_is_small(storage: str) -> None:
    """As they would keep a parameter of that shape."""
    ours = optimizer(
        gc.low_rank(4), gc.first_moment(storage=storage), gc.full_rank(), shape=(8, 64), dtype=torch.float32
    )
    alone = optimizer(gc.first_moment(storage=storage), shape=(4, 64), dtype=torch.float32)
    sizes = [
        {name: (x.shape, x.dtype) for name, x in state_of(each).items() if name not in ("basis", "failures")}
        for each in (ours, alone)
    ]
    assert sizes[0] == sizes[1]
    if storage.startswith("factored"):
        return
    plain = optimizer(gc.low_rank(4), gc.first_moment(), gc.full_rank(), shape=(8, 64), dtype=torch.float32)
    g = torch.outer(torch.linspace(1, 2, 8), torch.linspace(-1, 1, 64))
    for u, wanted in zip(moves(ours, [g] * 3), moves(plain, [g] * 3), strict=True):
        assert (u - wanted).norm() < 0.02 * wanted.norm()


def test_all_of_the_rank_is_all_of_the_gradient() -> None:
    for projection in ("svd", "gaussian"):
        stages = [gc.low_rank(9, 2, projection), gc.multiply(3.0)]
        for u, g in zip(moves(optimizer(*stages, gc.scale_by_low_rank()), gradients()), gradients(), strict=True):
            torch.testing.assert_close(u, 3 * g)
    for u, g in zip(moves(optimizer(gc.low_rank(9), gc.full_rank()), gradients()), gradients(), strict=True):
        torch.testing.assert_close(u, g)


def drawn(
    seed: int = 0, steps: int = 4, capturable: bool = False, shape: tuple[int, ...] = (50, 400)
) -> list[torch.Tensor]:
    """The random projections of some steps, as a unit matrix comes back from them: P P'."""
    ours = optimizer(gc.low_rank(20, 2, "gaussian", "left", seed), gc.full_rank(), shape=shape, capturable=capturable)
    unit = torch.zeros(shape, dtype=torch.float64)
    unit[:, : shape[0]] = torch.eye(shape[0])
    return [u[:, : shape[0]] for u in moves(ours, [unit] * steps)]


def test_random_numbers_are_drawn_when_they_are_due() -> None:
    first, second, third, fourth = drawn()
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(third, fourth)
    assert (first - third).norm() > 0.5 * first.norm()
    for ours, theirs in zip(drawn(capturable=True), (first, second, third, fourth), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not torch.equal(drawn(seed=1, steps=1)[0], first)


def test_random_numbers_have_variance_one_over_the_rank() -> None:
    (gram,) = drawn(steps=1)
    torch.testing.assert_close(gram.trace() / 50, torch.ones((), dtype=torch.float64), rtol=0.1, atol=0.0)
    assert abs((gram - torch.diag(gram.diagonal())).mean()) < 0.03


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)], ids=str)
def test_a_basis_that_cannot_be_found_stays(bad: float, capturable: bool, shape: tuple[int, ...]) -> None:
    ours = optimizer(gc.low_rank(RANK, EVERY), gc.full_rank(), shape=shape, capturable=capturable)
    grads = gradients(shape, 4)
    moves(ours, grads[:3])
    before = state_of(ours)["basis"].clone()
    grads[3][1, 2] = bad
    moves(ours, grads[3:])  # the fourth step, in which a basis is due
    assert torch.equal(state_of(ours)["basis"], before)
    assert state_of(ours)["failures"] == 1


@pytest.mark.parametrize("capturable", [False, True])
def test_work_that_is_not_due_is_not_done(monkeypatch: pytest.MonkeyPatch, capturable: bool) -> None:
    called: list[int] = []
    real = torch.linalg.svd

    def counted(x: torch.Tensor, **options: Any) -> Any:
        called.append(1)
        return real(x, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    ours, counts = optimizer(gc.low_rank(RANK, EVERY), gc.full_rank(), capturable=capturable), []
    moves(ours, gradients(steps=1))
    for g in gradients(steps=6):
        called.clear()
        moves(ours, [g])
        counts.append(len(called))
    assert counts == ([1] * 6 if capturable else [0, 0, 1] * 2)


@pytest.mark.parametrize("projection", ["svd", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_in_the_middle_of_a_period_is_bit_exact(dtype: torch.dtype, projection: str) -> None:
    stages = [gc.low_rank(RANK, EVERY, projection), gc.first_moment(storage="int8"), gc.full_rank()]
    assert_resumes(lambda: optimizer(*stages, dtype=dtype), gradients(steps=9))


def test_the_norm_grows_by_a_factor_at_most() -> None:
    norms = [2.0, 5.0, 2.3, 100.0, 0.5, 0.0, 7.0, 7.1]
    expected, last = [], 0.0
    for norm in norms:
        last = min(norm, 1.5 * last) if last > 0 else norm
        expected.append(last)
    found = directions(gc.limit_norm_growth(1.5), LR, grads=[[0.6 * n, -0.8 * n] for n in norms])
    assert [u.norm().item() for u in found] == pytest.approx(expected)
    assert all(u[0] >= 0 >= u[1] for u in found)


def test_a_norm_that_is_not_finite_is_not_kept() -> None:
    ours = optimizer(gc.limit_norm_growth(1.5), shape=(2,))
    moves(ours, [torch.tensor([3.0, 4.0])])
    moves(ours, [torch.tensor([torch.inf, 0.0])])
    assert state_of(ours)["norm"] == 5


def test_the_second_moment_is_corrected_behind_the_quotient() -> None:
    raw = [gc.second_moment(B2, bias_correction=False), gc.divide(0.0)]
    behind = gc.debias(B2, of="second_moment").rename(beta="betas[1]")
    grads = [g.tolist() for g in sequence((5,), 4)]
    inside = directions(gc.second_moment(B2), gc.divide(0.0), LR, grads=grads)
    for u, wanted in zip(directions(*raw, behind, LR, grads=grads), inside, strict=True):
        torch.testing.assert_close(u, wanted, rtol=1e-12, atol=0.0)
    with pytest.raises(gc.ChainError, match=r"debias needs slot 'exp_avg_sq'"):
        gc.chain(gc.first_moment(), gc.debias(of="second_moment"))


def test_a_cautious_stage_sees_the_whole_gradient() -> None:
    """A moment inside counts as one outside: what comes behind compares it with the gradient of the parameter."""
    g = torch.tensor([[1.0, -1.0, 0.1], [1.0, 1.0, 0.0]])
    (u,) = moves(
        optimizer(gc.low_rank(1), gc.first_moment(), gc.full_rank(), gc.cautious(), shape=(2, 3)), [g.double()]
    )
    assert ((u * g) >= 0).all()
    assert (u == 0).any()


def test_what_came_before_stays() -> None:
    """A decay that stands before the projection is not projected."""
    w = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.float64))
    chain = gc.chain(gc.decoupled_decay(0.5), gc.low_rank(1), gc.sign(), gc.full_rank(), gc.scale_by_learning_rate(0.1))
    (after,) = step(gc.Optimizer([w], chain, compile=False), torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(after, torch.full_like(after, 0.95))


def test_directions_are_shown_as_projected_back() -> None:
    chain = gc.chain(gc.low_rank(1), *ADAM, gc.full_rank(), LR)
    trace = chain.trace(gradients()[0], torch.zeros(4, 6, dtype=torch.float64))
    assert {tuple(row.value.shape) for row in trace.rows} == {(4, 6)}
    U, S, Vh = torch.linalg.svd(gradients()[0])
    torch.testing.assert_close(trace["low_rank"].value, -S[0] * torch.outer(U[:, 0], Vh[0]))
    torch.testing.assert_close(trace["divide"].value, trace["full_rank"].value)
    ours = gc.Optimizer([torch.nn.Parameter(torch.zeros(4, 6))], chain, compile=False, telemetry=True)
    moves(ours, gradients(steps=2))
    assert all(np.isfinite(value) for value in ours.telemetry().values())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(gc.ChainError, match=r"low_rank makes directions smaller.*Put full_rank\(\) behind"):
        gc.chain(gc.low_rank(2), gc.first_moment(), LR)
    with pytest.raises(gc.ChainError, match=r"full_rank brings directions back.*Put low_rank\(\.\.\.\) before"):
        gc.chain(gc.first_moment(), gc.full_rank(), LR)
    for stage in (gc.decoupled_decay(0.1), gc.clip_weights(-1.0, 1.0)):
        with pytest.raises(gc.ChainError, match=r"cannot stand between low_rank and full_rank"):
            gc.chain(gc.low_rank(2), stage, gc.full_rank(), LR)
    with pytest.raises(gc.OptionError, match=r"low_rank takes matrices.*\(5,\)"):
        optimizer(gc.low_rank(2), gc.full_rank(), shape=(5,))
    with pytest.raises(gc.OptionError, match=r"low_rank\.rank = 0 is outside \[1, inf\)"):
        gc.low_rank(0)
    ours = optimizer(gc.low_rank(2), gc.orthograd(), gc.full_rank())
    with pytest.raises(gc.ChainError, match=r"orthograd reads the parameter between low_rank"):
        moves(ours, gradients(steps=1))


def test_the_recipes_route_by_role() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
    for name in ("galore-adamw", "apollo"):
        ours = gc.optimizer(name, model, rank=2, compile=False)
        kept = [any("low_rank" in key for key in ours.state[param]) for param in model.parameters()]
        assert kept == [True, False, False, False]
    for name, options in (
        ("galore-adamw", {"proj_type": "full"}),
        ("apollo", {"proj": "qr"}),
        ("apollo", {"scale": -1.0}),
    ):
        with pytest.raises(gc.OptionError, match=next(iter(options))):
            gc.recipe(name, **options)


def test_what_a_sharded_step_sends() -> None:
    """The projected gradient where rows are combined; nothing where columns are. Step 3 is not due."""
    chain = gc.chain(gc.low_rank(4, 3), *ADAM, gc.full_rank(), LR)
    wide, tall = cost(chain, [(64, 256)], 4), cost(chain, [(256, 64)], 4)
    assert (wide.collectives, wide.numbers, wide.matrix_bytes) == (1, 4 * 256, 0)
    assert (tall.collectives, tall.numbers, tall.matrix_bytes) == (0, 0, 0)
    each = gc.chain(gc.low_rank(4, 1), *ADAM, gc.full_rank(), LR)
    assert cost(each, [(256, 64)], 4).collectives == 2

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import close, directions, optimizer_of, step, tensor


def ranged(grad: Any, *between: gc.Stage, **options: Any) -> torch.Tensor:
    """The gradient divided by its range."""
    (u,) = directions(gc.range_normalize(**options), *between, gc.divide(), grads=[grad])
    return u


def revised(grad: Any) -> torch.Tensor:
    return ranged(grad, rule="abs_range", damping=0.0, floor=0.0)


# Centralize.


def test_centralize_slices() -> None:
    (u,) = directions(gc.centralize(), grads=[[[1.0, 3.0], [-1.0, 0.0]]])
    close(u, [[-1.0, 1.0], [-0.5, 0.5]])


def test_centralize_takes_all_axes_but_the_first() -> None:
    (u,) = directions(gc.centralize(), grads=[[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    close(u, [[[-2.0, -1.0], [0.0, 3.0]], [[-1.0, -1.0], [-1.0, 3.0]]])


@pytest.mark.parametrize("grad", [3.0, [3.0, 1.0], [3.0]], ids=str)
def test_centralize_passes_scalars_and_vectors(grad: Any) -> None:
    (u,) = directions(gc.centralize(skip_singletons=False), grads=[grad])
    close(u, grad)


@pytest.mark.parametrize("grad", [[[3.0]], [[3.0], [1.0]], [[[3.0]], [[1.0]]]], ids=str)
def test_slices_of_one_element(grad: Any) -> None:
    (skipped,) = directions(gc.centralize(), grads=[grad])
    close(skipped, grad)
    (frozen,) = directions(gc.centralize(skip_singletons=False), grads=[grad])
    assert not frozen.any()  # quirk R8


def test_an_optimizer_warns_of_frozen_parameters() -> None:
    chain = gc.recipe("rose-1.0.2", weight_decay=0.0)
    with pytest.warns(UserWarning, match=r"\(5, 1\).*skip_singletons=True"):
        optimizer = optimizer_of(chain, torch.ones(5, 1))
    (after,) = step(optimizer, torch.randn(5, 1))
    assert torch.equal(after, torch.ones(5, 1))
    moving = optimizer_of(gc.recipe("rose-1.0.2", skip_singletons=True), torch.ones(5, 1))  # no warning
    assert (step(moving, torch.ones(5, 1))[0] != 1).all()


# Range: Rose 1.0.0.


def test_range_of_slices() -> None:
    close(ranged([[1.0, 3.0], [-1.0, 3.0]]), [[0.5, 1.5], [-0.25, 0.75]])


def test_range_of_a_vector_is_one_number_plus_damping() -> None:
    close(ranged([1.0, 3.0, 0.0]), [0.25, 0.75, 0.0])
    close(ranged([1.0, 3.0, 0.0], damping=3.0), [1 / 6, 0.5, 0.0])
    close(ranged([2.0, 2.0]), [2.0, 2.0])  # all equal: the plain gradient


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 1)], ids=str)
def test_columns_are_vectors(shape: tuple[int, ...]) -> None:
    # Quirk R7: by element counts, so (n, 1) is a vector.
    grad = tensor([1.0, 3.0, 0.0, -1.0]).view(shape)
    close(ranged(grad.tolist()), (grad / 5).tolist())


def test_a_row_is_a_matrix_of_one_slice() -> None:
    close(ranged([[1.0, 3.0, -1.0]]), [[0.25, 0.75, -0.25]])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)], ids=str)
def test_one_element_is_damped_by_the_floor(shape: tuple[int, ...]) -> None:
    floor = 1e-15 ** (1 / 3)
    grad = torch.full(shape, -1e-4, dtype=torch.float64)
    close(ranged(grad.tolist()), (grad / (1e-4 + floor)).tolist())
    close(ranged(grad.tolist(), floor=1e-4), torch.full(shape, -0.5).tolist())


@pytest.mark.parametrize(
    ("compute", "expected"), [("fp64", 0.909), ("fp32", 0.0099), ("fp16", 1e-4 / 0.1001), ("bf16", 1e-4 / 0.21554)]
)
def test_the_floor_depends_on_the_compute_dtype(compute: str, expected: float) -> None:
    # Quirk R6.
    chain = gc.recipe("rose", lr=1.0, weight_decay=None, compute_dtype=compute, bf16_sr=False)
    (after,) = step(optimizer_of(chain, torch.zeros(())), torch.tensor(1e-4))
    assert float(-after) == pytest.approx(expected, rel=2e-2 if compute == "bf16" else 2e-3)


# Range: Rose 1.0.2.


def test_revised_scalars_step_by_their_sign() -> None:
    assert [float(revised(g)) for g in (1e-9, -5.0, 0.0)] == [1, -1, 0]


def test_revised_range_is_not_symmetric() -> None:
    # Quirk R9.
    close(revised([1.0, 2.0, 4.0]), [1 / 3, 2 / 3, 4 / 3])
    close(revised([-1.0, -2.0, -4.0]), [-0.2, -0.4, -0.8])
    close(revised([3.0, 3.0]), [3.0, 3.0])
    close(revised([-3.0, -3.0]), [-0.5, -0.5])
    close(ranged([-1.0, -2.0, -4.0], damping=0.0), [-1 / 3, -2 / 3, -4 / 3])  # 1.0.0 is symmetric


def test_revised_vectors_of_one_element() -> None:
    # Quirk R10.
    close(revised([1e3]), [1e3])
    close(revised([-1e3]), [-0.5])


def test_revised_matrices() -> None:
    close(revised([[1.0, 3.0], [-1.0, -3.0]]), [[0.5, 1.5], [-0.25, -0.75]])
    close(revised([[2.0], [-2.0]]), [[2.0], [-0.5]])  # columns are matrices: ranges 0 and |-2| + 2


# The gate.


def test_gate_by_hand() -> None:
    # Ranges 2 and 6: mu = 4, sigma = 2, tau = 2/3, D = 4 -+ 4/3.
    u = ranged([[1.0, 3.0], [0.0, 6.0]], gc.cv_trust_gate())
    close(u, [[3 / 8, 9 / 8], [0.0, 18 / 16]])


def test_gate_uses_the_population_deviation() -> None:
    # Ranges 1, 1, 4: mu = 2, sigma = sqrt(2) (and not sqrt(3)).
    tau = 2 / (2 + math.sqrt(2))
    D = [2 - tau, 2 - tau, 2 + 2 * tau]
    close(
        ranged([[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]], gc.cv_trust_gate()),
        [[0.0, 1 / D[0]], [0.0, 1 / D[1]], [0.0, 4 / D[2]]],
    )


def test_gate_passes_one_slice() -> None:
    close(ranged([[0.0, 4.0]], gc.cv_trust_gate()), [[0.0, 1.0]])


def test_gate_passes_equal_slices() -> None:
    close(ranged([[0.0, 4.0], [1.0, 5.0]], gc.cv_trust_gate()), [[0.0, 1.0], [0.25, 1.25]])


def test_gate_keeps_zeros() -> None:
    close(ranged([[5.0, 5.0], [7.0, 7.0]], gc.cv_trust_gate()), [[5.0, 5.0], [7.0, 7.0]])  # quirk R12


def test_gate_gives_a_constant_slice_a_scale() -> None:
    # Ranges 0 and 4: mu = sigma = 2, tau = 1/2, D = 1 and 3.
    close(ranged([[5.0, 5.0], [0.0, 4.0]], gc.cv_trust_gate()), [[5.0, 5.0], [0.0, 4 / 3]])


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_gate_never_closes_for_few_slices(n: int) -> None:
    # Quirk R17: with one range among zeros, tau = 1 / (1 + sqrt(n - 1)), the least that there is.
    grad = torch.zeros(n, 2, dtype=torch.float64)
    grad[0, 1] = n  # mu = 1
    D = 1 + (n - 1) / (1 + math.sqrt(n - 1))
    assert float(ranged(grad.tolist(), gc.cv_trust_gate())[0, 1]) == pytest.approx(n / D)


@pytest.mark.parametrize("n", [3, 7, 27])
def test_gate_is_exact_where_ranges_nearly_agree(n: int) -> None:
    # The variance is a difference of means; in float32 it must not go negative, nor lose the mean.
    grad = torch.zeros(n, 2)
    grad[:, 1] = 0.1 + 1e-7 * torch.arange(n)
    chain = gc.chain(gc.range_normalize(), gc.cv_trust_gate(), gc.divide())
    u = -chain.update(grad, chain.init(grad), torch.zeros(n, 2))[0]
    torch.testing.assert_close(u[:, 1], torch.ones(n), rtol=2e-5, atol=0)


def test_gate_in_float16_does_not_overflow() -> None:
    grad = torch.zeros(4, 2, dtype=torch.float16)
    grad[:, 1] = torch.tensor([300.0, 310.0, 320.0, 1000.0])
    chain = gc.chain(gc.range_normalize(), gc.cv_trust_gate(), gc.divide())
    u = -chain.update(grad, chain.init(grad), torch.zeros_like(grad))[0]
    wide = -chain.update(grad.double(), chain.init(grad.double()), torch.zeros(4, 2, dtype=torch.float64))[0]
    torch.testing.assert_close(u.double(), wide, rtol=2e-3, atol=1e-3)


# The recipes, as sums of the above.


def test_rose_by_hand() -> None:
    chain = gc.recipe("rose", lr=0.5, weight_decay=0.2)
    # Centred: (-1, 1), (-3, 3); ranges 2, 6; D = 8/3, 16/3. Decay 0.5 * 0.2 of the parameter.
    (u,) = directions(chain, grads=[[[1.0, 3.0], [0.0, 6.0]]], param=[[1.0, 0.0], [0.0, -2.0]])
    close(u, [[-3 / 16 + 0.1, 3 / 16], [-9 / 32, 9 / 32 - 0.2]])


def test_a_centred_constant_row_rests() -> None:
    # Exactly representable numbers: quirk R11 is about those that are not.
    (u,) = directions(gc.recipe("rose-1.0.2", weight_decay=None), grads=[[[5.0, 5.0], [0.0, 4.0]]])
    close(u[0], [0.0, 0.0])


def test_rounding_makes_a_step_out_of_a_constant_row() -> None:
    # Quirk R11: seven times 0.1 in float32 has a mean other than 0.1; the equal, negative residues are divided by 2|r|.
    g = torch.stack([torch.full((7,), 0.1), torch.arange(7.0)])
    published = gc.recipe("rose-1.0.2", lr=1.0, weight_decay=None, stabilize=False, compute_dtype="fp32")
    w = torch.zeros(2, 7)
    for chain, size in ((published, 0.5), (published.with_options(flat_rtol=1e-6), 0.0)):
        updates, _ = chain.update(g, chain.init(w), w)
        close(updates[0].abs(), [size] * 7, atol=1e-7)
        close(updates[1], ((3.0 - torch.arange(7.0)) / 6).tolist(), rtol=1e-6, atol=1e-7)


def test_gradients_are_left_as_they_were() -> None:
    grad = torch.randn(4, 5)
    before = grad.clone()
    chain = gc.recipe("rose")
    chain.update(grad, chain.init(grad), torch.zeros(4, 5))
    assert torch.equal(grad, before)  # R18

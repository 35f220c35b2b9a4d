from __future__ import annotations

import math

import pytest
import torch

import gradchain as gc
from tests.transforms.steps import optimizer_of, step

LR = gc.scale_by_learning_rate(1.0)


class seen_dtype(gc.Stage):
    """Subtracts the width in bits of the direction, the parameter and the gradient's stage of origin."""

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        assert update.value.dtype == ctx.param.dtype == ctx.dtype
        return update.replace(value=torch.full_like(update.value, torch.finfo(ctx.dtype).bits))


def computed_in(chain: gc.Chain, dtype: torch.dtype) -> int:
    (after,) = step(optimizer_of(chain, torch.zeros(2, dtype=dtype)), torch.ones(2, dtype=dtype))
    assert after.dtype == dtype
    return -int(after[0])


@pytest.mark.parametrize(
    ("stage", "widths"),  # of bfloat16, float32 and float64 parameters
    [
        (gc.promote(), (16, 32, 64)),
        (gc.promote("fp64"), (64, 64, 64)),
        (gc.promote("fp32"), (32, 32, 32)),  # a demotion of float64 (quirk R16)
        (gc.promote(bf16="fp32"), (32, 32, 64)),
        (gc.master_weights(), (32, 32, 32)),
        (gc.master_weights("fp64"), (64, 64, 64)),
    ],
    ids=repr,
)
def test_compute_dtype(stage: gc.Stage, widths: tuple[int, int, int]) -> None:
    chain = gc.chain(stage, seen_dtype())
    assert tuple(computed_in(chain, d) for d in (torch.bfloat16, torch.float32, torch.float64)) == widths


@pytest.mark.parametrize("spelling", ["fp64", " FP64 ", "float64", "torch.float64", torch.float64], ids=repr)
def test_spellings_of_a_dtype(spelling: object) -> None:
    assert gc.promote(spelling) == gc.promote("fp64")


@pytest.mark.parametrize("spelling", [None, "none", "NULL", " None "], ids=repr)
def test_spellings_of_no_dtype(spelling: object) -> None:
    assert gc.promote(spelling).dtype is None


@pytest.mark.parametrize("wrong", ["fp8", "int32", torch.int32, 64, ""], ids=repr)
def test_other_dtypes_are_errors(wrong: object) -> None:
    with pytest.raises(gc.OptionError, match="dtype"):  # quirk R14: integers do not pass
        gc.promote(wrong)


def test_promote_rounds_once() -> None:
    # 1 + 3 * 2**-9 in bfloat16: one rounding of the exact result, to even at the tie.
    chain = gc.chain(gc.promote("fp32"), LR)
    optimizer = optimizer_of(chain, torch.ones(1, dtype=torch.bfloat16))
    (after,) = step(optimizer, torch.tensor([-3 * 2.0**-9], dtype=torch.bfloat16))
    assert float(after) == 1 + 2**-7


def test_slots_are_not_promoted() -> None:
    chain = gc.chain(gc.promote("fp64"), gc.first_moment(), LR)
    optimizer = optimizer_of(chain, torch.ones(2))
    step(optimizer, torch.ones(2))
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["first_moment.exp_avg"].dtype == torch.float32


# Master weights.


def master_of(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    (state,) = optimizer.state.values()
    return state["master_weights.master_param"]


def test_small_steps_add_up_in_the_master() -> None:
    optimizer = optimizer_of(gc.chain(gc.master_weights(), LR), torch.ones(1, dtype=torch.bfloat16))
    tiny = torch.full((1,), 2.0**-10, dtype=torch.bfloat16)  # a quarter of the spacing below 1
    seen = [float(step(optimizer, tiny)[0]) for _ in range(4)]
    assert seen == [1.0, 1.0, 1 - 2**-8, 1 - 2**-8]
    assert master_of(optimizer).dtype == torch.float32
    assert float(master_of(optimizer)) == 1 - 4 * 2**-10


def test_no_master_where_the_dtypes_agree() -> None:
    optimizer = optimizer_of(gc.recipe("adams"), torch.ones(3), torch.ones(3, dtype=torch.bfloat16))
    states = list(optimizer.state.values())
    assert "master_weights.master_param" not in states[0]  # quirk A9: nothing that could alias the parameter
    assert states[1]["master_weights.master_param"].dtype == torch.float32


def test_the_parameter_is_the_rounded_master() -> None:
    optimizer = optimizer_of(gc.chain(gc.master_weights(), LR), torch.randn(64).to(torch.bfloat16))
    for seed in range(5):
        torch.manual_seed(seed)
        (after,) = step(optimizer, torch.randn(64).to(torch.bfloat16) * 1e-2)
        assert torch.equal(after, master_of(optimizer).to(torch.bfloat16))


def test_writes_from_outside_are_taken_over() -> None:
    # Quirk A9: with the original they are undone by the next step.
    optimizer = optimizer_of(gc.chain(gc.master_weights(), LR), torch.ones(2, dtype=torch.bfloat16))
    tiny = torch.full((2,), 2.0**-10, dtype=torch.bfloat16)
    step(optimizer, tiny)
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0][0] = 5.0
    step(optimizer, tiny)
    assert master_of(optimizer).tolist() == [5 - 2**-10, 1 - 2 * 2**-10]  # the other element keeps its fraction


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_adams_steps_parameters_of_any_dtype(dtype: torch.dtype) -> None:
    # Quirk A8: the original raises in a single process if the dtypes differ.
    start = torch.linspace(-1, 1, 12).view(3, 4)
    optimizer = optimizer_of(gc.recipe("adams", lr=0.1), start.to(dtype))
    reference = optimizer_of(gc.recipe("adams", lr=0.1, spectral_precision="compute"), start.to(dtype).float())
    for seed in range(3):
        torch.manual_seed(seed)
        grad = torch.randn(3, 4).to(dtype)
        (after,), (expected,) = step(optimizer, grad), step(reference, grad.float())
    # u is kept in the parameter's dtype (quirk A17), so the decay differs a little.
    rtol = 1e-6 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(after.float(), expected, rtol=rtol, atol=rtol)


# Stochastic rounding.


def test_stochastic_round_touches_only_bfloat16() -> None:
    chain = gc.chain(gc.promote("fp64"), LR, gc.stochastic_round())
    for dtype in (torch.float16, torch.float32, torch.float64):
        start, grad = torch.linspace(-1, 1, 64).to(dtype), torch.linspace(0, 0.01, 64).to(dtype)
        (ours,) = step(optimizer_of(chain, start), grad)
        (plain,) = step(optimizer_of(chain.without("stochastic_round"), start), grad)
        assert torch.equal(ours, plain)


def test_stochastic_round_gives_a_neighbour() -> None:
    chain = gc.chain(gc.promote("fp32"), LR, gc.stochastic_round())
    (after,) = step(
        optimizer_of(chain, torch.ones(4096, dtype=torch.bfloat16)), torch.full((4096,), -(2.0**-9)).bfloat16()
    )
    up = (after == 1 + 2**-7).double().mean()
    assert ((after == 1) | (after == 1 + 2**-7)).all()
    assert abs(float(up) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4096)


def test_stochastic_round_needs_something_to_round() -> None:
    for stages in ([LR], [gc.promote(), LR], [gc.promote("bf16"), LR]):
        with pytest.raises(gc.ChainError, match="nothing to round"):
            gc.chain(*stages, gc.stochastic_round())


def test_stochastic_round_contradicts_a_master() -> None:
    with pytest.raises(gc.ChainError, match="contradict"):
        gc.chain(gc.master_weights(), LR, gc.stochastic_round())


def test_places() -> None:
    with pytest.raises(gc.ChainError, match="must come last"):
        gc.chain(gc.promote("fp32"), gc.stochastic_round(), LR)
    for stage in (gc.promote("fp32"), gc.master_weights()):
        with pytest.raises(gc.ChainError, match="must come first"):
            gc.chain(LR, stage)

"""`master_weights("fp24")`: bfloat16 parameters with eight more bits beside them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import gradchain as gc
from gradchain._core.fp24 import join_fp24, split_fp24
from tests import test_export as exported
from tests.transforms.steps import assert_resumes, moves, optimizer_of, step

LR = gc.scale_by_learning_rate(1.0)
BF16, INT8 = torch.bfloat16, torch.int8
KEY = "master_weights.correction"
EVERY = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(BF16)
"""All bfloat16 numbers."""
CODES = torch.tensor([-128, -127, -64, -1, 0, 1, 63, 127], dtype=INT8)


def numbers(count: int = 1 << 16, seed: int = 0) -> torch.Tensor:
    """float32 numbers of random bits: of every size, subnormal ones, some infinite or NaN."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(1 << 31), 1 << 31, (count,), generator=generator).to(torch.int32)
    edges = [0.0, -0.0, 1.0, -1.0, 2.0, 1 - 2**-24, 1.99999988, 2**-126, 2**-149, -(2.0**-133), 3.38e38, float("inf")]
    return torch.cat(
        [bits.view(torch.float32), torch.tensor(edges), -torch.tensor(edges), torch.tensor([float("nan")])]
    )


def noise(like: torch.Tensor, value: int) -> torch.Tensor:
    return torch.full_like(like, value, dtype=torch.int32)


def spacing(x: torch.Tensor) -> torch.Tensor:
    """Between numbers of 24 bits about `x`: a significand of 16 bits, down to the exponent -126. In float64."""
    exponent = torch.frexp(x.double().abs().clamp_min(2.0**-200)).exponent - 1
    return torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent.clamp_min(-126) - 15)


# The numbers.


def test_parameter_and_code_are_the_upper_bytes_of_a_float() -> None:
    param, code = EVERY[:, None].expand(-1, len(CODES)).reshape(-1), CODES.expand(1 << 16, -1).reshape(-1)
    joined = join_fp24(param, code)
    finite = param.isfinite()
    below_zero = (param == 0) & (code < 0)  # left by others: there is nothing between 0 and itself
    wide = param.double()
    toward = torch.nextafter(param.float(), torch.where(code < 0, 0.0, wide.sign() * torch.inf).float())
    gaps = spacing(torch.where(code < 0, toward, param.float()))
    sign = torch.where(param.view(torch.int16) < 0, -1.0, 1.0).double()
    expected = wide + sign * gaps * code.double()
    fits = finite & ~below_zero
    assert torch.equal(joined[fits].double(), expected[fits])
    assert torch.equal(joined[below_zero], param[below_zero].float())
    assert torch.equal(joined[~finite].isnan(), param[~finite].isnan())
    assert torch.equal(joined[param.isinf()], param[param.isinf()].float())
    again, same = split_fp24(joined, noise(joined, 0xFF))  # numbers of 24 bits stay, whatever the noise
    assert torch.equal(again[~param.isnan()].view(torch.int16), param[~param.isnan()].view(torch.int16))
    assert torch.equal(same[fits], code[fits])


@pytest.mark.parametrize("drawn", [0, 1, 127, 128, 255])
def test_rounding_is_that_of_the_reals(drawn: int) -> None:
    x = numbers()
    param, code = split_fp24(x, noise(x, drawn))
    assert (param.dtype, code.dtype) == (BF16, INT8)
    joined = join_fp24(param, code)
    # |x| / spacing, plus drawn / 256, rounded down; in float64 all of it is exact.
    finite = x.isfinite()
    exact, gap = x[finite].double(), spacing(x[finite])
    expected = ((exact.abs() / gap + drawn / 256).floor() * gap).copysign(exact)
    overflow = expected.abs() >= 2.0**128 - 2.0**119  # the nearest bfloat16 number is infinite
    assert torch.equal(joined[finite][~overflow].double(), expected[~overflow])
    assert joined[finite][overflow].isinf().all()
    assert torch.equal(joined.signbit()[finite], x.signbit()[finite])
    assert torch.equal(joined[x.isinf()], x[x.isinf()])
    assert torch.equal(param.isnan(), x.isnan())


def test_the_parameter_is_the_nearest_number() -> None:
    x = numbers(seed=1)
    x = x[x.isfinite()]
    param, code = split_fp24(x, noise(x, 0))
    joined = join_fp24(param, code)
    ties = code == -128
    assert torch.equal(param[~ties], joined.to(BF16)[~ties])
    error = (param.double() - joined.double()).abs()[param.isfinite()]
    nearest = (joined.to(BF16).double() - joined.double()).abs()[param.isfinite()]
    assert torch.equal(error, nearest)  # ties too, which go away from zero


def test_rounding_is_right_on_average() -> None:
    x = torch.full((1 << 16,), 1 + 2**-15 * 0.25)
    bits = torch.randint(1 << 31, x.shape, generator=torch.Generator().manual_seed(0)).to(torch.int32)
    up = (join_fp24(*split_fp24(x, bits)) > 1).double().mean()
    assert abs(float(up) - 0.25) < 0.01


# The stage.


def chain_of(master: str = "fp24", storage: str = "int8", lr: float = 1e-3) -> gc.Chain:
    kept = gc.recipe("adamw", lr=lr).with_options(**{"first_moment.storage": storage, "second_moment.storage": storage})
    return kept.insert_before("first_moment", gc.master_weights(master))


def grads(count: int, shape: tuple[int, ...] = (64, 40)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).to(BF16) for _ in range(count)]


def start(shape: tuple[int, ...] = (64, 40)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)).to(BF16)


@pytest.mark.parametrize("spelling", ["fp24", " FP24 "])
def test_spellings(spelling: str) -> None:
    assert gc.master_weights(spelling) == gc.master_weights("fp24")
    assert gc.Chain.from_config(gc.chain(gc.master_weights(spelling), LR).to_config())["master_weights"].dtype == "fp24"


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (BF16, {"correction": INT8}),
        (torch.float16, {"master_param": torch.float32}),
        (torch.float32, {}),
        (torch.float64, {}),
    ],
    ids=str,
)
def test_what_is_kept_for_each_dtype(dtype: torch.dtype, kept: dict[str, torch.dtype]) -> None:
    optimizer = optimizer_of(gc.chain(gc.master_weights("fp24"), LR), torch.ones(3, dtype=dtype))
    step(optimizer, torch.ones(3, dtype=dtype))
    (state,) = optimizer.state.values()
    assert {key.rpartition(".")[2]: x.dtype for key, x in state.items() if key != "step"} == kept
    (param,) = optimizer.param_groups[0]["params"]
    assert optimizer.master_param(param).dtype == (dtype if dtype.itemsize >= 4 else torch.float32)


def test_stochastic_rounding_is_refused_beside_it() -> None:
    with pytest.raises(gc.ChainError, match="contradict"):
        gc.chain(gc.master_weights("fp24"), LR, gc.stochastic_round())


def test_small_steps_add_up() -> None:
    optimizer = optimizer_of(gc.chain(gc.master_weights("fp24"), LR), torch.ones(1, dtype=BF16))
    tiny = torch.full((1,), 2.0**-10, dtype=BF16)  # a quarter of the spacing below 1
    assert [float(step(optimizer, tiny)[0]) for _ in range(4)] == [1.0, 1.0, 1 - 2**-8, 1 - 2**-8]
    (param,) = optimizer.param_groups[0]["params"]
    assert float(optimizer.master_param(param)) == 1 - 4 * 2**-10


@pytest.mark.parametrize("lr", [1e-4, 1e-6])
def test_tiny_steps_move_what_bfloat16_cannot(lr: float) -> None:
    """`lr` is a fortieth, and a four thousandth, of the spacing of bfloat16; the latter a sixteenth of that of 24 bits."""
    held, steps = torch.ones(1024, dtype=BF16), 250
    moved = {}
    for first in (gc.master_weights("fp24"), gc.promote("fp32")):
        optimizer = optimizer_of(gc.chain(first, gc.sign(), gc.scale_by_learning_rate(lr)), held)
        for _ in range(steps):
            step(optimizer, torch.ones_like(held))
        moved[first] = 1 - optimizer.master_param(optimizer.param_groups[0]["params"][0]).double().mean()
    plain, ours = moved[gc.promote("fp32")], moved[gc.master_weights("fp24")]
    assert float(plain) == 0
    assert abs(float(ours) - steps * lr) < 0.03 * steps * lr


def test_half_precision_adamw_stays_near_float32() -> None:
    """The master after 300 steps, against a float32 run with the same gradients: a fiftieth of bfloat16's error."""
    wide, narrow, plain = (
        optimizer_of(chain, start().to(dtype))
        for chain, dtype in (
            (gc.recipe("adamw"), torch.float32),
            (chain_of(storage="fp32"), BF16),
            (chain_of("fp32", "fp32").replace("master_weights", gc.promote("fp32")), BF16),
        )
    )
    for g in grads(300):
        for optimizer, grad in ((wide, g.float()), (narrow, g), (plain, g)):
            step(optimizer, grad)
    target, ours, theirs = (o.master_param(o.param_groups[0]["params"][0]).double() for o in (wide, narrow, plain))
    assert (ours - target).norm() < 0.02 * (theirs - target).norm()
    assert (ours - target).norm() < 0.015 * (target - start().double()).norm()  # 300 roundings of 2**-15, at random


@pytest.mark.parametrize("recipe", ["adamw", "lion", "adams", "rose"])
def test_the_parameter_is_the_rounded_master(recipe: str) -> None:
    chain = gc.recipe(recipe)
    if recipe == "rose":
        chain = chain.without("stochastic_round").replace("promote", gc.master_weights("fp24"))
    elif recipe == "adams":
        chain = gc.recipe("adams", master_dtype="fp24")
    else:
        chain = chain.insert_before(chain.names[0], gc.master_weights("fp24"))
    optimizer = optimizer_of(chain, start())
    (param,) = optimizer.param_groups[0]["params"]
    for g in grads(4):
        step(optimizer, g)
        master, code = optimizer.master_param(param), optimizer.state[param][KEY]
        assert torch.equal(master.to(BF16)[code != -128], param[code != -128])
        assert not torch.equal(master, param.float())


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["adamw", "lion"])
def test_resuming_is_exact(recipe: str, compile: bool) -> None:
    chain = gc.recipe(recipe).insert_before(gc.recipe(recipe).names[0], gc.master_weights("fp24"))
    assert_resumes(lambda: gc.Optimizer([nn.Parameter(start())], chain, compile=compile), grads(9))


def test_resuming_from_a_file_in_five_bytes() -> None:
    def make() -> tuple[nn.Module, gc.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 70), nn.Tanh(), nn.Linear(70, 5)).to(BF16)
        optimizer = gc.Optimizer(model, chain_of(lr=0.01), compile=False)
        gc.step_in_backward(optimizer)
        return model, optimizer

    def train(model: nn.Module, first: int, last: int) -> None:
        for seed in range(first, last):
            x = torch.randn(16, 30, generator=torch.Generator().manual_seed(seed)).to(BF16)
            (model(x).float() - x[:, :5].float()).square().mean().backward()

    model, whole = make()
    train(model, 0, 4)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": whole.state_dict()}, file)
    train(model, 4, 8)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, again = make()
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    train(other, 4, 8)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert torch.equal(whole.master_param(one), again.master_param(name))
        assert all(torch.equal(x, again.state[two][key]) for key, x in whole.state[one].items())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64), (3, 1000), (4099,)], ids=str)
def test_compiled_is_eager_bit_for_bit(shape: tuple[int, ...]) -> None:
    chain = gc.chain(gc.master_weights("fp24"), gc.sign(), gc.scale_by_learning_rate(1e-5))
    eager, compiled = (gc.Optimizer([nn.Parameter(start(shape))], chain, compile=c) for c in (False, True))
    for optimizer in (eager, compiled):
        moves(optimizer, grads(5, shape))
    (one,), (two,) = eager.param_groups[0]["params"], compiled.param_groups[0]["params"]
    assert torch.equal(one, two)
    assert torch.equal(eager.state[one][KEY], compiled.state[two][KEY])
    assert eager.state[one][KEY].unique().numel() > 1


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (7,), (5, 4, 3, 2)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    optimizer = optimizer_of(chain_of(), start(shape))
    (param,) = optimizer.param_groups[0]["params"]
    for g in grads(3, shape):
        step(optimizer, g)
    assert param.isfinite().all()
    assert optimizer.state[param][KEY].shape == optimizer.master_param(param).shape == shape


# What others write.


def written(change: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The parameter after a change, its master then, and the correction that was there."""
    optimizer = optimizer_of(chain_of(lr=1e-3), start())
    (param,) = optimizer.param_groups[0]["params"]
    for g in grads(3):
        step(optimizer, g)
    left = optimizer.state[param][KEY].clone()
    with torch.no_grad():
        change(param)
    return param.detach(), optimizer.master_param(param), left


def test_what_others_write_stays_but_for_half_a_unit() -> None:
    param, master, left = written(lambda p: p.copy_(start().flip(0)))
    assert left.count_nonzero() > 2000
    assert torch.equal(param, start().flip(0))
    assert torch.equal(master.to(BF16)[left != -128], param[left != -128])
    assert ((master - param.float()).abs() <= 2**-8 * param.float().abs()).all()


def test_what_others_set_to_zero_is_zero() -> None:
    _, master, _ = written(torch.Tensor.zero_)
    assert float(master.abs().max()) < 1e-39


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_is_seen_as_it_is(value: float) -> None:
    _, master, _ = written(lambda p: p.fill_(value))
    torch.testing.assert_close(master, torch.full_like(master, value), equal_nan=True)


def test_a_model_loaded_before_the_first_step_has_no_correction() -> None:
    optimizer = optimizer_of(chain_of(), start())
    (param,) = optimizer.param_groups[0]["params"]
    with torch.no_grad():
        param.copy_(start().flip(0))
    assert torch.equal(optimizer.master_param(param), start().flip(0).float())


# Reading masters.


def test_masters_of_every_kind() -> None:
    chains = {
        "fp24": gc.chain(gc.master_weights("fp24"), LR),
        "fp32": gc.chain(gc.master_weights("fp32"), LR),
        "fp64": gc.chain(gc.promote("fp64"), LR),
        "bf16": gc.chain(LR),
    }
    seen = {}
    for name, chain in chains.items():
        optimizer = optimizer_of(chain, torch.ones(2, dtype=BF16))
        step(optimizer, torch.full((2,), 2.0**-10, dtype=BF16))
        master = optimizer.master_param(optimizer.param_groups[0]["params"][0])
        seen[name] = (master.dtype, float(master[0]))
        master.zero_()  # a copy
        assert optimizer.param_groups[0]["params"][0].tolist() == [1.0, 1.0]
    below = 1 - 2**-10
    assert seen == {
        "fp24": (torch.float32, below), "fp32": (torch.float32, below), "fp64": (torch.float64, 1.0), "bf16": (BF16, 1.0)
    }  # fmt: skip


def test_the_master_of_a_frozen_parameter_is_itself() -> None:
    frozen, trained = (nn.Parameter(torch.ones(2, dtype=BF16)) for _ in range(2))
    frozen.requires_grad_(False)
    optimizer = gc.Optimizer([("frozen", frozen), ("trained", trained)], chain_of(), compile=False)
    assert optimizer.master_param("frozen").tolist() == [1.0, 1.0]
    assert frozen not in optimizer.state
    with pytest.raises(gc.OptionError, match="frozn"):
        optimizer.master_param("frozn")
    with pytest.raises(gc.OptionError, match="pass a name"):
        optimizer.master_param(3)  # type: ignore[arg-type]


def test_the_master_is_that_of_training_in_eval_mode() -> None:
    chain = gc.chain(gc.master_weights("fp24"), gc.scale_by_learning_rate(0.01), gc.average_weights(0.9))
    optimizer = optimizer_of(chain, start())
    (param,) = optimizer.param_groups[0]["params"]
    for g in grads(3):
        step(optimizer, g)
    trained = optimizer.master_param(param)
    optimizer.eval()
    assert not torch.equal(param, trained.to(BF16))
    assert torch.equal(optimizer.master_param(param), trained)


# Bytes.


def test_five_bytes_a_parameter() -> None:
    """bfloat16, the correction, two moments of a byte; a float32 scale for 2048 elements of a moment; a count of steps."""
    model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.ReLU(), nn.Linear(512, 64)).to(BF16)
    optimizer = gc.Optimizer(model, chain_of(), compile=False)
    hooks = gc.step_in_backward(optimizer)
    model(torch.randn(4, 512).to(BF16)).float().square().mean().backward()
    hooks.remove()
    assert all(p.grad is None for p in model.parameters())
    params = list(model.parameters())
    held = [x for state in optimizer.state.values() for x in state.values()]
    count = sum(p.numel() for p in params)
    total = sum(x.numel() * x.element_size() for x in [*params, *held])
    scales = sum(2 * 4 * -(-p.numel() // 2048) for p in params)
    assert total == 5 * count + scales + 8 * len(params)
    assert optimizer.chain.state_bytes(model) == 3 * count + scales
    assert total / count < 5.005
    assert copy.deepcopy(optimizer).state_dict()["state"][0][KEY].dtype == INT8


@pytest.mark.slow
def test_exported_files_step_alike() -> None:
    chain = gc.chain(gc.master_weights("fp24"), gc.first_moment(storage="fp32"), gc.scale_by_learning_rate(1e-3))
    assert exported.check(chain, gc.export(chain, dtypes=("bf16",)), BF16) == 0

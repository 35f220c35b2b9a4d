"""The arctangent of two polynomials: near, the same wherever an element stands, and like C's for special values."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch

import gradchain as gc
from gradchain._chain.tracing import traits_of
from gradchain._engine.inductor import compile_graph, trace
from gradchain.ops import _angle, arctan_ratio, arctangent

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FUNCTIONS = {"arctangent": arctangent, "arctan_ratio": arctan_ratio}
over_both = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())

SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 5e-324, 1e-45, 1e-38, -1e-38, 3e38, -3e38, 2.5, 1e300]


@pytest.fixture(autouse=True)
def without_gradients() -> object:
    with torch.no_grad():
        yield


def ulps(found: torch.Tensor, exact: torch.Tensor) -> float:
    """How many units in the last place some numbers are off, at most."""
    info = torch.finfo(found.dtype)
    exponent = torch.frexp(exact)[1].clamp(min=round(math.log2(info.smallest_normal)) + 1)
    unit = torch.ldexp(torch.full_like(exact, info.eps / 2), exponent)
    return float(((found.double() - exact).abs() / unit).max())


def bits(shape: int, low: int, high: int) -> torch.Tensor:
    """Numbers whose bits are drawn: of all sizes alike."""
    return torch.randint(low, high, (shape,), dtype=torch.int32).view(torch.float32)


INFINITE = 0xFF << 23
N = 1 << 18
GRIDS: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {
    "normal": lambda: (torch.randn(N), torch.randn(N)),
    "every size": lambda: (bits(N, 0, INFINITE), bits(N, 0, INFINITE)),
    "subnormal": lambda: (bits(N, 0, 1 << 23), bits(N, 0, 1 << 24)),
    "near the diagonal": lambda: (1 + torch.randn(N) * 1e-5, torch.ones(N)),
    "below the diagonal": lambda: (torch.linspace(0, 1, N), torch.ones(N)),
    "above the diagonal": lambda: (torch.ones(N), torch.linspace(0, 1, N)),
    "overflow of the quotient": lambda: (bits(N, INFINITE - (1 << 27), INFINITE), bits(N, 0, 1 << 27)),
    "underflow of the quotient": lambda: (bits(N, 0, 1 << 27), bits(N, INFINITE - (1 << 27), INFINITE)),
    "products overflow": lambda: (torch.randn(N) * 1e30, torch.randn(N) * 1e30),
    "products underflow": lambda: (torch.randn(N) * 1e-30, torch.randn(N) * 1e-30),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_it_is_near(grid: str) -> None:
    torch.manual_seed(0)
    y, x = GRIDS[grid]()
    for sign_of_y, sign_of_x in itertools.product((1, -1), repeat=2):
        exact = torch.atan2((sign_of_y * y).double(), (sign_of_x * x).double())
        assert ulps(arctangent(sign_of_y * y, sign_of_x * x), exact) <= 2
    assert ulps(arctan_ratio(y, x.abs()), torch.atan2(y.double(), x.abs().double())) <= 2


def bounds(step: int) -> list[float]:
    """The largest errors over every `step`-th quotient `t` and over all that it may be the rounding of.

    What is made of `y` and `x` depends on `t` and on which of the two is larger, so this covers the plane.
    """
    low, high = (int(torch.tensor(t).view(torch.int32)) for t in (2.0**-13, 1.0))
    worst = [0.0] * 4
    for first in range(low, high + 1, step << 22):
        t = torch.arange(first, min(first + (step << 22), high + 1), step, dtype=torch.int32).view(torch.float32)
        exact = torch.atan(t.double())
        slack = torch.ldexp(torch.ones_like(exact), torch.frexp(t)[1] - 25) / (1 + t.double().square())
        one = torch.ones_like(t)
        angles = exact, math.pi / 2 - exact, math.pi - exact, math.pi / 2 + exact
        found = arctan_ratio(t, one), arctan_ratio(one, t), arctangent(t, -one), arctangent(one, -t)
        for place, (wanted, got) in enumerate(zip(angles, found)):
            unit = torch.ldexp(torch.ones_like(wanted), torch.frexp(wanted)[1] - 24)
            worst[place] = max(worst[place], float((((got.double() - wanted).abs() + slack) / unit).max()))
    return worst


def test_no_quotient_is_off_by_two_units() -> None:
    assert max(bounds(997)) < 2


@pytest.mark.slow
def test_no_quotient_at_all_is_off_by_two_units() -> None:
    assert max(bounds(1)) < 2


def test_it_is_near_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = torch.randn(2, 20_000, generator=generator, dtype=torch.float64)
    y, x = torch.cat([y, y * torch.exp(100 * x)]), torch.cat([x, x * torch.exp(100 * y)])
    for function, given in ((arctangent, x), (arctan_ratio, x.abs())):
        exact = torch.tensor([math.atan2(*pair) for pair in zip(y.tolist(), given.tolist())], dtype=torch.float64)
        assert ulps(function(y, given), exact) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_special_values(dtype: torch.dtype) -> None:
    y, x = torch.cartesian_prod(*2 * [torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)]).unbind(1)
    expected = torch.tensor([math.atan2(*pair) for pair in zip(y.tolist(), x.tolist())], dtype=torch.float64)
    found = arctangent(y, x)
    exact = (y == 0) | (x == 0) | y.isinf() | x.isinf() | (y.abs() == x.abs()) | y.isnan() | x.isnan()
    assert_same(found[exact], expected[exact].to(dtype))
    assert_same(torch.signbit(found), torch.signbit(expected.where(found == found, found.double())))
    kept = ~torch.signbit(x)
    assert_same(arctan_ratio(y[kept], x[kept]), found[kept])


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The same bits, but for those of NaNs."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    number = ~ours.isnan()
    assert torch.equal(torch.signbit(ours[number]), torch.signbit(theirs[number]))


def test_in_half_precision_it_is_rounded_once() -> None:
    y, x = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(arctangent(y, x), arctangent(y.float(), x.float()).bfloat16())
    assert arctan_ratio(y, x.abs()).dtype == torch.bfloat16


def test_shapes_and_dtypes() -> None:
    y, x = torch.randn(5, 1), torch.rand(3)
    whole = [part.contiguous() for part in torch.broadcast_tensors(y, x)]
    for function in FUNCTIONS.values():
        assert torch.equal(function(y, x), function(*whole))
        assert function(y, torch.tensor(2.0, dtype=torch.float64)).dtype == torch.float32  # a number of no dimensions
        assert function(y[:0], x[:1]).shape == (0, 1)
        assert function(y[0, 0], x[0]).shape == ()
        assert torch.equal(function(whole[0].T, whole[1].T), function(*whole).T)


def test_it_writes_into_nothing_it_is_given() -> None:
    y, x = torch.randn(2, 50)
    before = y.clone(), x.clone()
    for function in FUNCTIONS.values():
        function(y, x)
    assert torch.equal(y, before[0])
    assert torch.equal(x, before[1])


# The same wherever an element stands.


def mixed(numel: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(numel)
    y, x = torch.randn(2, numel, generator=generator) * torch.exp(8 * torch.randn(2, numel, generator=generator))
    y[::7], x[::11], x[::13], y[::17] = 0.0, 0.0, math.inf, -math.inf
    return y, x


@over_both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pieces_are_parts_of_the_whole(function: Function, dtype: torch.dtype) -> None:
    y, x = (part.to(dtype) for part in mixed(999))
    whole = function(y, x)
    for start, length in itertools.product((0, 1, 3, 16, 500), (1, 2, 7, 15, 16, 33, 499)):
        piece = slice(start, start + length)
        assert_same(function(y[piece], x[piece]), whole[piece])
    assert_same(torch.stack([function(a, b) for a, b in zip(y, x)]), whole)


@over_both
def test_large_tensors_are_computed_in_tiles(function: Function, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = mixed(5000)
    whole, sizes = function(y, x), list[int]()
    original = _angle.parts
    monkeypatch.setattr(_angle, "TILE", 1024)

    def counted(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(a.numel())
        return original(a, b)

    monkeypatch.setattr(_angle, "parts", counted)
    assert_same(function(y, x), whole)
    assert_same(function(y.view(50, 100).T, x.view(50, 100).T), whole.view(50, 100).T)
    assert sizes == 2 * [1024, 1024, 1024, 1024, 904]


def compiled(function: Function, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        return compile_graph(trace(lambda *both: [function(*both)], (y, x)), (y, x))(y, x)[0]


@over_both
@pytest.mark.parametrize("numel", [1, 15, 1000])
def test_compiled_is_eager(function: Function, numel: int) -> None:
    y, x = mixed(numel)
    assert_same(compiled(function, y, x), function(y, x))


@pytest.mark.slow
@over_both
def test_compiled_is_eager_for_threads_and_double_precision(function: Function) -> None:
    y, x = mixed((1 << 19) + 5)
    assert_same(compiled(function, y, x), function(y, x))
    y, x = y[:1001].double(), x[:1001].double()
    assert_same(compiled(function, y, x), function(y, x))


LR = gc.scale_by_learning_rate(0.1)
CHAINS: dict[str, list[gc.Stage]] = {
    "atan2_scale": [gc.second_moment(0.9), gc.atan2_scale(), LR],
    "snr": [gc.sign(), gc.first_moment(0.9, bias_correction=False), gc.snr_precondition(), LR],
    "fisher": [gc.second_moment(0.9), gc.fisher_decay("atan2"), gc.atan2_scale(), LR, gc.decoupled_decay(0.1)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_exact_by_place(name: str) -> None:
    param = torch.zeros(3, 5)
    assert traits_of(gc.chain(*CHAINS[name]).route("", param), param).exact


# Derivatives.


@over_both
def test_slopes_are_those_of_atan2(function: Function) -> None:
    with torch.enable_grad():
        y = torch.tensor([1.0, -2.0, 3.0, 1e-3, 0.0], dtype=torch.float64, requires_grad=True)
        x = torch.tensor([0.5, 1.0, 2.0, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(function, (y, x))
        assert torch.autograd.gradgradcheck(function, (y, x))
        ours, theirs = (torch.autograd.grad(f(y, x).sum(), (y, x)) for f in (function, torch.atan2))
    assert all(map(torch.equal, ours, theirs))


@over_both
def test_slopes_are_finite_at_zero(function: Function) -> None:
    with torch.enable_grad():
        y, x = (torch.tensor([0.0, -0.0], requires_grad=True) for _ in range(2))
        first = torch.autograd.grad(function(y, x).sum(), (y, x), create_graph=True)
        again = torch.autograd.grad(first[0].sum() + first[1].sum(), (y, x), allow_unused=True)
        theirs = torch.autograd.grad(torch.atan2(y, x).sum(), (y, x))
    for ours, other in zip(first, theirs):
        assert torch.equal(ours, other)  # 0
    assert all(slope is None or slope.isfinite().all() for slope in again)


@over_both
def test_the_value_is_the_same_with_gradients(function: Function) -> None:
    y, x = mixed(999)
    x = x.abs() if function is arctan_ratio else x
    expected = function(y, x)
    with torch.enable_grad():
        found = function(y.requires_grad_(), x)
    assert_same(found.detach(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
@over_both
def test_under_functorch(function: Function) -> None:
    y, x = mixed(12)
    with torch.enable_grad():
        assert_same(torch.func.vmap(function, (None, 0))(y[0], x), function(y[:1].expand(12), x).detach())
        assert_same(torch.func.vmap(function, (0, None))(y, x[1]), function(y, x[1:2].expand(12)).detach())
        ones = torch.ones(3, dtype=torch.float64)
        value, slope, *_ = torch.func.jvp(function, (ones, 2 * ones), (ones, 0 * ones))
    torch.testing.assert_close(value, torch.full_like(ones, math.atan(0.5)))
    torch.testing.assert_close(slope, torch.full_like(ones, 2 / 5))

"""The text of what is computed: equal for equal computations, and for no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

import gradchain as gc
from gradchain._engine import kernel
from gradchain._engine.transcript import Untold, transcript
from tests.laws.cases import CASES

Function = Callable[..., Sequence[torch.Tensor]]

MATRIX = torch.empty(6, 4)


def in_place(x: torch.Tensor) -> list[torch.Tensor]:
    return [x.t()[0].add_(x[0, 0])]


def number(of: float) -> Function:
    return lambda x: [x * of]


def constant(of: float) -> Function:
    return lambda x: [x + torch.tensor([of, 0.25, 1.0, 2.0])]


def on_its_device(of: float) -> Function:
    return lambda x: [x + torch.full((), of, device=x.device)]


def where_it_is(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 2 if x.device.type == "cpu" else x * 3]


PAIRS: dict[str, tuple[Function, Function]] = {
    "a number": (number(0.1), number(0.1 + 2**-56)),
    "a sign of zero": (number(0.0), number(-0.0)),
    "a type": (number(2), number(2.0)),
    "a tensor of its own": (constant(0.1), constant(0.2)),
    "a tensor made where the input is": (on_its_device(0.1), on_its_device(0.2)),
    "an operation": (lambda x: [x.add(x)], lambda x: [x.mul(x)]),
    "an order": (lambda x: [x[0] - x[1]], lambda x: [x[1] - x[0]]),
    "a place": (lambda x: [x[0]], lambda x: [x[1]]),
    "what is returned": (lambda x: [x * 2, x + 1][:1], lambda x: [x * 2, x + 1][1:]),
    "in place or not": (lambda x: [x.add_(1)], lambda x: [x.add(1)]),
    "a dtype": (lambda x: [x.double().sum()], lambda x: [x.sum(dtype=torch.float64)]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_different_computations_have_different_texts(pair: tuple[Function, Function]) -> None:
    one, other = (transcript(function, [MATRIX]) for function in pair)
    assert one != other


@pytest.mark.parametrize("function", [in_place, where_it_is, number(2), constant(3), on_its_device(1)])
def test_equal_computations_have_equal_texts(function: Function) -> None:
    assert transcript(function, [MATRIX]) == transcript(function, [MATRIX.clone()])


@pytest.mark.parametrize(
    "example",
    [torch.empty(6, 5), torch.empty(4, 6).t(), torch.empty(6, 4, dtype=torch.float64), torch.empty(12, 4)[::2]],
    ids=["shape", "strides", "dtype", "a part"],
)
def test_other_tensors_have_other_texts(example: torch.Tensor) -> None:
    assert transcript(number(2), [MATRIX]) != transcript(number(2), [example])


def test_it_takes_no_memory_and_writes_nothing() -> None:
    huge = torch.empty(1 << 40, device="meta")
    assert transcript(lambda x: [x.mul_(2).sum()], [huge])
    given = torch.ones(3)
    transcript(lambda x: [x.mul_(2)], [given])
    assert torch.equal(given, torch.ones(3))
    assert given._version == 0


def test_stand_ins_stand_on_a_cpu() -> None:
    assert "[%0, 2]" in transcript(where_it_is, [MATRIX])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * x.sum().item()],
        lambda x: [x if bool(x.sum() > 0) else -x],
        lambda x: [x[x > 0]],
        lambda x: [x.nonzero()],
    ],
    ids=["item", "bool", "mask", "nonzero"],
)
def test_what_depends_on_elements_has_none(function: Function) -> None:
    with pytest.raises(Exception, match=r".+"):
        transcript(function, [MATRIX])


def test_a_large_tensor_of_its_own_has_none() -> None:
    own = torch.rand(2000)
    with pytest.raises(Untold, match="large"):
        transcript(lambda x: [x + own], [torch.empty(2000)])


VARIANTS = {case for case in CASES if ":" in case or "/" in case}


@pytest.mark.parametrize("case", [pytest.param(x, marks=pytest.mark.slow) if x in VARIANTS else x for x in CASES])
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of stages that do nothing to some shapes
def test_all_stages_have_texts(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise their kernels would be looked up by the compiler in each process."""
    told: list[str | None] = []
    before = kernel.name_of

    def name_of(function: Function, *given: object) -> str | None:
        told.append(before(function, *given))  # pyright: ignore
        assert told[-1] == before(function, *given)  # pyright: ignore
        return told[-1]

    monkeypatch.setattr(kernel, "name_of", name_of)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(16, 8), (9, 4, 3), (70,)]]
    optimizer = gc.Optimizer(params, CASES[case].chain, compile=True)
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer.step()
    assert None not in told

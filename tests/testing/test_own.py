"""Our transforms and the classes of gradchain.optim keep all laws.

The fast tests leave out what takes seconds: compilation, and the search for options without effect. On one core they take
20 s; all laws of all take five minutes, and are slow.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import gradchain
from gradchain import optim, transforms
from gradchain.testing import check_optimizer, check_transform
from tests.laws.cases import TRANSFORMS as CASES
from tests.testing.peers import OURS

LONG = ("compiled", "compiled_outside", "options_act")

STAGES = {
    name: value
    for name in transforms.__all__
    if inspect.isclass(value := getattr(transforms, name)) and not issubclass(value, gradchain.ExtraEvaluation)
}
"""Those that can be stepped without a closure."""
ARGUMENTS: dict[str, Any] = {
    "clip_by_global_norm": 2.0,
    "clip_by_norm": 0.5,
    "clip_by_value": 0.3,
    "multiply": -0.5,
    "prodigy": 1e-2,  # its first steps are otherwise too short for float32
    "scale_by_learning_rate": 0.05,
}


AS_PUBLISHED = {
    **dict.fromkeys(("schedule_free", "AdamWScheduleFree", "SGDScheduleFree"), ("rate_zero",)),
    **dict.fromkeys(("soap", "SOAP"), ("bfloat16",)),
    **dict.fromkeys(("clip_weights", "clip_weight_norm"), ("rate_zero",)),
    "project_to_sphere": ("rate_zero", "scalars"),
}
"""Laws that something breaks by its definition: the average of Schedule-Free goes on where the learning rate is 0, since
its weights go by the largest rate so far; SOAP's eigenvectors turn with the rounding of gradients where eigenvalues are
close; a constraint is one at any learning rate, and the sphere of a scalar is two points."""


def skipped(name: str, *laws: str) -> tuple[str, ...]:
    return (*laws, *AS_PUBLISHED.get(name, ()))


def stage(name: str) -> gradchain.Stage:
    return STAGES[name](ARGUMENTS[name]) if name in ARGUMENTS else STAGES[name]()


LR = transforms.scale_by_learning_rate(0.05)
AMONG: dict[str, Any] = {
    "as_gradient": {
        "before": [transforms.first_moment(0.8)],
        "after": [transforms.second_moment(0.9), transforms.divide(0.1), LR],
    },
    "belief_moment": {"before": [transforms.first_moment(0.8)], "after": [transforms.divide(0.1), LR]},
    "confidence": {
        "before": [transforms.sign(), transforms.first_moment(0.8, bias_correction=False)],
        "after": [transforms.divide(0.1), LR],
    },
    "divide_by_hessian": {"after": [transforms.clip_by_value(1.0), LR]},
    "full_rank": {"before": [transforms.low_rank(2), transforms.first_moment(0.8)], "after": [LR]},
    "low_rank": {"after": [transforms.first_moment(0.8), transforms.full_rank(), LR]},
    "rectify": {"before": [transforms.second_moment(bias_correction=False)], "after": [LR]},
    "scale_by_low_rank": {"before": [transforms.low_rank(2), transforms.first_moment(0.8)], "after": [LR]},
}
"""The chains of stages that need certain others."""
AROUND: dict[str, Any] = {
    # whether it goes by the parameter or by its master shows where there is one
    "spectral_decay": {"before": [transforms.master_weights()], "after": [LR]},
}

QUICK = (
    "centered_decay",
    "clip_by_global_norm",
    "first_moment",
    "master_weights",
    "range_normalize",
    "stochastic_sign",
)
"""One of each kind."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in STAGES])
def test_a_transform_keeps_the_laws(name: str) -> None:
    check_transform(stage(name), skip=skipped(name, *LONG), **AMONG.get(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize("law", LONG)
@pytest.mark.parametrize("name", STAGES)
def test_a_transform_keeps_the_laws_that_take_long(name: str, law: str) -> None:
    around = AROUND if law == "options_act" and name in AROUND else AMONG
    check_transform(stage(name), only=[law], **around.get(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_transform_keeps_the_laws_with_its_options(case: str) -> None:
    name = case.partition("/")[0]
    elements = [stage for _, stage in CASES[case].chain.route("", torch.zeros(8, 16)).stages]
    (place,) = [at for at, element in enumerate(elements) if type(element).__name__ == name][:1]
    check_transform(elements[place], before=elements[:place], after=elements[place + 1 :], skip=skipped(name, *LONG))


FEW = ("Rose", "Adams", "AdamW")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in optim.CLASSES])
def test_a_class_keeps_the_laws(name: str) -> None:
    (peer,) = (peer for peer in OURS if peer.name == name)
    check_optimizer(peer, skip=skipped(name, *LONG[:2]))


@pytest.mark.parametrize("name", ["schedule_free"])
def test_what_is_skipped_is_broken(name: str) -> None:
    assert check_transform(stage(name), only=AS_PUBLISHED[name], strict=False).failed == AS_PUBLISHED[name]


@pytest.mark.slow
@pytest.mark.parametrize("law", LONG[:2])
@pytest.mark.parametrize("name", optim.CLASSES)
def test_a_class_keeps_the_laws_that_take_long(name: str, law: str) -> None:
    check_optimizer(getattr(optim, name), only=[law])


@pytest.mark.slow
def test_a_recipe_with_edits_keeps_the_laws() -> None:
    check_optimizer(lambda params: optim.FromRecipe(params, "adamw", replace={"divide": "atan2_scale"}))

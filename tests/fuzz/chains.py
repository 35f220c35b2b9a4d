"""Chains that nobody would write: any stages in any order, as long as the contract lets them pass."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

from hypothesis import strategies as st

import gradchain as gc
from gradchain import transforms
from gradchain._core.fields import spec_of
from gradchain.errors import GradchainError
from tests.laws import grammar

STAGES = sorted(
    (kind for kind in vars(transforms).values() if isinstance(kind, type) and issubclass(kind, gc.Stage)),
    key=lambda kind: kind.__name__,
)
NUMBERS = [0.0, 1e-8, 1e-3, 0.05, 0.3, 0.5, 0.9, 0.99, 1.0, 1.5, 2.0, 3.0]
"""Hyperparameters of ordinary size; those that a field does not admit are left out."""

INTEGERS = [0, 1, 2, 3, 7]
CLOSINGS: list[list[gc.Stage]] = [[], [gc.divide()], [gc.atan2_scale()]]


def admitted(kind: type[gc.Stage], field: dataclasses.Field[Any]) -> list[Any]:
    """The values to try for a field: those of its type that its own check lets pass."""
    spec = spec_of(field)
    candidates = [field.default] if field.default is not dataclasses.MISSING else []
    if spec.choices:
        candidates += spec.choices
    elif spec.dynamic:
        candidates += [*NUMBERS, *([None] if spec.optional else []), *([math.inf] if spec.infinite else [])]
    elif "bool" in str(field.type):
        candidates += [True, False]
    elif "int" in str(field.type):
        candidates += INTEGERS
    elif "str" in str(field.type):
        candidates += ["fp32", "bf16", "fp64", None]
    found: list[Any] = []
    for value in candidates:
        with contextlib.suppress(GradchainError):
            if made(kind, {**required(kind), field.name: value}) is not None:
                found.append(value)
    return found


def required(kind: type[gc.Stage]) -> dict[str, Any]:
    """Values for the fields that have no default."""
    bare = [f for f in kind.fields() if f.init and f.default is dataclasses.MISSING]
    return {field.name: 0.5 if spec_of(field).dynamic else 1 for field in bare}


def made(kind: type[gc.Stage], values: dict[str, Any]) -> gc.Stage | None:
    with contextlib.suppress(GradchainError):
        return kind(**values)
    return None


VALUES = {
    kind: {f.name: admitted(kind, f) for f in kind.fields() if f.init and f.name not in ("name", "keys")}
    for kind in STAGES
}


@st.composite
def stages(draw: st.DrawFn) -> gc.Stage:
    """A stage with a few fields off their defaults."""
    kind = draw(st.sampled_from(STAGES))
    fields = VALUES[kind]
    names = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)) if fields else []
    values = {**required(kind), **{name: draw(st.sampled_from(fields[name])) for name in names if fields[name]}}
    return made(kind, values) or kind(**required(kind))


@st.composite
def chains(draw: st.DrawFn) -> gc.Chain:
    """A chain that grows by one stage at a time, where it may; in the end it moves parameters at a learning rate.

    It grows from nothing, from a recipe, or from a chain of the grammar that the laws use, less one of its stages.
    """
    base = draw(st.one_of(st.none(), st.sampled_from(gc.recipes()).map(gc.recipe), grammar.chains))
    if base is not None and draw(st.booleans()):
        with contextlib.suppress(GradchainError):
            base = base.without(draw(st.sampled_from(base.names)))
    grown: list[Any] = [] if base is None else list(base.elements)
    for stage in draw(st.lists(stages(), min_size=1 if base is None else 0, max_size=8 if base is None else 3)):
        for place in dict.fromkeys((len(grown), draw(st.integers(0, len(grown))), 0)):
            longer = [*grown[:place], stage, *grown[place:]]
            if any(_closed(longer, closing) for closing in CLOSINGS):
                grown = longer
                break
    if len(grown) > 2 and draw(st.integers(0, 4)) == 0:  # a part of it, for some parameters only
        at = draw(st.integers(0, len(grown) - 1))
        routed = gc.partition({"matrix": grown[at], "vector": []}, gc.matrix_or_vector)
        split = [*grown[:at], routed, *grown[at + 1 :]]
        grown = split if any(_closed(split, closing) for closing in CLOSINGS) else grown
    return next(found for closing in CLOSINGS if (found := _closed(grown, closing)) is not None)


def _closed(grown: list[Any], closing: list[gc.Stage]) -> gc.Chain | None:
    """The chain that some stages make, with what closes it and the learning rate, if it has none."""
    rated = any("scale_by_learning_rate" in repr(stage) for stage in grown)
    for tail in ([], [gc.scale_by_learning_rate(0.05)]) if rated else ([gc.scale_by_learning_rate(0.05)],):
        for last in range(len(grown), -1, -1):  # stages that must come last stay there
            with contextlib.suppress(GradchainError):
                return gc.chain(*grown[:last], *closing, *tail, *grown[last:])
            if not closing and not tail:
                break
    return None

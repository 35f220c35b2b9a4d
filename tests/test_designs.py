"""Designs: which arms they have, and that their contrasts find effects that were planted."""

from __future__ import annotations

import doctest
import importlib
import itertools
from collections.abc import Callable

import pytest

import gradchain as gc
from gradchain.ablation import designs
from gradchain.ablation.errors import StudyError

STACK = gc.chain(
    gc.centralize(), gc.clip_by_value(0.5), gc.orthograd(), gc.first_moment(), gc.sign(), gc.multiply(2.0),
    gc.scale_by_learning_rate(0.1),
)  # fmt: skip
"""A chain of which any stage can be removed."""

FREE = STACK.names[:-1]
ADAMW, ROSE = gc.recipe("adamw"), gc.recipe("rose")

DESIGNS: dict[str, Callable[[], designs.Design]] = {
    "leave_one_out": lambda: designs.leave_one_out(ROSE),
    "leave_one_out, adams": lambda: designs.leave_one_out(gc.recipe("adams"), ("adamw", ADAMW)),
    "add_one_in": lambda: designs.add_one_in("sgd", "adamw"),
    "add_one_in, path": lambda: designs.add_one_in("sgd", "adamw", path=True),
    "swap": lambda: designs.swap(ROSE, "divide", ["atan2_scale", gc.atan2_scale(a=1.27), "divide(eps=1e-8)"]),
    "orders": lambda: designs.orders(STACK),
    "sweep": lambda: designs.sweep(ADAMW, "betas", [(0.9, 0.9), (0.9, 0.999), (0.5, 0.9)]),
    "factorial": lambda: designs.factorial(STACK, FREE[:3]),
    "factorial, a fraction": lambda: designs.factorial(STACK, FREE, resolution=4),
    "interactions": lambda: designs.interactions(STACK, FREE[:3]),
    "edited": lambda: designs.edited(ROSE, ["-centralize", "lr = 0.1; -cv_trust_gate"]),
}


@pytest.mark.parametrize("made", DESIGNS.values(), ids=DESIGNS)
def test_every_design(made: Callable[[], designs.Design]) -> None:
    design = made()
    reference = design.arms[0]
    assert design.reference == reference.label
    assert reference.edits == ""
    assert len(design.arms) > 1
    assert len({arm.label for arm in design.arms}) == len({arm.chain for arm in design.arms}) == len(design.arms)
    for arm in design.arms:
        assert reference.chain.edit(arm.edits) == arm.chain
        assert "\n" not in arm.edits
    for contrast in design.contrasts:
        assert {label for label, _ in contrast.weights} <= {arm.label for arm in design.arms}
        assert sum(weight for _, weight in contrast.weights) == pytest.approx(0)
    assert len({contrast.label for contrast in design.contrasts}) == len(design.contrasts)


# Planted effects.

ALONE = dict(zip(FREE, (1.0, -2.0, 0.5, 4.0, 0.0, -0.25)))
PAIRS = {(FREE[0], FREE[1]): 3.0, (FREE[2], FREE[3]): -1.5}


def planted(chain: gc.Chain) -> float:
    """A metric that the stages of a chain add up to, two of them together with an effect of their own."""
    alone = sum(effect for name, effect in ALONE.items() if name in chain)
    return alone + sum(effect for (one, other), effect in PAIRS.items() if one in chain and other in chain)


def estimates(design: designs.Design) -> dict[str, float]:
    values = {arm.label: planted(arm.chain) for arm in design.arms}
    return {c.label: sum(weight * values[label] for label, weight in c.weights) for c in design.contrasts}


def test_a_factorial_finds_what_was_planted() -> None:
    found = estimates(designs.factorial(STACK, FREE))
    for name in FREE:
        partners = sum(effect for pair, effect in PAIRS.items() if name in pair)
        assert found[name] == pytest.approx(ALONE[name] + partners / 2), "the mean over where its partner is and is not"
    for one, other in itertools.combinations(FREE, 2):
        assert found[f"{one} x {other}"] == pytest.approx(PAIRS.get((one, other), 0.0))


@pytest.mark.parametrize("count", [4, 5, 6])
def test_a_fraction_finds_the_effects_of_stages(count: int) -> None:
    design = designs.factorial(STACK, FREE[:count], resolution=4)
    assert len(design.arms) == {4: 8, 5: 16, 6: 16}[count]
    found = estimates(design)
    assert [*found] == [*FREE[:count]]
    for name in FREE[:count]:
        partners = sum(effect for pair, effect in PAIRS.items() if name in pair and {*pair} <= {*FREE[:count]})
        assert found[name] == pytest.approx(ALONE[name] + partners / 2), "free of the effects of pairs"


def test_what_a_fraction_cannot_tell_apart_is_said() -> None:
    design = designs.factorial(STACK, FREE[:4], resolution=4)
    assert design.notes[0].startswith("8 of 16 combinations, resolution IV")
    a, b, c, d = FREE[:4]
    assert design.notes[1:] == (
        f"cannot be told apart: {a} x {b}, {c} x {d}.",
        f"cannot be told apart: {a} x {c}, {b} x {d}.",
        f"cannot be told apart: {a} x {d}, {b} x {c}.",
    )


def test_interactions_find_what_was_planted() -> None:
    found = estimates(designs.interactions(STACK, FREE[:4]))
    assert found == {
        f"{one} x {other}": pytest.approx(PAIRS.get((one, other), 0.0))
        for one, other in itertools.combinations(FREE[:4], 2)
    }
    full = estimates(designs.factorial(STACK, FREE[:4]))
    assert all(full[label] == pytest.approx(value) for label, value in found.items())


def test_a_path_adds_up() -> None:
    bare = STACK.without(*FREE[:3])
    design = designs.add_one_in(bare, STACK, path=True)
    found = estimates(design)
    assert sum(found.values()) == pytest.approx(planted(STACK) - planted(bare))
    assert [*found.values()] == pytest.approx([1.0, -2.0 + 3.0, 0.5 - 1.5])
    assert [arm.chain for arm in design.arms] == [
        bare, STACK.without(*FREE[1:3]), STACK.without(FREE[2]), STACK,
    ]  # fmt: skip


# One design after the other.


@pytest.mark.parametrize("name", gc.recipes())
def test_from_adamw_to_any_recipe(name: str) -> None:
    target = gc.recipe(name)
    if target == ADAMW:
        with pytest.raises(StudyError, match="Base and target are the same chain"):
            designs.add_one_in("adamw", name)
        return
    for path in (False, True):
        design = designs.add_one_in("adamw", name, path=path)
        assert design.arms[0].chain == ADAMW
        assert design.arms[-1].chain == target
        assert all(arm.kind == "with" for arm in design.arms[1:])
    assert sum(len(contrast.weights) for contrast in design.contrasts) == 2 * (len(design.arms) - 1)


def test_edits_that_need_each_other_are_made_together() -> None:
    design = designs.add_one_in("sgd", gc.recipe("adamw").without("decoupled_decay"))
    assert [arm.label for arm in design.arms] == [
        "base",
        "-add_decayed_weights",
        "+first_moment",
        "+second_moment; +divide(eps=1e-08)",
        "target",
    ]
    both = "made together as '+second_moment; +divide(eps=1e-08)'"
    assert [note.partition(" scale_by")[0].partition(" divide needs")[0] for note in design.notes] == [
        f"+second_moment cannot be made alone: {both}.",
        f"+divide(eps=1e-08) cannot be made alone: {both}, which is the arm of these already.",
    ]


def test_swap() -> None:
    design = DESIGNS["swap"]()
    assert [arm.label for arm in design.arms] == [
        "full",
        "divide -> atan2_scale()",
        "divide -> atan2_scale(a=1.27)",
        "divide -> divide(eps=1e-08)",
    ]
    with pytest.raises(gc.ChainError, match="pending"):
        designs.swap(ROSE, "divide", ["sign"])
    with pytest.raises(StudyError, match="nothing to compare"):
        designs.swap(ROSE, "divide", ["divide"])


def test_orders_that_are_not_sound_are_notes() -> None:
    design = designs.orders(ROSE)
    assert all(arm.kind == "edited" for arm in design.arms[1:])
    assert len(design.arms) + len(design.notes) == len(ROSE)
    assert "not an arm: edit 'cv_trust_gate <-> divide'" in " ".join(design.notes)
    some = designs.orders(STACK, ["sign", "centralize", "orthograd"])
    assert [arm.label for arm in some.arms[1:]] == ["centralize <-> orthograd", "orthograd <-> sign"]
    pairs = designs.orders(STACK, [("sign", "centralize")])
    assert [arm.label for arm in pairs.arms[1:]] == ["sign <-> centralize"]
    with pytest.raises(StudyError, match="nothing to compare"):
        designs.orders(gc.recipe("rose"), [("cv_trust_gate", "divide")])


def test_a_sweep_runs_the_present_value_once() -> None:
    design = designs.sweep(ADAMW, "lr", [1e-4, 1e-3, 1e-2])
    assert [arm.label for arm in design.arms] == ["full", "lr = 0.0001", "lr = 0.01"]
    assert design.notes == ("lr = 0.001 is the same chain as the arm 'full': run once.",)
    assert [arm.edits for arm in design.arms] == ["", "lr = 0.0001", "lr = 0.01"]


def test_stages_that_depend_on_each_other_are_named() -> None:
    for design in (designs.factorial, designs.interactions):
        with pytest.raises(StudyError, match=r"cv_trust_gate and divide depend on range_normalize\. Pass them as one"):
            design(ROSE, ["range_normalize", "centralize"])
        made = design(ROSE, [("range_normalize", "cv_trust_gate", "divide"), "centralize"])
        assert len(made.arms) == 4
    with pytest.raises(StudyError, match=r"divide depends on second_moment\. Pass .*: \('second_moment', 'divide'\)"):
        designs.factorial(ADAMW, ["first_moment", "second_moment"])


def test_unsound_only_together() -> None:
    class designs_one_of(gc.Stage):
        def check(self, before, after):
            if not {"centralize", "sign"} & {stage.address for stage in before}:
                raise gc.ChainError("designs_one_of needs centralize or sign before it.", stage="designs_one_of")

    chain = gc.chain(gc.centralize(), gc.sign(), designs_one_of(), gc.scale_by_learning_rate())
    with pytest.raises(StudyError, match=r"designs_one_of depends on centralize and sign\. Pass them as one"):
        designs.interactions(chain, ["centralize", "sign"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: designs.factorial(STACK, ["sign"]), "at least two stages"),
        (lambda: designs.factorial(STACK, FREE[:3], resolution=4), "needs at least 4 stages; for 3, run all 8"),
        (lambda: designs.factorial(STACK, FREE, resolution=3), "resolution = 3: pass None"),
        (lambda: designs.factorial(STACK, "sign"), "pass a list of names of stages"),
        (lambda: designs.factorial(STACK, ["sign", ("sign", "centralize")]), "names sign twice"),
        (lambda: designs.factorial(STACK, ["sign", 3]), "has the entry 3"),
        (lambda: designs.factorial(STACK, ["sign", "centralise"]), "Did you mean 'centralize'"),
        (lambda: designs.interactions(STACK, ["sign"]), "at least two stages"),
        (lambda: designs.sweep(STACK, "lr", "0.1"), "pass a list of values of lr"),
        (lambda: designs.sweep(STACK, "lr", [0.1]), "nothing to compare"),
        (lambda: designs.edited(STACK, "-sign"), "pass a list of edits"),
        (lambda: designs.edited(STACK, []), "nothing to compare. Pass edits that change something"),
        (lambda: designs.edited(STACK, ["-sine"]), "Did you mean 'sign'"),
        (lambda: designs.orders(STACK, "sign"), "pass a list of names"),
        (lambda: designs.orders(STACK, [("sign", "centralize", "orthograd")]), "pass a pair of names"),
        (lambda: designs.swap(STACK, "sign", "lion_k"), "pass a list of stages"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(gc.GradchainError) as error:
        make()
    assert message in str(error.value)


def test_many_stages_need_a_fraction() -> None:
    stages = [gc.clip_by_value(1.0, name=f"c{number}") for number in range(8)]
    chain = gc.chain(stages, gc.scale_by_learning_rate())
    names = [stage.name for stage in stages]
    with pytest.raises(StudyError, match=r"all combinations of 8 stages are 256 arms\. Pass resolution=4"):
        designs.factorial(chain, names)
    assert len(designs.factorial(chain, names, resolution=4).arms) == 16


@pytest.mark.parametrize(
    "module", ["bisect", *(f"designs.{name}" for name in ("exchange", "factorial", "forward", "removal", "values"))]
)
def test_the_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"gradchain.ablation.{module}"), extraglobs={"gradchain": gc})
    assert found.attempted > 0
    assert found.failed == 0

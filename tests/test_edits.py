"""Edits as text, and the differences between chains: what turns one chain into another is found, printed and applied."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import gradchain as gc
from gradchain._chain.places import places
from tests.fuzz.chains import chains

ADAMW, ROSE, ADAMS = (gc.recipe(name) for name in ("adamw", "rose", "adams"))
PROPERTY = settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


class edits_odd(gc.Stage):
    """A stage whose options are hard to write: quotes, separators, infinity."""

    text: str = "plain"
    limit: float = gc.hyper(default=1.0, le=math.inf)
    sizes: tuple[int, ...] = (1,)
    pair: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.half and not self.pair:
            raise gc.OptionError("half has no effect without pair.")

    def update(self, update: gc.Update, ctx: gc.Context) -> gc.Update:
        return update


# One edit.

EDITS = [
    ("-decoupled_decay", ADAMW.without("decoupled_decay")),
    ("+clip_by_norm(max_norm=1.0) before first_moment", ADAMW.insert_before("first_moment", gc.clip_by_norm(1.0))),
    ("+sign after divide", ADAMW.insert_after("divide", gc.sign())),
    ("+sign", gc.chain(ADAMW, gc.sign())),
    ("divide -> atan2_scale(a=1.27)", ADAMW.replace("divide", gc.atan2_scale(a=1.27))),
    ("first_moment <-> second_moment", gc.chain(ADAMW["second_moment"], ADAMW["first_moment"], *list(ADAMW)[2:])),
    ("second_moment before first_moment", gc.chain(ADAMW["second_moment"], ADAMW["first_moment"], *list(ADAMW)[2:])),
    ("first_moment after second_moment", gc.chain(ADAMW["second_moment"], ADAMW["first_moment"], *list(ADAMW)[2:])),
    ("decoupled_decay last", gc.chain(*list(ADAMW)[:3], ADAMW["scale_by_learning_rate"], ADAMW["decoupled_decay"])),
    ("lr = 0.1", ADAMW.with_options(lr=0.1)),
    ("divide.eps = 1e-6", ADAMW.with_options(eps=1e-6)),
    ("betas = (0.5, 0.6)", ADAMW.with_options(betas=(0.5, 0.6))),
    ("first_moment.storage = bf16", ADAMW.with_options(**{"first_moment.storage": "bf16"})),
    ("first_moment.storage = 'bf16'", ADAMW.with_options(**{"first_moment.storage": "bf16"})),
    ("first_moment -> first_moment(0.5).rename(beta='momentum')",
     ADAMW.replace("first_moment", gc.first_moment(0.5).rename(beta="momentum"))),
    ("  -decoupled_decay ;; lr=0.1; ", ADAMW.without("decoupled_decay").with_options(lr=0.1)),
    ("", ADAMW),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EDITS, ids=[text for text, _ in EDITS])
def test_an_edit(text: str, expected: gc.Chain) -> None:
    before = repr(ADAMW)
    assert ADAMW.edit(text) == expected
    assert repr(ADAMW) == before


def test_edits_of_one_call_are_checked_together() -> None:
    rid = ROSE.edit("-range_normalize; -cv_trust_gate; -divide")
    assert rid == ROSE.edit("-range_normalize", "-cv_trust_gate", "-divide")
    assert rid == ROSE.without("range_normalize", "cv_trust_gate", "divide")


def test_options_that_need_each_other_are_set_together() -> None:
    chain = gc.chain(edits_odd())
    assert chain.edit("edits_odd.half = True; edits_odd.pair = True") == gc.chain(edits_odd(half=True, pair=True))
    with pytest.raises(gc.OptionError, match=r"edit 'edits_odd.half = True': half has no effect"):
        chain.edit("edits_odd.half = True")


def test_inside_a_partition() -> None:
    assert ADAMS.edit("-matrix/spectral_decay") == ADAMS.without("spectral_decay") == ADAMS.edit("-spectral_decay")
    into = ADAMS.edit("-spectral_decay; +centralize() in matrix/")
    assert into.names[-2:] == ("matrix/centralize", "vector/decoupled_decay")
    assert into.edit("matrix/centralize -> sign").names[-2:] == ("matrix/sign", "vector/decoupled_decay")
    assert ADAMS.edit("-matrix|vector") == ADAMS.without("spectral_decay", "decoupled_decay").edit("-matrix|vector")
    assert ADAMS.edit("matrix|vector before scale_by_learning_rate").names[-1] == "scale_by_learning_rate"
    whole = "partition({'matrix': [sign()], 'vector': []}, 'matrix_or_vector')"
    assert ADAMS.edit(f"matrix|vector -> {whole}").names[-1] == "matrix/sign"
    assert gc.chain().edit(
        f"+{whole}; +scale_by_learning_rate(0.1) before matrix|vector; +sign() in vector/"
    ).names == (
        "scale_by_learning_rate",
        "matrix/sign",
        "vector/sign",
    )


REFUSED = [
    ("-range_normalize", gc.ChainError, "edit '-range_normalize': cv_trust_gate needs a pending scale, and no stage before"),
    ("-centralise", gc.UnknownOptionError, "edit '-centralise': the chain has no stage 'centralise'. Did you mean 'central"),
    ("+centralise() before divide", gc.UnknownNameError, "unknown stage 'centralise'. Did you mean 'centralize'"),
    ("+sign() before divid", gc.UnknownOptionError, "no stage 'divid'. Did you mean 'divide'"),
    ("+sign(", gc.OptionError, "opens a bracket and does not close it"),
    ("sign)", gc.OptionError, "closes a bracket that was not opened"),
    ("-", gc.OptionError, "'' is not the name of a stage"),
    ("centralize", gc.OptionError, "this is no edit. Write '-stage', '+stage(...) before other'"),
    ("centralize before centralize", gc.OptionError, "cannot stand before or after itself"),
    ("centralize <-> centralize", gc.OptionError, "cannot exchange places"),
    ("lr = -1", gc.OptionError, "edit 'lr = -1': scale_by_learning_rate.lr = -1 is outside [0, inf)"),
    ("lr = [", gc.OptionError, "opens a bracket"),
    ("lr = 1 + 1", gc.OptionError, "'1 + 1' is no value"),
    ("lrr = 1", gc.UnknownOptionError, "the chain has no option 'lrr'. Did you mean 'lr'"),
    ("eps = __import__('os')", gc.OptionError, "is no value"),
    ("+__import__('os').system('true')", gc.OptionError, "is not a name, nor a call with literals"),
    ("+sign() in matrix/", gc.UnknownOptionError, "the chain has no branch 'matrix/'"),
    ("+centralize()", gc.ChainError, "two stages are named 'centralize'"),
    ("+partition({'a': []}, 'nowhere')", gc.UnknownNameError, "unknown label function 'nowhere'"),
    ("+partition(sign)", gc.OptionError, "a partition is written partition("),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "message"), REFUSED, ids=[text for text, _, _ in REFUSED])
def test_what_is_refused(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as error:
        ROSE.edit(text)
    assert message in str(error.value)


PIECES = [
    "-", "+", "->", "<->", "=", ";", " before ", " after ", " in ", " last", "(", ")", "[", "]", "{", "}", "'", '"', "\\",
    ",", ".", "/", "|", "#1", " ", "1", "0.5", "inf", "None", "lr", "divide", "sign", "centralize", "matrix", "partition",
    "rename", "eps", "name", "\n", "\0", "\u00e9", "*",
]  # fmt: skip


@PROPERTY
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from([ADAMW, ROSE, ADAMS, gc.chain()]))
def test_no_text_raises_what_is_not_ours(text: str, chain: gc.Chain) -> None:
    with contextlib.suppress(gc.GradchainError):
        chain.edit(text)


def test_an_edit_is_text() -> None:
    with pytest.raises(gc.OptionError, match="edit 3 is an int; write it as text"):
        ROSE.edit(3)  # type: ignore[arg-type]


# Differences.


def test_a_difference_is_one_line() -> None:
    difference = gc.diff("adamw", gc.recipe("adam-atan2", lr=0.1).without("decoupled_decay"))
    assert str(difference) == "-decoupled_decay; divide -> atan2_scale(a=1.27); lr = 0.1"
    assert difference.edits == ("-decoupled_decay", "divide -> atan2_scale(a=1.27)", "lr = 0.1")


def test_no_difference() -> None:
    assert not gc.diff("rose", ROSE)
    assert str(gc.diff("rose", ROSE)) == ""


@pytest.mark.parametrize(
    "edit",
    [
        "-centralize",
        "range_normalize.damping = 0.5",
        "+clip_by_value(0.5) before range_normalize",
        "+sign()",
        "centralize <-> clip_by_norm",
        "decoupled_decay before centralize",
        "divide -> atan2_scale()",
        "clip_by_norm -> orthograd()",
        "lr = 0.5",
        "promote -> promote(at_least='fp32')",
    ],
)
def test_one_edit_is_found_again(edit: str) -> None:
    chain = gc.chain(gc.clip_by_norm(1.0), *list(ROSE)[1:-1]) if "promote" not in edit else ROSE
    assert len(gc.diff(chain, chain.edit(edit))) == 1


@pytest.mark.parametrize("name", gc.recipes())
def test_between_all_recipes(name: str) -> None:
    one = gc.recipe(name)
    for other in map(gc.recipe, gc.recipes()):
        difference = gc.diff(one, other)
        assert difference.apply(one) == other
        assert one.edit(str(difference)) == other
        assert bool(difference) == (one != other)


@PROPERTY
@given(chains(), chains())
def test_between_any_chains(one: gc.Chain, other: gc.Chain) -> None:
    note(f"{one!r}\n{other!r}")
    difference = gc.diff(one, other)
    note(str(difference))
    assert difference.apply(one) == other
    assert one.edit(str(difference)) == other


@PROPERTY
@given(chains(), st.data())
def test_after_random_edits(chain: gc.Chain, data: st.DataObject) -> None:
    edited = chain
    for _ in range(data.draw(st.integers(1, 5))):
        names = [place.name for place in places(edited.elements)]
        name, other = (data.draw(st.sampled_from(names or ["none"])) for _ in range(2))
        edit = data.draw(
            st.sampled_from(
                [f"-{name}", f"{name} <-> {other}", f"{name} before {other}", f"{name} last", "+clip_by_value(0.5)",
                 f"+centralize() before {name}", f"{name} -> sign()", "lr = 0.25", f"+sign(name='s') after {name}",
                 f"+partition({{'a': [sign(name='u')], 'vector': []}}, 'matrix_or_vector') after {name}"]
            )
        )  # fmt: skip
        try:
            edited = edited.edit(edit)
        except gc.GradchainError:
            continue
    note(f"{chain!r}\n{edited!r}\n{gc.diff(chain, edited)}")
    assert gc.diff(chain, edited).apply(chain) == edited


def test_no_edit_needs_another_to_find_its_place() -> None:
    """Any part of a difference is a chain, or unsound: never a stage that is not there."""
    one, other = gc.recipe("rose"), gc.recipe("adamw")
    for count in (1, 2):
        for part in itertools.combinations(gc.diff(one, other).edits, count):
            with contextlib.suppress(gc.ChainError):
                one.edit(*part)


def test_values_that_are_hard_to_write() -> None:
    one = gc.chain(edits_odd(), gc.scale_by_learning_rate())
    odd = edits_odd(text="a; b -> 'c' \" = before (", limit=math.inf, sizes=(1, 2))
    for other in (
        gc.chain(odd, gc.scale_by_learning_rate()),
        gc.chain(gc.sign(), odd),
        gc.chain(edits_odd(half=True, pair=True)),
    ):
        assert gc.diff(one, other).apply(one) == other
        assert one.edit(str(gc.diff(one, other))) == other


def label(name: str, param: object) -> str:
    return "a"


def test_what_cannot_be_written_is_said() -> None:
    routed = gc.chain(gc.partition({"a": gc.sign()}, label), gc.scale_by_learning_rate())
    with pytest.raises(gc.ConfigError, match="label_function"):
        gc.diff("sgd", routed)
    assert gc.diff(routed, routed.edit("a/sign -> centralize")).edits != ()


def test_two_partitions_with_the_same_labels() -> None:
    def part(*stages: gc.Stage) -> gc.Partition:
        return gc.partition({"matrix": list(stages), "vector": []}, gc.matrix_or_vector)

    rate = gc.scale_by_learning_rate()
    several = [
        gc.chain(part(gc.sign()), part(gc.centralize()), rate),
        gc.chain(part(gc.centralize()), rate, part(gc.sign())),
        gc.chain(part(), part(), rate),
        gc.chain(part(gc.sign()), rate),
        gc.chain(rate),
    ]
    for one, other in itertools.product(several, several):
        assert gc.diff(one, other).apply(one) == other
    with pytest.raises(gc.UnknownOptionError, match=r"Did you mean 'matrix\|vector#2' or 'matrix\|vector#1'"):
        several[0].edit("-matrix|vector")
    assert several[0].edit("-matrix|vector#2") == several[3]
    with pytest.raises(gc.UnknownOptionError, match="2 partitions have a branch 'matrix/'"):
        several[0].edit("+sign(name='s') in matrix/")


def test_it_takes_names_and_paths(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(ADAMW.with_options(lr=0.5).to_toml())
    assert str(gc.diff("adamw", str(path))) == "lr = 0.5"
    with pytest.raises(gc.UnknownNameError, match="Did you mean 'radam' or 'nadam' or 'adamw'"):
        gc.diff("adamw", "adamv")

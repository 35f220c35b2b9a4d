"""The difference between two chains, as edits that turn the one into the other."""

from __future__ import annotations

import bisect
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from gradchain._chain.chain import Chain
from gradchain._chain.elements import Element, Partition
from gradchain._chain.places import partition_name
from gradchain._chain.reading import text_of, value_from
from gradchain._chain.recipes import load_chain
from gradchain._chain.stage import Stage
from gradchain.errors import ChainError, GradchainError

Key: TypeAlias = "tuple[object, ...]"


@dataclass(frozen=True)
class Diff:
    """The edits that turn one chain into another, in the grammar of `Chain.edit`. Empty, and false, for equal chains.

    `str(diff)` is one line, which `Chain.edit` reads.
    """

    edits: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def apply(self, chain: Chain) -> Chain:
        """Apply the edits. Returns: the new chain; for the chain that the difference was taken from, the other one.

        Raises: UnknownOptionError, ChainError: they do not fit this chain.
        """
        return chain.edit(*self.edits)


def diff(a: str | Chain, b: str | Chain) -> Diff:
    """Find the edits that turn chain `a` into chain `b`. Each is a chain, a recipe's name, or the path of a config.

    Removals come first, then insertions, other stages in the same place, and options. No edit needs another one to find
    its place, so that any of them may be left out where the chain remains sound.

    Returns: the difference; `a.edit(str(difference)) == b`.
    Raises: UnknownNameError: no such recipe; ConfigError: a stage of `b` cannot be written as text.

    >>> print(gradchain.diff("adamw", "adam-atan2"))
    divide -> atan2_scale(a=1.27)
    >>> print(gradchain.diff("adamw", gradchain.recipe("adamw", lr=0.1).without("decoupled_decay")))
    -decoupled_decay; lr = 0.1
    """
    old, new = load_chain(a, {}), load_chain(b, {})
    if old == new:  # two partitions with the same labels are not told apart below
        return Diff(())
    rates = _rates(old)
    if rates == _rates(new) and len(rates) == 1:
        short = _difference(old, new, {rates[0]: "lr"})
        with contextlib.suppress(ChainError):  # halfway, other stages may disagree about what they share
            if short.apply(old) == new:
                return short
    return _difference(old, new, {})


def _difference(old: Chain, new: Chain, short: Mapping[tuple[str, str], str]) -> Diff:
    found = _Found(short)
    found.compare(old.elements, new.elements, "")
    return Diff((*found.removals, *found.swaps, *found.placements, *found.replacements, *found.options))


def _rates(chain: Chain) -> list[tuple[str, str]]:
    """The address and the field of each stage that holds a learning rate."""
    return [(b.address, b.field) for b in chain.bindings.bindings if b.key == "lr" and not b.spec.follows]


@dataclass
class _Found:
    """The edits found so far, in the order in which they are applied."""

    short: Mapping[tuple[str, str], str]
    removals: list[str] = field(default_factory=list[str])
    swaps: list[str] = field(default_factory=list[str])
    placements: list[str] = field(default_factory=list[str])
    replacements: list[str] = field(default_factory=list[str])
    options: list[str] = field(default_factory=list[str])

    def compare(self, old: Sequence[Element], new: Sequence[Element], row: str) -> None:
        """One row: the chain, or a branch, whose stages' names begin with `row`."""
        before, after = _keyed(old, new, 0), _keyed(new, old, 1)
        order, kept, swapped = _kept([key for key in before if key in after], [key for key in after if key in before])
        if swapped:
            self.swaps.append(" <-> ".join(row + _name(before[key]) for key in swapped))
        places = iter(order)
        rows = [next(places) if key in after else key for key in before]  # as it is after the exchange
        pairs = _pairs(rows, [*after], kept, before, after)
        several = Counter(_name(element) for key, element in before.items() if key not in after)
        for key, element in before.items():
            if key not in after and key not in pairs.values():
                same = isinstance(element, Partition) and several[_name(element)] > 1
                self.removals.append(f"-{row}{_name(element)}{'#1' if same else ''}")
        self._place(row, before, after, kept, pairs)
        for key, element in after.items():
            known = before.get(key if key in before else pairs.get(key, key))
            if known is not None:
                self._change(row, known, element)

    def _place(
        self,
        row: str,
        before: Mapping[Key, Element],
        after: Mapping[Key, Element],
        kept: set[Key],
        pairs: dict[Key, Key],
    ) -> None:
        """Put in, and move, what does not stand where it should: each before the next that does."""
        placed: list[str] = []
        anchor = ""
        for key, element in reversed([*after.items()]):
            if key in kept or key in pairs:
                anchor = row + _name(before[pairs.get(key) or key])
            elif key in before:
                placed.append(f"{row}{_name(element)} {f'before {anchor}' if anchor else 'last'}")
            else:
                where = f" before {anchor}" if anchor else f" in {row}" if row else ""
                placed.append(f"+{text_of(element)}{where}")
        self.placements += reversed(placed)

    def _change(self, row: str, old: Element, new: Element) -> None:
        """Options, or another element in the place of the old one."""
        if isinstance(old, Partition) and isinstance(new, Partition) and _key(old) == _key(new):
            for (label, one), (_, other) in zip(old.branches, new.branches):
                self.compare(one.elements, other.elements, f"{row}{label}/")
        elif old != new:
            single = (
                _assignments(row, old, new, self.short) if type(old) is type(new) and _name(old) == _name(new) else ()
            )
            self.options += single
            if not single:
                self.replacements.append(f"{row}{_name(old)} -> {text_of(new)}")


def _name(element: Element) -> str:
    return partition_name(element) if isinstance(element, Partition) else element.address


def _key(element: Element) -> Key:
    """What makes two elements the same one, changed or not."""
    if isinstance(element, Partition):
        return (element.label, *(label for label, _ in element.branches))
    return (element.address,)


def _keyed(elements: Sequence[Element], others: Sequence[Element], side: int) -> dict[Key, Element]:
    """The elements of a row by their keys. Partitions that share a label with another one are nobody's counterpart."""
    labels = [
        Counter(label for x in row if isinstance(x, Partition) for label, _ in x.branches) for row in (elements, others)
    ]
    keyed: dict[Key, Element] = {}
    for number, element in enumerate(elements):
        alone = not isinstance(element, Partition) or all(count[x] < 2 for x, _ in element.branches for count in labels)
        keyed[_key(element) if alone else (side, number)] = element
    return keyed


def _kept(old: list[Key], new: list[Key]) -> tuple[list[Key], set[Key], tuple[Key, ...]]:
    """The old order once two have changed places, those that then need not move, and the two."""
    wrong = [number for number, (one, other) in enumerate(zip(old, new)) if one != other]
    if len(wrong) == 2:
        return new, set(new), (old[wrong[0]], old[wrong[1]])
    rank = {key: number for number, key in enumerate(new)}
    tails: list[int] = []
    chains: list[list[Key]] = []  # the longest rising row that ends in each of `tails`
    for key in old:
        at = bisect.bisect_left(tails, rank[key])
        tails[at : at + 1] = [rank[key]]
        chains[at : at + 1] = [[*(chains[at - 1] if at else []), key]]
    return old, set(chains[-1] if chains else ()), ()


def _pairs(
    old: list[Key], new: list[Key], kept: set[Key], before: Mapping[Key, Element], after: Mapping[Key, Element]
) -> dict[Key, Key]:
    """New elements, each with the old one in whose place it stands, between the same two that are kept."""
    pairs: dict[Key, Key] = {}
    apart = [[key for key in row if key not in others] for row, others in ((old, after), (new, before))]
    single = all(len(row) == 1 for row in apart)  # all that differs: another stage in the place of one
    for gone, come in zip(_gaps(old, kept, after), _gaps(new, kept, before)):
        start = 0
        for key in come:
            for at in range(start, len(gone)):
                if _alike(before[gone[at]], after[key], single):
                    pairs[key], start = gone[at], at + 1
                    break
    return pairs


def _gaps(row: list[Key], kept: set[Key], others: Mapping[Key, Element]) -> list[list[Key]]:
    """Those without a counterpart, between those that are kept."""
    gaps: list[list[Key]] = [[]]
    for key in row:
        if key in kept:
            gaps.append([])
        elif key not in others:
            gaps[-1].append(key)
    return gaps


def _alike(old: Element, new: Element, single: bool) -> bool:
    """Whether two stages do the same work: they set or resolve a scale, or own the same slot; or nothing else differs."""
    if isinstance(old, Partition) or isinstance(new, Partition):
        return False
    same_rule = old.scale == new.scale and (single or old.scale in ("sets", "resolves"))
    return same_rule or bool(old.known_slots.keys() & new.known_slots.keys())


def _assignments(row: str, old: Element, new: Element, short: Mapping[tuple[str, str], str]) -> list[str]:
    """`stage.option = value` for each option that differs; none if one cannot be set alone."""
    address, texts = row + _name(old), list[str]()
    for name in [entry.name for entry in cast("Stage", new).fields() if entry.init]:
        value = getattr(new, name)
        if getattr(old, name) == value:
            continue
        try:
            replace(cast("Any", old), **{name: value})
            if value_from(repr(value)) != value:
                return []
        except GradchainError:
            return []
        texts.append(f"{short.get((address, name), f'{address}.{name}')} = {value!r}")
    return texts

"""Every change that can be made to a chain and to the options of its recipe."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from gradchain._chain.bindings import Binding
from gradchain._chain.chain import Chain
from gradchain._chain.mixins import comes_first
from gradchain._chain.recipes import Recipe
from gradchain._chain.show import show
from gradchain._chain.stage import Stage
from gradchain._core.fields import Interval, spec_of
from gradchain.audit.alternatives import named, numbers, values
from gradchain.audit.probe import Subject
from gradchain.errors import GradchainError
from gradchain.transforms import orthograd

Kind = Literal["probe", "stage", "hyperparameter", "field", "option"]
Edit: TypeAlias = "Callable[[Subject], Subject]"
Edits: TypeAlias = "tuple[tuple[str, Edit], ...]"
"""With a label that says from what to what."""

WRONG = "?"


@dataclasses.dataclass(frozen=True)
class Item:
    """Something that should matter, and the changes to try.

    `owners` are the stages it belongs to; `given` says that the user set it; `reason` why it is declared inert, if it is.
    `built` are the changes to use together with other items, where these differ.
    """

    kind: Kind
    name: str
    edits: Edits
    value: Any = None
    owners: tuple[str, ...] = ()
    given: bool = False
    reason: str = ""
    built: Edits = ()

    @property
    def bare(self) -> str:
        """The name without the place in a tuple."""
        return self.name.partition("[")[0]

    @property
    def absent(self) -> bool:
        """Whether it is 0 or `None`."""
        return self.value is None or (self.value == 0 and not isinstance(self.value, bool))

    @property
    def off(self) -> bool:
        """Whether others may depend on it: it is absent, or a switch."""
        kinds = (bool, str) if self.kind == "option" else bool
        return self.absent or isinstance(self.value, kinds)

    def company(self) -> Edits:
        """Its changes labelled `stage.field=value`."""
        field, _, address = self.name.partition(" of ")
        name = f"{address}.{field}" if address else field
        return tuple((f"{name}={label.rpartition(' → ')[2]}", edit) for label, edit in self.built or self.edits)


def items_of(subject: Subject, recipe: Recipe | None) -> list[Item]:
    """Everything in a chain, and in the options of its recipe, that should matter."""
    chain = subject.chain
    found = [_removal(chain, address) for address in chain.names]
    for key, index in dict.fromkeys((b.key, b.index) for b in chain.bindings.bindings if not b.spec.follows):
        found.append(_hyperparameter(chain, key, index))
    for address, stage in chain.addressed:
        bound = {binding.field for binding in chain.bindings.of_stage(address)}
        for field in stage.fields():
            if field.init and field.name not in ("name", "keys", *bound):
                found += _field(address, stage, field)
    for parameter in recipe.parameters if recipe is not None else ():
        found += _option(cast("Recipe", recipe), parameter, subject)
    return found


def companions(item: Item, items: Sequence[Item]) -> Iterator[tuple[str, Edit]]:
    """Other changes with which an item may have an effect, likely ones first; for options only other options."""
    others = [other for other in items if other.kind != "stage" and other.bare != item.bare]
    options = [other for other in others if other.kind == "option"]
    parts = [] if item.kind == "option" else [other for other in others if other.kind != "option"]
    own = [other for other in parts if set(other.owners) & set(item.owners)]
    switches = [other for other in options if other.off]
    dials = [other for other in options if not other.off]
    for other in own:
        yield from _telling(other)
    for one, other in itertools.combinations(own, 2):
        yield from _together(_telling(one)[:2], _telling(other)[:2])
    if item.kind != "option":
        yield "orthograd() in front", _fronted
    for other in parts:
        if other.off and other not in own:
            yield from other.company()[:1]
    for other in switches:
        yield from _telling(other)[:2] if other.absent else other.company()
    for other in dials:
        yield from _telling(other)
    numbered = itertools.product([other for other in switches if other.absent], dials)
    for one, other in itertools.chain(numbered, itertools.combinations(switches, 2)):
        yield from _together(_turn(one), _turn(other))


def _telling(item: Item) -> Edits:
    """The changes of an item to a large value, to another one, and to nothing."""
    edits = item.company()
    extreme = [edit for end in ("=1000", "=None", "=0") for edit in edits if edit[0].endswith(end)]
    return tuple(dict.fromkeys([*edits[:1], *extreme[:1], *edits[1:2], *extreme[1:]]))


def _turn(item: Item) -> Edits:
    """One change: to `None` if possible, else the first."""
    return tuple(edit for edit in item.company() if edit[0].endswith("=None"))[:1] or item.company()[:1]


def _together(some: Edits, others: Edits) -> Iterator[tuple[str, Edit]]:
    for (label, edit), (other_label, other_edit) in itertools.product(some, others):
        yield f"{label}, {other_label}", _both(edit, other_edit)


def _fronted(subject: Subject) -> Subject:
    """Put a stage in front, so that the first stages do not get the raw gradient."""
    name = next(name for name, stage in subject.chain.addressed if not comes_first(stage))
    return subject._replace(chain=subject.chain.insert_before(name, orthograd(name="in_front")))


def _both(one: Edit, other: Edit) -> Edit:
    return lambda subject: other(one(subject))


# Stages and their fields.


def _removal(chain: Chain, address: str) -> Item:
    def without(subject: Subject) -> Subject:
        less = subject.chain.without(address, *subject.chain.dependents(address))
        return Subject(less, tuple((key, value) for key, value in subject.numbers if key in less.hyperparameters))

    try:
        also = chain.dependents(address)
    except GradchainError:
        also = ()
    label = f"removed with {', '.join(also)}" if also else "removed"
    return Item("stage", address, ((label, without),), owners=(address,))


def _hyperparameter(chain: Chain, key: str, index: int | None) -> Item:
    bound = [b for b in chain.bindings.bindings if (b.key, b.index) == (key, index)]
    held = [b for b in bound if not b.spec.follows]
    value = held[0].pick(chain.hyperparameters)
    tried = numbers(value, _common(held), optional=all(b.spec.optional for b in held))
    why = [b.spec.inert for b in bound]

    def in_group(subject: Subject, new: Any) -> Subject:
        numbers = {key: subject.chain.hyperparameters.get(key), **dict(subject.numbers)}
        numbers[key] = _replaced(numbers[key], index, new)
        return subject._replace(numbers=tuple(sorted(numbers.items())))

    def in_chain(subject: Subject, new: Any) -> Subject:
        changed = _replaced(subject.chain.hyperparameters.get(key), index, new)
        return subject._replace(chain=subject.chain.with_options(**{key: changed}))

    return Item(
        "hyperparameter",
        _placed(key, index),
        _edits(value, tried, in_group),
        value=value,
        owners=tuple(b.address for b in bound),
        reason="; ".join(dict.fromkeys(why)) if all(why) else "",
        built=_edits(value, tried, in_chain),
    )


def _common(bound: Sequence[Binding]) -> Interval:
    """The range that suits all fields of a key."""
    intervals = [binding.spec.interval for binding in bound]
    low, high = max(i.low for i in intervals), min(i.high for i in intervals)
    return Interval(low, high, any(low not in i for i in intervals), any(high not in i for i in intervals))


def _field(address: str, stage: Stage, field: dataclasses.Field[Any]) -> list[Item]:
    """A static field, or a number that is no hyperparameter with the other options."""
    name, spec = field.name, spec_of(field)

    def item(place: int | None, value: Any) -> Item:
        def with_value(old: Stage, new: Any) -> Stage:
            return dataclasses.replace(old, **{name: _replaced(getattr(old, name), place, new)})

        def edit(subject: Subject, new: Any) -> Subject:
            return subject._replace(chain=subject.chain.replace(address, with_value(subject.chain[address], new)))

        if spec.dynamic:
            tried = numbers(value, spec.interval, optional=spec.optional)
        else:
            offered = _offered([lambda text: with_value(stage, text)]) if _is_text(value, str(field.type)) else []
            tried = values(value, str(field.type), spec.choices or offered)
        return Item(
            "field",
            f"{_placed(name, place)} of {address}",
            _edits(value, tried, edit),
            value=value,
            owners=(address,),
            reason=spec.inert,
        )

    return [item(place, value) for place, value in _parts(getattr(stage, name))]


# Options of a recipe.


def _option(recipe: Recipe, parameter: inspect.Parameter, subject: Subject) -> list[Item]:
    name, given = parameter.name, dict(subject.options)

    def item(place: int | None, value: Any) -> Item:
        def edit(subject: Subject, new: Any) -> Subject:
            options = dict(subject.options)
            options[name] = _replaced(options.get(name, parameter.default), place, new)
            return Subject(recipe(**options), options=tuple(options.items()))

        annotation = "" if place is not None else str(parameter.annotation)
        tried = values(value, annotation, offered if _is_text(value, annotation) else ())
        if name in given:
            standard = [part for at, part in _parts(parameter.default) if at == place and part != value]
            tried = [*standard, *tried]
        return Item(
            "option",
            _placed(name, place),
            _edits(value, tried, edit),
            value=value,
            given=name in given,
            reason=recipe.inert.get(_placed(name, place), recipe.inert.get(name, "")),
        )

    def build(text: str, turned: Mapping[str, Any]) -> Chain:
        return recipe(**{**given, **turned, name: text})

    # What an option may be is said only where it means something.
    builds = [functools.partial(build, turned=turned) for turned in ({}, *_turned(recipe))]
    offered = _offered(builds) if _is_text(parameter.default, str(parameter.annotation)) else []
    return [item(place, value) for place, value in _parts(given.get(name, parameter.default))]


def _turned(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Each switch of a recipe turned, and each number that is 0 or `None` set to another."""
    for parameter in recipe.parameters:
        if isinstance(parameter.default, bool):
            yield {parameter.name: not parameter.default}
        elif parameter.default in (0, None):
            yield {parameter.name: 0.25}


# Values.


def _is_text(value: Any, annotation: str) -> bool:
    return isinstance(value, str) or (value is None and "str" in annotation)


def _offered(builds: Sequence[Callable[[str], Any]]) -> list[str]:
    """The texts that an option accepts, found from the error for a wrong one; that one if it is accepted."""
    taken = False
    for build in builds:
        try:
            build(WRONG)
            taken = True
        except GradchainError as error:
            offered = named(str(error)) if repr(WRONG) in str(error) else []
            if offered:
                return offered
        except Exception:  # the recipe's own code may trip over it
            continue
    return [WRONG] if taken else []


def _edits(old: Any, tried: Sequence[Any], edit: Callable[[Subject, Any], Subject]) -> Edits:
    def to(new: Any) -> Edit:
        return lambda subject: edit(subject, new)

    return tuple((f"{show(old)} → {show(new)}", to(new)) for new in tried)


def _parts(value: Any) -> list[tuple[int | None, Any]]:
    """The places and entries of a tuple; a value that is no tuple has no places."""
    return list(enumerate(cast("tuple[Any, ...]", value))) if isinstance(value, (tuple, list)) else [(None, value)]


def _replaced(value: Any, place: int | None, new: Any) -> Any:
    """Another value, or a tuple with another entry."""
    return new if place is None else tuple(new if at == place else old for at, old in _parts(value))


def _placed(name: str, place: int | None) -> str:
    return name if place is None else f"{name}[{place}]"

"""Named recipes: functions that return a chain."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from gradchain._chain import registry
from gradchain._chain.chain import Chain
from gradchain._chain.named import find_place, is_place
from gradchain._core.fields import KINDS, as_number, as_tuple, differ
from gradchain.errors import (
    ChainError,
    GradchainError,
    OptionError,
    UnknownOptionError,
    kind_of,
    nearest,
    shown,
)

_recipes: dict[str, Recipe] = {}


@dataclass(frozen=True)
class Recipe:
    """A named function that returns a chain."""

    name: str
    build: Callable[..., Chain]
    source: str
    inert: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.build) or "").split("\n", 1)[0]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.build).parameters.values())

    def __call__(self, **options: Any) -> Chain:
        return self.build(**options)


Build = TypeVar("Build", bound=Callable[..., Any])


def register_recipe(
    name: str,
    *,
    source: str,
    inert: Mapping[str, str] | None = None,
    needs: Mapping[str, str | tuple[str, ...]] | None = None,
) -> Callable[[Build], Build]:
    """Register a function that returns a chain as a recipe.

    `inert` maps options that change nothing, which `gradchain check` would call dead, to the reason; `"betas[1]"` is one
    entry. `needs` maps an option to the option that it needs (or several, of which one is enough; `"not x"`, `"x=value"`
    and `"x and y"` are understood): setting it without that option raises `OptionError`.

    Returns: a decorator, which returns the function with its arguments checked.
    Raises: OptionError, UnknownOptionError: the name or a table is invalid, what is decorated is no function, or the recipe
        is called with options that it does not have or cannot use.

    >>> @gradchain.register_recipe("plain", source="folklore")
    ... def plain(lr: float = 0.1):
    ...     return gradchain.chain(gradchain.scale_by_learning_rate(lr))
    """

    _check_registration(name, source, inert, needs)

    def register(build: Build) -> Build:
        if not callable(build):
            raise OptionError(
                f"recipe {name!r}: {shown(build)} is {kind_of(build)}; decorate a function that returns a chain."
            )
        signature = inspect.signature(build)
        for option in inert or {}:
            if option.partition("[")[0] not in signature.parameters:
                known = nearest(option, signature.parameters)
                raise UnknownOptionError(f"recipe {name!r}, inert: there is no option {option!r}. {known}")

        @functools.wraps(build)
        def checked(*args: Any, **kwargs: Any) -> Chain:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                if unknown := [option for option in kwargs if option not in signature.parameters]:
                    known = nearest(unknown[0], signature.parameters)
                    raise UnknownOptionError(f"recipe {name!r} has no option {shown(unknown[0])}. {known}") from None
                raise UnknownOptionError(
                    f"recipe {name!r}: {error}. It has: {', '.join(signature.parameters)}"
                ) from None
            options = bound.arguments
            for option, value in options.items():
                annotation = str(signature.parameters[option].annotation)
                options[option] = as_tuple(value) if annotation.startswith("tuple[") else value
                _check_option(f"recipe {name!r}: {option}", annotation, options[option])
            _check_needs(name, signature, options, needs or {})
            made = _built(name, build, bound.args, bound.kwargs, options)
            for option, value in options.items():
                _check_none(f"recipe {name!r}: {option}", signature.parameters[option], value)
            return made

        _recipes[name] = Recipe(name, checked, source, dict(inert or {}))
        return cast("Build", checked)

    return register


def _check_registration(name: object, source: object, inert: object, needs: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]{1,100}", name):
        raise OptionError(
            f"register_recipe({shown(name)}): a recipe cannot be called this. Pass a name of letters, digits, '_', '-', '.'."
        )
    if not isinstance(source, str):
        raise OptionError(
            f"register_recipe({name!r}, source={shown(source)}): pass the paper or repository as a string."
        )
    for what, table in (("inert", inert), ("needs", needs)):
        if table is not None and not (
            isinstance(table, Mapping)
            and all(isinstance(key, str) for key in cast("Mapping[Any, Any]", table))
            and all(isinstance(value, (str, tuple)) for value in cast("Mapping[Any, Any]", table).values())
        ):
            raise OptionError(f"register_recipe({name!r}, {what}={shown(table)}): pass a dict of option: text.")


def _built(
    name: str, build: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Chain:
    """Build a recipe; an error names the option that caused it."""
    try:
        made = build(*args, **kwargs)
    except OptionError as error:
        guilty = [option for option, value in options.items() if _mentions(str(error), value)]
        if len(guilty) != 1:
            raise
        raise type(error)(f"recipe {name!r}, option {guilty[0]}: {error}") from None
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, ArithmeticError) as error:
        if isinstance(error, GradchainError):
            raise
        given = ", ".join(f"{option} = {shown(value)}" for option, value in options.items()) or "its defaults"
        raise OptionError(
            f"recipe {name!r} cannot be built with {given}: {type(error).__name__}: {str(error)[:200]}. Its signature is "
            f"{str(inspect.signature(build))[:300]}."
        ) from error
    if not isinstance(made, Chain):
        raise ChainError(f"recipe {name!r} returned {kind_of(made)}; its function must return a chain.")
    return made


def _check_none(where: str, parameter: inspect.Parameter, value: Any) -> None:
    """`None` where the signature does not have it: what it would mean is anyone's guess."""
    kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
    if value is None and kinds & {"float", "int", "bool", "str"} and "None" not in kinds:
        raise OptionError(f"{where} = None is not {' or '.join(sorted(kinds))}; leave the option out for its default.")


def _mentions(message: str, value: Any) -> bool:
    """Whether an error is about this value, or about an entry of this tuple."""
    several = isinstance(value, (tuple, list))
    entries = (value, tuple(value), *cast("tuple[Any, ...]", value)) if several else (value, as_number(value))
    return any(f"= {shown(entry)}{end}" in message for entry in entries for end in " :")


def _check_needs(
    name: str, signature: inspect.Signature, options: Mapping[str, Any], needs: Mapping[str, str | tuple[str, ...]]
) -> None:
    """Raise for an option that has no effect with the others."""
    values = {option: parameter.default for option, parameter in signature.parameters.items()} | dict(options)
    for option, value in options.items():
        if not differ(value, signature.parameters[option].default):
            continue
        wanted = needs.get(option, ())
        for either in [(need,) for need in wanted.split(" and ")] if isinstance(wanted, str) else [wanted]:
            known = [need for need in either if need.removeprefix("not ").partition("=")[0] in values]
            if known and not any(_holds(need, values) for need in known):
                raise OptionError(
                    f"recipe {name!r}, option {option} = {shown(value)} has no effect {_because(known, values)}."
                )


def _because(needs: Sequence[str], values: Mapping[str, Any]) -> str:
    """The end of a sentence about an option whose needs are not met."""
    if needs[0].startswith("not "):
        other = needs[0].removeprefix("not ").partition("=")[0]
        return f"with {other} = {shown(values[other])}. Leave one of them out"
    return f"without {' or '.join(needs)}. Pass that too, or leave it out"


def _holds(need: str, values: Mapping[str, Any]) -> bool:
    option, _, value = need.removeprefix("not ").partition("=")
    given = values[option]
    off = any(given is nothing or not differ(given, nothing) for nothing in (False, 0, 0.0, None, "disabled"))
    holds = str(given).lower() == value if value else not off
    return holds != need.startswith("not ")


def _check_option(where: str, annotation: str, value: Any) -> None:
    """Check the type of an option before the recipe uses it."""
    kind, wanted = KINDS.get(annotation, (object, ""))
    if kind in (bool, str) and not isinstance(value, kind):
        raise OptionError(f"{where} = {shown(value)} is {kind_of(value)}; pass {wanted}.")
    if annotation.startswith("tuple["):
        wanted = annotation.count(",") + 1
        if not isinstance(value, tuple) or len(cast("tuple[Any, ...]", value)) != wanted:
            raise OptionError(f"{where} = {shown(value)}: pass a tuple of {wanted} numbers.")


def find_recipe(name: str) -> Recipe:
    return registry.find("recipe", name, _recipes)


def recipe(name: str, **options: Any) -> Chain:
    """Build the chain of a recipe. Returns: the chain.

    Raises: UnknownNameError: no such recipe; UnknownOptionError: no such option; OptionError: a value out of range.

    >>> gradchain.recipe("adamw", lr=3e-4).names
    ('first_moment', 'second_moment', 'divide', 'decoupled_decay', 'scale_by_learning_rate')
    """
    return find_recipe(name)(**options)


def is_path(name: str) -> bool:
    """Whether this is the path of a config, and not the name of a recipe."""
    return name.endswith((".toml", ".json"))


def load_chain(source: str | Chain, options: Mapping[str, Any]) -> Chain:
    """The chain of a recipe's name, of a path to a config, of `module:name`, or the chain itself, with options set."""
    if isinstance(source, str) and not is_path(source) and is_place(source):
        return _chain_at(source, options)
    if isinstance(source, Chain):
        return source.with_options(**options)
    if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"chain = {shown(source)} is {kind_of(source)}; pass a chain, the path of a config, or a recipe's name."
        )
    return Chain.from_config(source).with_options(**options) if is_path(source) else recipe(source, **options)


def _chain_at(place: str, options: Mapping[str, Any]) -> Chain:
    """The chain at `module:name`, or what a function there returns."""
    found = find_place(place)
    if isinstance(found, Chain):
        return found.with_options(**options)
    if not callable(found):
        raise ChainError(f"{place} is {kind_of(found)}; name a chain, or a function that returns one.")
    return _built(place, found, (), options, options)


def recipe_names() -> tuple[str, ...]:
    """List the recipes, as `gradchain.recipes()` does. Returns: their names, sorted."""
    return tuple(sorted(_recipes))

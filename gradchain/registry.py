"""Names: of stages (so that a config can be read back), of label functions, and of recipes."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gradchain.errors import OptionError, UnknownNameError, UnknownOptionError, nearest

if TYPE_CHECKING:
    import torch

    from gradchain.chain import Chain
    from gradchain.stage import Stage

LabelFunction = Callable[[str, "torch.Tensor"], str]

_stages: dict[str, type[Stage]] = {}
_labels: dict[str, LabelFunction] = {}
_recipes: dict[str, Recipe] = {}


def add_stage(cls: type[Stage]) -> None:
    """Remember a stage class under its qualified name, and under its bare name unless that is one of ours."""
    _stages[_qualified(cls)] = cls
    known = _stages.get(cls.__name__)
    if known is None or not _is_ours(known) or _qualified(known) == _qualified(cls):
        _stages[cls.__name__] = cls


def _qualified(cls: type[Stage]) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def _is_ours(cls: type[Stage]) -> bool:
    return cls.__module__.startswith("gradchain.")


def stage_name(cls: type[Stage]) -> str:
    """The name under which a config finds a stage class: the bare one, unless another class has it."""
    return cls.__name__ if _stages.get(cls.__name__) is cls else _qualified(cls)


def stages() -> dict[str, type[Stage]]:
    """All known stage classes by name: ours, and those that the running program has defined."""
    return {name: cls for name, cls in sorted(_stages.items()) if name == stage_name(cls)}


def stage(name: str) -> type[Stage]:
    if name not in _stages:
        raise UnknownNameError(
            f"unknown stage {name!r}. {nearest(str(name), stages())} Import the module that defines it."
        )
    return _stages[name]


Label = TypeVar("Label", bound=LabelFunction)


def label_function(function: Label) -> Label:
    """Register a label function `(name, parameter) -> label`, so that chains that route by it can be saved."""
    _labels[function.__name__] = function
    return function


def label(name: object) -> LabelFunction:
    if not isinstance(name, str) or name not in _labels:
        raise UnknownNameError(
            f"unknown label function {name!r}. {nearest(str(name), _labels)} Register it with @gradchain.label_function."
        )
    return _labels[name]


def label_name(function: LabelFunction) -> str | None:
    """The name under which a label function is registered, or `None`."""
    return next((name for name, known in _labels.items() if known is function), None)


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
        known = [parameter.name for parameter in self.parameters]
        for name in options:
            if name not in known:
                raise UnknownOptionError(f"recipe {self.name!r} has no option {name!r}. {nearest(name, known)}")
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

    `inert` gives the reasons for options that change nothing, which `gradchain check` would call dead. `needs` names, for
    options that mean nothing without another, that other one (or several, of which one will do; `"not x"` and `"x=value"`
    are understood): an option that differs from its default where it means nothing is an error.

    >>> @gradchain.register_recipe("plain", source="folklore")
    ... def plain(lr: float = 0.1):
    ...     return gradchain.chain(gradchain.scale_by_learning_rate(lr))
    """

    def register(build: Build) -> Build:
        signature = inspect.signature(build)
        for option in inert or {}:
            if option not in signature.parameters:
                known = nearest(option, signature.parameters)
                raise UnknownOptionError(f"recipe {name!r}, inert: there is no option {option!r}. {known}")

        @functools.wraps(build)
        def checked(*args: Any, **kwargs: Any) -> Chain:
            try:
                options = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise UnknownOptionError(
                    f"recipe {name!r}: {error}. It has: {', '.join(signature.parameters)}"
                ) from None
            for option, value in options.items():
                _check_option(f"recipe {name!r}: {option}", str(signature.parameters[option].annotation), value)
            _check_needs(name, signature, options, needs or {})
            try:
                return build(*args, **kwargs)
            except OptionError as error:
                guilty = [option for option, value in options.items() if _mentions(str(error), value)]
                if len(guilty) != 1:
                    raise
                raise type(error)(f"recipe {name!r}, option {guilty[0]}: {error}") from None

        _recipes[name] = Recipe(name, checked, source, dict(inert or {}))
        return cast("Build", checked)

    return register


def _mentions(message: str, value: Any) -> bool:
    """Whether an error is about this value, or about an entry of this tuple."""
    entries = cast("tuple[Any, ...]", value) if isinstance(value, (tuple, list)) else (value,)
    return any(f"= {entry!r}{end}" in message for entry in entries for end in " :")


def _check_needs(
    name: str, signature: inspect.Signature, options: Mapping[str, Any], needs: Mapping[str, str | tuple[str, ...]]
) -> None:
    """Raise for an option that the others make meaningless."""
    values = {option: parameter.default for option, parameter in signature.parameters.items()} | dict(options)
    for option, value in options.items():
        wanted = needs.get(option, ())
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        known = [need for need in wanted if need.removeprefix("not ").partition("=")[0] in values]
        if known and value != signature.parameters[option].default and not any(_holds(need, values) for need in known):
            raise OptionError(f"recipe {name!r}, option {option} = {value!r} has no effect {_because(known, values)}.")


def _because(needs: Sequence[str], values: Mapping[str, Any]) -> str:
    """The end of a sentence about an option whose needs are not met."""
    if needs[0].startswith("not "):
        other = needs[0].removeprefix("not ")
        return f"with {other} = {values[other]!r}. Leave one of them out"
    return f"without {' or '.join(needs)}. Pass that too, or leave it out"


def _holds(need: str, values: Mapping[str, Any]) -> bool:
    option, _, value = need.removeprefix("not ").partition("=")
    holds = str(values[option]).lower() == value if value else values[option] not in (False, 0, None, "disabled")
    return holds != need.startswith("not ")


def _check_option(where: str, annotation: str, value: Any) -> None:
    """The shape of an option, which a recipe takes apart before any stage can check it."""
    if annotation == "bool" and not isinstance(value, bool):
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass True or False.")
    if annotation == "str" and not isinstance(value, str):
        raise OptionError(f"{where} = {value!r} is a {type(value).__name__}; pass a string.")
    if annotation.startswith("tuple["):
        wanted = annotation.count(",") + 1
        if not isinstance(value, (tuple, list)) or len(cast("tuple[Any, ...]", value)) != wanted:
            raise OptionError(f"{where} = {value!r}: pass a tuple of {wanted} numbers.")


@functools.cache
def _load_recipes() -> None:
    importlib.import_module("gradchain.recipes")  # registers ours


def find_recipe(name: str) -> Recipe:
    _load_recipes()
    if not isinstance(name, str) or name not in _recipes:
        raise UnknownNameError(f"unknown recipe {name!r}. {nearest(str(name), _recipes)}")
    return _recipes[name]


def recipe(name: str, **options: Any) -> Chain:
    """The chain of a recipe.

    >>> gradchain.recipe("adamw", lr=3e-4).names
    ('first_moment', 'second_moment', 'divide', 'decoupled_decay', 'scale_by_learning_rate')
    """
    return find_recipe(name)(**options)


def recipe_names() -> tuple[str, ...]:
    """The names of all recipes, as `gradchain.recipes()` gives them."""
    _load_recipes()
    return tuple(sorted(_recipes))

"""How the class of a recipe presents itself: the signature of its `__init__`, and its docstring with the algorithm."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import Recipe
from gradchain._optim.optimizer import Optimizer
from gradchain.errors import ChainError


def signature_of(recipe: Recipe) -> inspect.Signature:
    """`(self, params, lr=..., ...)`: the options of the recipe, then those of `gradchain.Optimizer`, as real types."""
    first, options = typed(Optimizer.__init__)[1], typed(recipe.build)
    if shared := RUN & {p.name for p in options}:
        raise ChainError(
            f"recipe {recipe.name!r} cannot have a class: its option {min(shared)!r} is one of every optimizer. Rename it."
        )
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in options if p.kind is not p.KEYWORD_ONLY]
    named = [p for p in options if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([own, first.replace(default=inspect.Parameter.empty), *positional, *named, *KEYWORDS])


def typed(function: Any) -> list[inspect.Parameter]:
    """The parameters of a function; annotations are types where they can be found."""
    function = inspect.unwrap(function)
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # what it names is there for type checkers only
        hints = {}
    found = inspect.signature(function).parameters.values()
    return [p.replace(annotation=hints.get(p.name, p.annotation)) for p in found]


KEYWORDS = [p for p in typed(Optimizer.__init__) if p.kind is p.KEYWORD_ONLY]
"""The keywords of every optimizer, which are not its chain's."""

RUN = frozenset(p.name for p in KEYWORDS)
"""Their names."""


def docstring(recipe: Recipe) -> str:
    """What the recipe does, its algorithm with default options, and its arguments."""
    summary, _, rest = (inspect.getdoc(recipe.build) or recipe.name).partition("\n")
    about = [part for part in rest.strip().split("\n\n") if not part.startswith(("Returns:", "Raises:"))]
    last = (
        "All keywords of `gradchain.Optimizer` are taken too.\n\n"
        "Raises:\n"
        "    UnknownOptionError: there is no such option.\n"
        "    OptionError: a value is out of range, or means nothing with the others.\n"
        "    ParameterError: the parameters cannot be stepped.\n\n"
        f"Source: {recipe.source}."
    )
    parts = [summary, _algorithm(recipe), *about, last]
    return "\n\n".join(part for part in parts if part)


def _algorithm(recipe: Recipe) -> str:
    """The stages of the recipe with default options, one a line, with their equations."""
    try:
        chain = recipe()
    except TypeError:  # an option has no default
        return ""
    lines = [
        "Algorithm, with default options, for each parameter $\\theta$ with gradient $g$ at step $t$:",
        "",
        "$$u \\leftarrow g$$",
        *_steps(chain),
        f"{len(chain) + 1}. write the parameter: $$\\theta \\leftarrow \\theta - \\text{{decay}} - u$$",
    ]
    return "\n".join(lines)


def _steps(chain: Chain) -> Iterator[str]:
    for number, (address, stage) in enumerate(chain.addressed, start=1):
        doc = inspect.getdoc(type(stage)) or ""
        summary, equation = doc.split("\n", 1)[0], doc.partition("$$")[2].partition("$$")[0]
        yield f"{number}. `{address}`: {summary}" + (f" $${' '.join(equation.split())}$$" if equation else "")

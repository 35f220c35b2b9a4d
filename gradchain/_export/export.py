"""`gradchain.export`: a chain as the text of one file."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._chain.evaluation import EvaluationPoint
from gradchain._chain.extra_evaluation import check_single
from gradchain._chain.recipes import find_recipe, load_chain, recipe_names
from gradchain._core.fields import as_tuple, dtype_name
from gradchain._export.cases import Cases
from gradchain._export.module import Described, Module
from gradchain._export.trace import Tracer
from gradchain._export.verify import verify
from gradchain.errors import ChainError, OptionError, shown
from gradchain.optim import class_name


def export(chain: Chain | str, *, name: str | None = None, dtypes: Sequence[str] = ("fp32",), **options: Any) -> str:
    """Write a chain as one file that needs torch and nothing else: a `torch.optim.Optimizer` of straight-line code.

    The file is made from a trace of the stages on parameters of many shapes, and is run against the chain before it is
    returned. Its state has the names that it has in gradchain.

    Args:
        chain: a chain, the name of a recipe, or the path of a config.
        name: the name of the class; by default that of the recipe's class, or `Exported`.
        dtypes: those of the parameters that it is for, of `"fp32"` (default), `"fp64"`, `"bf16"`, `"fp16"`.
        options: of the recipe or chain, by name.

    Returns: the text of the file.
    Raises: ChainError: a stage does what cannot be written down, with its name and the reason; OptionError: a name that is
        no identifier, or a dtype that is none of these; UnknownNameError, UnknownOptionError: as for `recipe`.

    >>> text = gradchain.export("sgd", lr=0.1)
    >>> [line for line in text.splitlines() if line.startswith("class")]
    ['class SGD(torch.optim.Optimizer):']
    """
    known = isinstance(chain, str) and chain in recipe_names()
    built = load_chain(chain, options)
    chosen = name if name is not None else class_name(str(chain)) if known else "Exported"
    if not isinstance(chosen, str) or not chosen.isidentifier() or keyword.iskeyword(chosen):
        raise OptionError(f"name = {shown(name)} cannot be the name of a class. Pass one such as 'MyOptimizer'.")
    wanted = _dtypes(dtypes)
    _check_one_point(built)
    check_single(built, "the optimizer of a file evaluates a closure once")
    tracer = Tracer(built)
    cases = Cases(tracer)
    steps = cases.all(wanted)
    title = find_recipe(str(chain)).summary if known else f"{chosen}: a chain of {len(built)} stages."
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    origin = (f"recipe {chain}" if known else "a chain") + (f" with {given}" if given else "")
    module = Module(built, tracer.graph, steps, tracer.share(), cases.unseen, tracer.mixed, cases.by_role())
    text = module.write(Described(chosen, title, origin, _version()))
    verify(built, text, chosen, wanted)
    return text


def _check_one_point(chain: Chain) -> None:
    """Raise `ChainError` if parameters are to be seen at another point than the one that they are trained at."""
    point = next((address for address, stage in chain.addressed if isinstance(stage, EvaluationPoint)), None)
    if point is not None:
        raise ChainError(
            f"{point} shows parameters at another point than the one that it trains them at, by optimizer.eval(), which the "
            "optimizer of a file has not. Remove it, or train with gradchain itself.",
            stage=point,
        )


def _dtypes(given: Any) -> tuple[str, ...]:
    given = (given,) if isinstance(given, str) else as_tuple(given)
    try:
        names = tuple(dict.fromkeys(dtype_name(dtype) for dtype in given))
    except (TypeError, ValueError):
        names = ()
    if not names or None in names:
        raise OptionError(f"dtypes = {shown(given)}: pass some of 'fp32', 'fp64', 'bf16', 'fp16'.")
    return tuple(name for name in names if name is not None)


def _version() -> str:
    try:
        return version("gradchain")
    except PackageNotFoundError:  # it runs from its source
        return "(not installed)"

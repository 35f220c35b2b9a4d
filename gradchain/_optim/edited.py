"""An optimizer whose chain is a recipe with edits, all given as strings and literals."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from gradchain._chain.edits import StageSpecs, edited, options_from
from gradchain._chain.recipes import find_recipe, is_path, load_chain
from gradchain._optim.optimizer import Optimizer
from gradchain._optim.presented import KEYWORDS, RUN, typed


class FromRecipe(Optimizer):
    """A recipe with edits, named in strings and literals: what a config file or `key=value` arguments can say.

    Args:
        params: as for `gradchain.Optimizer`.
        recipe: a name from `gradchain.recipes()`, or the path of a chain's `.toml` or `.json`.
        lr: learning rate; `None` for the recipe's.
        without: names of stages to leave out: a list, or text such as `"centralize, cv_trust_gate"`.
        replace: stages by the name of the one that they replace: `{"divide": "atan2_scale(a=1.27)"}`, or
            `"divide=atan2_scale"`. A stage is a name, a call with literals, a table such as
            `{"stage": "divide", "eps": 1e-8}`, or a list of these.
        insert_before: as `replace`, of stages to put in before another.
        insert_after: as `replace`, of stages to put in after another.
        options: of the recipe: a dict, or text such as `"betas=(0.9, 0.95), eps=1e-8"`.
        more: the keywords of `gradchain.Optimizer`, and further options: those of the recipe, or else hyperparameters and
            fields of the edited chain.

    Raises:
        UnknownNameError: there is no such recipe or stage.
        UnknownOptionError: neither the recipe nor the chain has an option.
        OptionError: a value is out of range, or an edit cannot be read.
        ChainError: the edited chain does not fit together.

    >>> params = [torch.nn.Parameter(torch.zeros(2))]
    >>> edits = {"replace": {"divide": "atan2_scale"}, "without": ["decoupled_decay"]}
    >>> optimizer = gradchain.optim.FromRecipe(params, "adamw", lr=1e-3, **edits)
    >>> optimizer.chain.names
    ('first_moment', 'second_moment', 'atan2_scale', 'scale_by_learning_rate')
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        recipe: str,
        lr: float | None = None,
        *,
        without: str | Iterable[str] | None = (),
        replace: Mapping[str, StageSpecs] | str | None = None,
        insert_before: Mapping[str, StageSpecs] | str | None = None,
        insert_after: Mapping[str, StageSpecs] | str | None = None,
        options: Mapping[str, Any] | str | None = None,
        **more: Any,
    ) -> None:
        run = {name: more.pop(name) for name in RUN & more.keys()}
        wanted = {**options_from(options), **more, **({} if lr is None else {"lr": lr})}
        own = set[str]() if is_path(recipe) else {p.name for p in find_recipe(recipe).parameters}
        chain = load_chain(recipe, {name: wanted.pop(name) for name in [*wanted] if name in own})
        chain = edited(chain, without, replace, insert_before, insert_after)
        super().__init__(params, chain.with_options(**wanted) if wanted else chain, **run)


def _signature() -> inspect.Signature:
    """That of `__init__`, with the keywords of every optimizer, for whatever reads signatures."""
    *own, more = typed(FromRecipe.__init__)
    return inspect.Signature([*own, *KEYWORDS, more])


FromRecipe.__module__ = "gradchain.optim"
FromRecipe.__init__.__signature__ = _signature()  # type: ignore[attr-defined]

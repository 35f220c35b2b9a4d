"""A class for each recipe, for trainers, launchers and config files that name an optimizer by its import path.

`gradchain.optim.Rose(params, lr=1e-3)` is `gradchain.optimizer("rose", params, lr=1e-3)` under a name of its own: a
`torch.optim.Optimizer` whose `__init__` has the options of the recipe and those of `gradchain.Optimizer`. A recipe of
your own has a class as well: `optimizer_class("my-recipe")`, or `gradchain.optim.MyRecipe` once it is registered.
`FromRecipe` takes edits as strings and literals, so that a changed chain can be named in a file too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradchain import recipes as recipes  # registers them
from gradchain._chain.recipes import Recipe, find_recipe, recipe_names
from gradchain._optim.edited import FromRecipe as FromRecipe
from gradchain._optim.optimizer import Optimizer
from gradchain._optim.presented import RUN, docstring, signature_of
from gradchain.errors import UnknownOptionError, nearest, shown

CLASSES = {
    "Rose": "rose",
    "Rose_1_0_2": "rose-1.0.2",
    "GYROAdam": "gyro-adam",
    "GYROSGD": "gyro-sgd",
    "Adams": "adams",
    "AdamW_adv": "adv-adamw",
    "AdamW_adv_OrthoGrad": "adv-adamw-orthograd",
    "AdamW_adv_Scaled": "adv-adamw-scaled",
    "Adopt_adv": "adv-adopt",
    "Adopt_adv_Factored": "adv-adopt-factored",
    "Adopt_adv_Factored_AdEMAMix": "adv-adopt-factored-ademamix",
    "Prodigy_adv": "adv-prodigy",
    "Prodigy_adv_Factored": "adv-prodigy-factored",
    "Lion_adv": "adv-lion",
    "Lion_Prodigy_adv": "adv-lion-prodigy",
    "SignSGD_adv": "adv-signsgd",
    "Muon_adv": "adv-muon",
    "AdaMuon_adv": "adv-adamuon",
    "SinkSGD_adv": "adv-sinksgd",
    "SinkGD": "sinkgd",
    "AdamW": "adamw",
    "SGD": "sgd",
    "Lion": "lion",
    "Muon": "muon",
    "NorMuon": "normuon",
    "Scion": "scion",
    "GaLoreAdamW": "galore-adamw",
    "APOLLOAdamW": "apollo",
    "SOAP": "soap",
    "Shampoo": "shampoo",
    "AdamATan2": "adam-atan2",
    "Adafactor": "adafactor",
    "CAME": "came",
    "Adam_mini": "adam-mini",
    "Hyperball": "hyperball",
    "Lamb": "lamb",
    "Lars": "lars",
    "RAdam": "radam",
    "NAdam": "nadam",
    "MARS": "mars-adamw",
    "AdaBelief": "adabelief",
    "LaProp": "laprop",
    "StableAdamW": "stable-adamw",
    "AdamWScheduleFree": "schedule-free-adamw",
    "SGDScheduleFree": "schedule-free-sgd",
    "Sophia": "sophia",
}
"""The recipes by the names of their classes: the published ones, where there are any."""

_made: dict[str, tuple[Recipe, type[Optimizer]]] = {}


def optimizer_class(recipe: str) -> type[Optimizer]:
    """The optimizer class of a recipe.

    Args:
        recipe: a name from `gradchain.recipes()`, your own among them.

    Returns:
        A subclass of `gradchain.Optimizer`, the same each time. It can be subclassed and pickled, and another process finds
        it under `gradchain.optim` if the recipe is registered there.

    Raises:
        UnknownNameError: there is no such recipe.

    >>> @gradchain.register_recipe("plain-descent", source="folklore")
    ... def plain_descent(lr: float = 0.1):
    ...     "Plain gradient descent."
    ...     return gradchain.chain(gradchain.scale_by_learning_rate(lr))
    >>> gradchain.optim.optimizer_class("plain-descent")
    <class 'gradchain.optim.PlainDescent'>
    """
    found = find_recipe(recipe)
    known = _made.get(recipe)
    if known is None or known[0] is not found:  # registered anew
        known = _made[recipe] = (found, _class_of(found))
    return known[1]


def class_name(recipe: str) -> str:
    """The name of a recipe's class: the published one, or the recipe's name in capitals, as `MyRecipe` for `my-recipe`.

    Returns: the name; whether there is such a recipe does not matter.

    >>> gradchain.optim.class_name("gyro-adam"), gradchain.optim.class_name("my-recipe")
    ('GYROAdam', 'MyRecipe')
    """
    known = next((name for name, held in CLASSES.items() if held == recipe), None)
    words = "".join(x if x.isalnum() else " " for x in recipe).split()
    return known or "".join(word[:1].upper() + word[1:] for word in words)


def _class_of(recipe: Recipe) -> type[Optimizer]:
    name, signature = class_name(recipe.name), signature_of(recipe)

    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        known = [option for option in signature.parameters if option not in ("self", "params")]
        if unknown := [option for option in kwargs if option not in signature.parameters]:
            raise UnknownOptionError(f"{name} has no option {shown(unknown[0])}. {nearest(unknown[0], known)}")
        try:
            given: Mapping[str, Any] = signature.bind(self, *args, **kwargs).arguments
        except TypeError as error:
            raise UnknownOptionError(f"{name}: {error}. It has: params, {', '.join(known)}") from None
        chain = recipe(**{option: given[option] for option in given if option in options})
        Optimizer.__init__(self, given["params"], chain, **{option: given[option] for option in given if option in RUN})

    options = {parameter.name for parameter in recipe.parameters}
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__annotations__ = {p.name: p.annotation for p in signature.parameters.values() if p.name != "self"}
    __init__.__qualname__ = f"{name}.__init__"
    body = {"__init__": __init__, "__module__": __name__, "__doc__": docstring(recipe), "recipe": recipe.name}
    return type(name, (Optimizer,), body)


def __getattr__(name: str) -> type[Optimizer]:
    recipe = CLASSES.get(name) or next((held for held in recipe_names() if class_name(held) == name), None)
    if recipe is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. {nearest(name, __dir__())}")
    return optimizer_class(recipe)


def __dir__() -> list[str]:
    return sorted({*map(class_name, recipe_names()), "FromRecipe", "class_name", "optimizer_class"})


__all__ = ["FromRecipe", "class_name", "optimizer_class", *CLASSES]  # pyright: ignore[reportUnsupportedDunderAll]

"""`gradchain warm`: compile a chain's step for a model before anybody waits for it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gradchain.cli.app import app
from gradchain.cli.helpers import OptionOption, RecipeArgument, one_line_errors, options_of
from gradchain.errors import ConfigError, OptionError, shown

STEPS = 2
"""The first step may be another than those that follow, as where something is refreshed every few steps."""


@app.command()
def warm(
    recipe: RecipeArgument,
    model: Annotated[
        str,
        typer.Option(metavar="MODULE:FACTORY", help="A function that returns a model, or its (named) parameters."),
    ],
    option: OptionOption = None,
) -> None:
    """Compile the step of a recipe for your model, so that later processes find its kernels on disk.

    The model is made, stepped twice with gradients of zero, and thrown away. The kernels go where inductor keeps them
    (TORCHINDUCTOR_CACHE_DIR). They serve parameters of the same shapes, dtypes and devices, and the same options.
    """
    with one_line_errors():
        import torch  # here, because it takes a while to import

        import gradchain
        from gradchain._chain.recipes import load_chain

        chain = load_chain(recipe, options_of(option))
        made = _made(model)
        start = time.perf_counter()
        optimizer = gradchain.Optimizer(made, chain, compile=True)
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.zeros_like(param) if param.requires_grad else None
        for _ in range(STEPS):
            optimizer.step()
        report = optimizer.compile_report()
        typer.echo(f"{report}\n{time.perf_counter() - start:.1f} s")
        if report.fallbacks:
            raise typer.Exit(1)


def _made(place: str) -> Any:
    """What the factory at a place returns."""
    from gradchain._chain.named import find_place, is_place

    if not is_place(place):
        raise OptionError(f"--model {shown(place)} is not of the form module:factory, such as mymodels:gpt2.")
    factory = find_place(place)
    if not callable(factory):
        raise OptionError(f"--model {place} is {type(factory).__name__}; name a function that returns a model.")
    try:
        return factory()
    except Exception as error:
        raise ConfigError(f"{place}() raised {type(error).__name__}: {str(error)[:300]}") from error

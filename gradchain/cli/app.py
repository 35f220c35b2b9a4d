"""The command line: the application, and the commands that look at recipes."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

import gradchain
from gradchain._chain import registry
from gradchain._chain.chain import Chain
from gradchain._chain.named import import_named, load_entry_points
from gradchain._chain.recipes import find_recipe, load_chain, recipe_names
from gradchain._chain.show import stage_row
from gradchain._export.export import export
from gradchain.cli.helpers import OptionOption, RecipeArgument, one_line_errors, options_of, progress_bar
from gradchain.errors import OptionError
from gradchain_command.pages import Names, Page, add, console, print_names, print_recipe, table

app = typer.Typer(
    name="gradchain",
    help="Composable gradient transformations for PyTorch: look at recipes, and find out what their stages are good for.",
    invoke_without_command=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def main(
    modules: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import a module of yours that registers things; repeatable."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version, and nothing else.")] = False,
) -> None:
    """Composable gradient transformations for PyTorch: look at recipes, and find out what their stages are good for."""
    if version:
        typer.echo(gradchain.__version__)
        raise typer.Exit
    with one_line_errors():
        if "" not in sys.path:
            sys.path.insert(0, "")  # modules in the current folder, as for `python -m`
        load_entry_points()
        for module in modules or []:
            import_named(module)


@app.command("list")
def list_command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")] = False,
) -> None:
    """All recipes and transforms."""
    with one_line_errors():
        if json:
            typer.echo(dumps(names(), indent=2, ensure_ascii=False))
        else:
            print_names(names())


@app.command()
def show(
    recipe: RecipeArgument,
    option: OptionOption = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print the chain as TOML, and nothing else.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the chain as JSON, and nothing else.")] = False,
) -> None:
    """A recipe's chain as a table, with the source of each stage."""
    with one_line_errors():
        if toml and json:
            raise OptionError("--toml and --json exclude each other; pass one.")
        chain = load_chain(recipe, options_of(option))
        if toml or json:
            typer.echo(chain.to_toml() if toml else chain.to_json(), nl=False)
        else:
            print_recipe(recipe, page(recipe, chain))


@app.command("export")
def export_command(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="The file to write [default: print it].")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the class [default: the recipe's].")] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="Of the parameters: fp32, fp64, bf16, fp16; repeatable.")
    ] = None,
    option: OptionOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a recipe as one file that needs torch and nothing else."""
    with one_line_errors():
        if out is not None and out.exists() and not force:
            raise OptionError(f"{out} is there already. Pass --force to overwrite it, or another --out.")
        text = export(recipe, name=name, **({"dtypes": tuple(dtype)} if dtype else {}), **options_of(option))
        if out is None:
            typer.echo(text, nl=False)
            return
        out.write_text(text, encoding="utf-8")
        found = next(line for line in text.splitlines() if line.startswith("class "))
        typer.echo(f"{out}: {found[6:].partition('(')[0]}, {len(text.splitlines())} lines")


@app.command()
def check(recipe: RecipeArgument, option: OptionOption = None) -> None:
    """Find stages, hyperparameters and options that change nothing. Exits with 1 if there are any."""
    with one_line_errors():
        from gradchain import audit

        with progress_bar() as watch:
            report = audit.check(recipe, watch=watch, **options_of(option))
        findings = table(*audit.HEADER)
        for found in report.findings:
            add(findings, *found.cells)
        console().print(findings)
        typer.echo(f"\n{report.summary}")
        if not report.ok:
            raise typer.Exit(1)


@app.command("new-transform")
def new_transform(
    name: Annotated[str, typer.Argument(help="Of its class and its module.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("."),
) -> None:
    """Write NAME.py, a transform to begin with, and test_NAME.py, which checks it, into the folder of --out."""
    with one_line_errors():
        from gradchain.testing.new_transform import write_transform  # here, because it loads all laws

        for path in write_transform(name, out):
            typer.echo(f"wrote {path}")
        typer.echo(f"Check it: python -m pytest {out / f'test_{name}.py'}")


# What is printed.


def names() -> Names:
    """All recipes and transforms, with what they are."""
    recipes = {name: find_recipe(name) for name in recipe_names()}
    return {
        "recipes": {name: {"summary": each.summary, "source": each.source} for name, each in recipes.items()},
        "transforms": {name: {"summary": _summary(stage)} for name, stage in registry.stages().items()},
    }


def page(recipe: str, chain: Chain) -> Page:
    """What is shown of a recipe's chain. It need not have a config: a label function may have no name."""
    known = find_recipe(recipe) if recipe in recipe_names() else None
    return {
        "summary": known.summary if known else "",
        "source": known.source if known else "",
        "rows": [(*stage_row(address, stage), stage.source) for address, stage in chain.addressed],
    }


def _summary(stage: type[Any]) -> str:
    return (stage.__doc__ or "").strip().split("\n", 1)[0]

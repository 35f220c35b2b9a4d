"""The command line: `gradchain ablate`, `gradchain list`, `gradchain show`."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Generator
from json import dumps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import gradchain
from gradchain._chain import registry
from gradchain._chain.chain import Chain
from gradchain._chain.named import import_named, load_entry_points
from gradchain._chain.recipes import find_recipe, load_chain, recipe_names
from gradchain._chain.show import stage_row
from gradchain._export.export import export
from gradchain.errors import GradchainError, OptionError, shown

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from gradchain_command.pages import Names, Page, add, console, print_names, print_recipe, table
except ModuleNotFoundError as missing:
    raise SystemExit(
        f'{missing.name} is not installed. The command line needs it: pip install "gradchain[cli]"'
    ) from None

app = typer.Typer(
    name="gradchain",
    help="Composable gradient transformations for PyTorch: look at recipes, and find out what their stages are good for.",
    invoke_without_command=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[
    str,
    typer.Argument(help="Name of a recipe, module:name of a chain or a function, or path to a chain's .toml or .json."),
]
OptionOption = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="Option of the recipe; repeatable.")
]


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
    with _one_line_errors():
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
    with _one_line_errors():
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
    with _one_line_errors():
        if toml and json:
            raise OptionError("--toml and --json exclude each other; pass one.")
        chain = load_chain(recipe, _options(option))
        if toml or json:
            typer.echo(chain.to_toml() if toml else chain.to_json(), nl=False)
        else:
            print_recipe(recipe, page(recipe, chain))


@app.command()
def ablate(
    recipe: RecipeArgument,
    task: Annotated[str, typer.Option(help="What to train on: digits, digits-conv.")] = "digits",
    seeds: Annotated[int, typer.Option(help="Runs per arm.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Instead of the task's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the task's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Instead of the recipe's. The baseline keeps its own.")] = None,
    lr_sweep: Annotated[
        bool, typer.Option("--lr-sweep", help="Give every arm the same small budget of learning rates.")
    ] = False,
    lr_factors: Annotated[
        str | None, typer.Option(metavar="F,F,...", help="The sweep's multiples of each arm's own rate.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(metavar="POINTS", help="A difference in accuracy that does not matter.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="Recipe or path to compare with, or none.")] = "adamw",
    option: OptionOption = None,
    dtype: Annotated[str, typer.Option(help="Of the network: fp32, bf16, fp64.")] = "fp32",
    out: Annotated[Path | None, typer.Option(help="Directory for results [default: runs/RECIPE-TASK].")] = None,
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Run compiled steps.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run everything again; earlier results are not used.")] = False,
) -> None:
    """Train with the full chain, without each stage in turn, and with a baseline; compare.

    Finished runs are kept in results.jsonl, so the same command resumes a study that was interrupted.
    """
    with _one_line_errors():
        from gradchain import ablation  # here, because scikit-learn and matplotlib take a while to import

        directory = out or Path("runs") / f"{ablation.study_name(recipe)}-{task}"
        with _progress_bar() as watch:
            study = ablation.ablate(
                recipe,
                task=task,
                seeds=seeds,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                lr_factors=_factors(lr_factors) if lr_factors is not None else ablation.LR_FACTORS if lr_sweep else (),
                baseline=None if baseline == "none" else baseline,
                options=_options(option),
                dtype=dtype,
                compile=compile,
                margin=margin,
                out=directory,
                fresh=fresh,
                watch=watch,
            )
        picture = ablation.plot(study, directory / "ablation.png")
        console().print(ablation.report(study))
        resumed = f" (of these runs, {study.resumed} had been there already)" if study.resumed else ""
        typer.echo(f"\nResults: {directory / ablation.RESULTS}{resumed}\nPlot:    {picture}")


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
    with _one_line_errors():
        if out is not None and out.exists() and not force:
            raise OptionError(f"{out} is there already. Pass --force to overwrite it, or another --out.")
        text = export(recipe, name=name, **({"dtypes": tuple(dtype)} if dtype else {}), **_options(option))
        if out is None:
            typer.echo(text, nl=False)
            return
        out.write_text(text, encoding="utf-8")
        found = next(line for line in text.splitlines() if line.startswith("class "))
        typer.echo(f"{out}: {found[6:].partition('(')[0]}, {len(text.splitlines())} lines")


@app.command()
def check(recipe: RecipeArgument, option: OptionOption = None) -> None:
    """Find stages, hyperparameters and options that change nothing. Exits with 1 if there are any."""
    with _one_line_errors():
        from gradchain import audit

        with _progress_bar() as watch:
            report = audit.check(recipe, watch=watch, **_options(option))
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
    with _one_line_errors():
        from gradchain.testing.new_transform import write_transform  # here, because it loads all laws

        for path in write_transform(name, out):
            typer.echo(f"wrote {path}")
        typer.echo(f"Check it: python -m pytest {out / f'test_{name}.py'}")


# Helpers.


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


def _options(given: list[str] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in given or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise OptionError(f"--option {shown(item)} is not of the form key=value.")
        options[key.strip().replace("-", "_")] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    """A Python literal (also `true`, `false`, `none`), or else the text itself."""
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    if len(text) > LONGEST:  # too much for the parser
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text


LONGEST = 200
"""Characters of a value that may be a literal."""


def _factors(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(factor) for factor in text.split(","))
    except ValueError:
        raise OptionError(f"--lr-factors {shown(text)} is not a list of numbers such as 0.1,1,10.") from None


@contextlib.contextmanager
def _progress_bar() -> Generator[Any, None, None]:
    """A bar on stderr; gives a function to report progress to."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with contextlib.ExitStack() as shown:
        bar = Progress(*columns, console=console, transient=True)
        line = bar.add_task("", total=None)

        def watch(progress: Any) -> None:
            if console.is_terminal and not bar.live.is_started:  # not before there is anything to do: errors come first
                shown.enter_context(bar)
            bar.update(line, total=progress.total, completed=progress.done, description=progress.text)

        yield watch


@contextlib.contextmanager
def _one_line_errors() -> Generator[None, None, None]:
    try:
        yield
        sys.stdout.flush()  # a full disk shows here
    except (GradchainError, ModuleNotFoundError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        _fail("interrupted; finished runs are kept, and the same command resumes.", 130)


def _fail(message: str, code: int) -> NoReturn:
    line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    with contextlib.suppress(OSError):
        typer.echo(f"gradchain: {line}", err=True)
    raise typer.Exit(code)

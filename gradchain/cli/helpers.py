"""What the commands share: their arguments, progress, and errors in one line."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Generator
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gradchain.errors import GradchainError, OptionError, shown

RecipeArgument = Annotated[
    str,
    typer.Argument(help="Name of a recipe, module:name of a chain or a function, or path to a chain's .toml or .json."),
]
OptionOption = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="Option of the recipe; repeatable.")
]
TaskOption = Annotated[str | None, typer.Option(help="A task of ours, or module:name of yours [default: digits].")]
TrainOption = Annotated[
    str | None, typer.Option(metavar="MODULE:FUNCTION", help="Your training, fn(make_optimizer, trial) -> metrics.")
]
BudgetOption = Annotated[int | None, typer.Option(help="How long to train, in the unit of the training.")]
EpochsOption = Annotated[int | None, typer.Option(help="Instead of the task's.")]
JobsOption = Annotated[int, typer.Option(help="Processes that share the runs.")]


def options_of(given: list[str] | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in given or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise OptionError(f"--option {shown(item)} is not of the form key=value.")
        options[key.strip().replace("-", "_")] = value_of(value.strip())
    return options


def value_of(text: str) -> Any:
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


def numbers_of(flag: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them. Returns: the numbers."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise OptionError(f"{flag} {shown(text)} is not a list of numbers such as 0.1,10.") from None


@contextlib.contextmanager
def progress_bar() -> Generator[Any, None, None]:
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
def one_line_errors() -> Generator[None, None, None]:
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

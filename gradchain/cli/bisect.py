"""`gradchain bisect`: which of the differences between two recipes is guilty."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gradchain.cli.app import app
from gradchain.cli.helpers import (
    BudgetOption,
    EpochsOption,
    JobsOption,
    TaskOption,
    TrainOption,
    one_line_errors,
    progress_bar,
)


@app.command()
def bisect(
    good: Annotated[str, typer.Argument(help="The recipe, module:name or path that trains well.")],
    bad: Annotated[str, typer.Argument(help="The one that does not.")],
    task: TaskOption = None,
    train: TrainOption = None,
    metric: Annotated[
        str | None, typer.Option(metavar="M", help="loss:min, accuracy:max, validation_loss<=1.5.")
    ] = None,
    budget: BudgetOption = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option(help="Runs per chain.")] = 3,
    jobs: JobsOption = 1,
) -> None:
    """Find the edits of GOOD that make it as bad as BAD, by training with parts of them.

    A chain is bad if its mean metric is nearer to that of BAD than to that of GOOD.
    """
    with one_line_errors():
        from gradchain import ablation

        asked: dict[str, Any] = {"train": train, "task": task, "metric": metric, "budget": budget, "epochs": epochs}
        asked |= {"seeds": seeds, "jobs": jobs}
        with progress_bar() as watch:
            found = ablation.bisect_training(good, bad, **asked, watch=watch)
        typer.echo(found)

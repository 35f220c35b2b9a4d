"""`gradchain ablate`: a study from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gradchain.cli.app import app
from gradchain.cli.designs import design_from
from gradchain.cli.helpers import (
    BudgetOption,
    EpochsOption,
    JobsOption,
    OptionOption,
    RecipeArgument,
    TaskOption,
    TrainOption,
    numbers_of,
    one_line_errors,
    options_of,
    progress_bar,
)
from gradchain.errors import OptionError
from gradchain_command.pages import console


@app.command()
def ablate(
    recipe: RecipeArgument,
    task: TaskOption = None,
    train: TrainOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="M", help="loss:min, accuracy:max, validation_loss<=1.5; repeatable, the first decides."),
    ] = None,
    budget: BudgetOption = None,
    epochs: EpochsOption = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the task's.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the task's network: fp32, bf16, fp64.")] = None,
    compile: Annotated[bool, typer.Option("--compile/--no-compile", help="Run compiled steps.")] = False,
    option: OptionOption = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(metavar="EDIT", help="An arm of your own, as '-centralize; lr = 0.1'; repeatable."),
    ] = None,
    add_from: Annotated[
        str | None, typer.Option(metavar="BASE", help="Arms: the recipe BASE with each edit that leads to the recipe.")
    ] = None,
    swap: Annotated[
        str | None, typer.Option(metavar="PLACE=S|S", help="Arms: other stages in the place of one.")
    ] = None,
    orders: Annotated[
        str | None,
        typer.Option(metavar="STAGE,...", help="Arms: neighbours among these in each other's place, or all."),
    ] = None,
    sweep: Annotated[str | None, typer.Option(metavar="OPTION=V|V", help="Arms: other values of an option.")] = None,
    factorial: Annotated[
        str | None,
        typer.Option(metavar="STAGE,...", help="Arms: all combinations of these (a+b: together), there and not."),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="4: a fraction of the factorial, of resolution IV.")] = None,
    interactions: Annotated[
        str | None, typer.Option(metavar="STAGE,...", help="Arms: each pair of these, there and not.")
    ] = None,
    beside: Annotated[
        str | None, typer.Option(metavar="RECIPE,...", help="Arms: these recipes, with their own defaults.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Instead of the recipe's. The baseline keeps its own.")] = None,
    baseline: Annotated[str, typer.Option(help="Recipe or path to compare with, or none.")] = "adamw",
    tune: Annotated[int, typer.Option(metavar="N", help="Trials for each arm to find its learning rate.")] = 0,
    tune_over: Annotated[str, typer.Option(metavar="NAME,...", help="What the trials look for.")] = "lr",
    tune_range: Annotated[
        str, typer.Option(metavar="F,F", help="From and to, as multiples of the arm's own.")
    ] = "0.1,10",
    tune_seeds: Annotated[int, typer.Option(help="Seeds of each trial; other ones than those of the results.")] = 1,
    seeds: Annotated[int, typer.Option(help="Runs per arm.")] = 6,
    up_to: Annotated[
        int | None, typer.Option(metavar="N", help="Double the seeds, up to N, of arms of which too little is known.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="A difference of the first metric that does not matter (of a fraction: points)."),
    ] = None,
    plan: Annotated[
        float | None, typer.Option(metavar="EFFECT", help="Only say how many seeds such a difference needs, from few.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for results [default: runs/RECIPE-TASK].")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run everything again; earlier results are not used.")] = False,
    jobs: JobsOption = 1,
) -> None:
    """Train with the full chain, with changed ones and with a baseline; compare them seed by seed.

    Finished runs are kept in results.jsonl, so the same command resumes a study that was interrupted; several machines may
    run it on one folder at the same time.
    """
    with one_line_errors():
        from gradchain import ablation  # here, because scikit-learn and matplotlib take a while to import

        place = (train or task or "digits").rpartition(":")[2]
        directory = out or Path("runs") / f"{ablation.study_name(recipe)}-{place}"
        asked: dict[str, Any] = {
            "train": train,
            "task": task,
            "metric": metric or None,
            "design": design_from(
                edit=edit,
                add_from=add_from,
                swap=swap,
                orders=orders,
                sweep=sweep,
                factorial=factorial,
                interactions=interactions,
                beside=beside,
                resolution=resolution,
            ),
            "options": options_of(option),
            "baseline": None if baseline == "none" else baseline,
            "tune_over": tuple(name.strip() for name in tune_over.split(",") if name.strip()),
            "tune_range": _pair(tune_range),
            "out": directory,
        }
        plain: dict[str, Any] = {
            "budget": budget,
            "epochs": epochs,
            "batch_size": batch_size,
            "dtype": dtype,
            "compile": compile,
            "lr": lr,
            "tune": tune,
            "tune_seeds": tune_seeds,
            "seeds": seeds,
            "up_to": up_to,
            "margin": margin,
            "fresh": fresh,
            "jobs": jobs,
        }
        with progress_bar() as watch:
            study = ablation.ablate(recipe, **asked, **plain, watch=watch)
        if plan is not None:
            typer.echo(ablation.plan(study, plan))
            return
        picture = ablation.plot(study, directory / "ablation.png")
        page = ablation.write_html(study, directory / "report.html")
        console().print(ablation.report(study))
        resumed = f" (of these runs, {study.resumed} had been there already)" if study.resumed else ""
        typer.echo(f"\nResults: {directory / ablation.RESULTS}{resumed}\nPlot:    {picture}\nReport:  {page}")


def _pair(text: str) -> tuple[float, float]:
    numbers = numbers_of("--tune-range", text)
    if len(numbers) != 2:
        raise OptionError(f"--tune-range {text!r}: pass two factors, such as 0.1,10.")
    return numbers[0], numbers[1]

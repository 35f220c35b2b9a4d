"""The study: every arm with every seed, the same for all."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._chain.named import find_place, is_place
from gradchain._chain.recipes import is_path, load_chain
from gradchain._core.text import Progress
from gradchain.ablation import builtin as builtin
from gradchain.ablation.analysis import rows, value_of
from gradchain.ablation.arms import Arm, Design
from gradchain.ablation.asked import check_asked, check_looks, metrics_of
from gradchain.ablation.designs import leave_one_out
from gradchain.ablation.errors import StudyError
from gradchain.ablation.execution import Executor, Worker, check_executor, job_of
from gradchain.ablation.ledger import RESULTS as RESULTS
from gradchain.ablation.reports import report_text
from gradchain.ablation.results import Result, Results, Tuned
from gradchain.ablation.run import Run, Settings
from gradchain.ablation.saved import read_study, write_study
from gradchain.ablation.task import Task, find_task, with_settings
from gradchain.ablation.trial import Metric, TrainFunction, Training
from gradchain.ablation.tuning import check_tuning, tune

SEEDS = 6
"""Runs per arm, unless a study says otherwise: the fewest of which sign flips can find a difference of one arm."""

Watch = Callable[[Progress], None]


class Study(Results):
    """Everything a report needs. `print(study)` shows it; `gradchain.ablation.plot(study, path)` draws it."""

    def __str__(self) -> str:
        return report_text(self)


def ablate(
    recipe: str | Chain,
    *,
    train: TrainFunction | Training | str | None = None,
    task: str | Task | Training | None = None,
    design: Design | Callable[[Chain], Design] | None = None,
    metric: str | Metric | Sequence[str | Metric] | None = None,
    seeds: int = SEEDS,
    up_to: int | None = None,
    budget: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    lr: float | None = None,
    baseline: str | Chain | None = "adamw",
    options: Mapping[str, Any] | None = None,
    compile: bool = False,
    margin: float | None = None,
    tune: int = 0,
    tune_over: Sequence[str] = ("lr",),
    tune_range: tuple[float, float] = (0.1, 10.0),
    tune_seeds: int = 1,
    out: str | Path | None = None,
    fresh: bool = False,
    jobs: int = 1,
    executor: Executor | None = None,
    watch: Watch | None = None,
) -> Study:
    """Train with a chain and with changed ones, and with a baseline; compare them seed by seed.

    Args:
        recipe: the name of a recipe (yours too), a path to a chain's `.toml` or `.json`, or a chain.
        train: your training, `fn(make_optimizer, trial) -> metrics`, a `Training` made of it, or where it is,
            `"module:function"`.
        task: instead of `train`, a name of `tasks()` or a `Task`; `"digits"` if neither is given.
        design: which chains to compare, of those in `gradchain.ablation.designs`, or a function of the chain that returns
            one. By default the chain without each of its stages in turn.
        metric: what counts, the first decides: names of the training's own metrics, `"accuracy:max"`, `"loss:min"`,
            or the steps it takes to a target, `"validation_loss<=1.5"`.
        seeds: runs per arm. Arms with the same seed see the same data, initial weights and batches.
        up_to: go on, doubling the seeds, up to so many, with the arms of which too little is known.
        budget: how long to train, in the unit of the training.
        epochs, batch_size, dtype: instead of the task's; dtype of the network is `"fp32"`, `"bf16"` or `"fp64"`.
        lr: instead of the recipe's; the baseline keeps its own.
        baseline: another recipe, path or chain, or `None`.
        options: of the recipe.
        compile: run compiled steps.
        margin: a difference of the first metric that does not matter (in points, if that is a fraction): arms may then be
            called equivalent. By default that of the task, if it has one and its own first metric decides.
        tune: trials for each arm to find the hyperparameters `tune_over` at `tune_range` times its own, by Optuna, with
            `tune_seeds` other seeds. The first trial of each arm has its own values.
        out: directory for the results, from which an interrupted study resumes; `None` keeps nothing.
        fresh: run everything again, without reading earlier results.
        jobs: processes that share the runs. Other machines may share them too, by the same call on the same `out`.
        executor: does the runs instead: whatever has `submit(function, *args)`, as `concurrent.futures`, submitit or dask.
        watch: called with a `Progress` before each run and at the end.

    Returns: the study, to be printed, plotted or reported.
    Raises: StudyError, OptionError, ConfigError: something cannot be run as asked; or no gradient arrived, all arms gave the
        same, or every run failed.

    >>> print(ablate("rose", seeds=3, epochs=2))
    """
    check_asked(
        recipe=recipe, baseline=baseline, options=options, compile=compile, fresh=fresh, out=out, watch=watch,
        seeds=seeds, budget=budget, epochs=epochs, batch_size=batch_size, margin=margin, jobs=jobs,
        tune=tune, tune_seeds=tune_seeds,
    )  # fmt: skip
    check_executor(executor, jobs)
    looks = check_looks(seeds, up_to)
    tuned = check_tuning(tune, tune_over, tune_seeds, tune_range)
    training = training_of(train, task, metric, budget=budget, epochs=epochs, batch_size=batch_size, dtype=dtype)
    margin = training.margin if margin is None else margin
    chain = load_chain(recipe, options or {})
    chain = chain if lr is None else chain.with_options(lr=lr)
    planned = _design(design, chain, baseline)
    if len(looks) > 1 and planned.contrasts:
        raise StudyError(
            f"up_to = {up_to}: a design with contrasts takes a fixed number of seeds; leave up_to out, or pass more seeds."
        )
    _check_tunable(tuned, planned)
    folder = None if out is None else Path(out)
    settings = Settings(training, training.budget, compile)
    with Worker(folder, fresh=fresh, jobs=jobs, executor=executor, watch=watch) as worker:
        found = _Runs(settings, planned, looks, tuned, margin, worker, folder)
        results = found.results()
        worker.tell("done")
    study = Study(
        name=study_name(recipe),
        settings=settings,
        metrics=training.metrics,
        design=planned,
        results=results,
        looks=found.looks,
        planned_looks=len(looks),
        tuned=tuned,
        margin=margin,
        resumed=worker.resumed,
        folder=None if folder is None else str(folder),
        command=_command(),
    )
    _check_told_apart(study)
    if folder is not None:
        write_study(study, folder)
    return study


class _Runs:
    """The runs of a study: tuning first, then look after look, until all arms are told apart or the seeds are used up."""

    def __init__(
        self,
        settings: Settings,
        design: Design,
        looks: tuple[int, ...],
        tuned: Tuned | None,
        margin: float | None,
        worker: Worker,
        folder: Path | None,
    ) -> None:
        self.settings, self.design, self.tuned, self.worker = settings, design, tuned, worker
        self.planned, self.margin = looks, margin
        self.looks: tuple[int, ...] = ()
        arms = design.arms
        worker.expect(len(arms) * (looks[0] + (tuned.trials * tuned.seeds if tuned else 0)))
        tuners = tune(arms, settings, tuned, worker, folder) if tuned else []
        self.chains = [tuner.best for tuner in tuners] or [arm.chain for arm in arms]
        self.trials = [tuple(run for runs in tuner.runs for run in runs) for tuner in tuners] or [()] * len(arms)
        self.runs: list[list[Run]] = [[] for _ in arms]

    def results(self) -> tuple[Result, ...]:
        """Do the runs. Returns: the arms with them."""
        open_arms = [*range(len(self.design.arms))]
        for look in self.planned:
            self.worker.expect(self.worker.done + sum(look - len(self.runs[place]) for place in open_arms))
            self._run_to(look, open_arms)
            self.looks += (look,)
            if look < self.planned[-1]:
                open_arms = [0, *self._unresolved()]
                if len(open_arms) == 1:
                    break
        return self._results()

    def _run_to(self, look: int, open_arms: Sequence[int]) -> None:
        # Seeds outside, arms inside: a machine that slows down does so for every arm.
        wanted = [(seed, place) for seed in range(look) for place in open_arms if seed >= len(self.runs[place])]
        if not any(self.runs):  # the first seed by itself: what is wrong with a training shows here
            first = [pair for pair in wanted if pair[0] == 0]
            self._run(first)
            _check_first([self.runs[place][0] for place in open_arms])
            wanted = wanted[len(first) :]
        self._run(wanted)

    def _run(self, pairs: Sequence[tuple[int, int]]) -> None:
        arms = self.design.arms
        jobs = [job_of(self.chains[place], self.settings, seed, arms[place].label) for seed, place in pairs]
        for (_, place), run in zip(pairs, self.worker(jobs)):
            self.runs[place].append(run)

    def _unresolved(self) -> list[int]:
        so_far = Results(
            "", self.settings, self.settings.training.metrics, self.design, self._results(), self.looks,
            len(self.planned), margin=self.margin,
        )  # fmt: skip
        judged = enumerate(rows(so_far))
        return [
            place
            for place, row in judged
            if row.judgement is not None
            and row.judgement.verdict == "not resolved"
            and len(self.runs[place]) == self.looks[-1]
        ]

    def _results(self) -> tuple[Result, ...]:
        arms = zip(self.design.arms, self.chains, self.runs, self.trials)
        return tuple(Result(arm, chain, tuple(runs), trials) for arm, chain, runs, trials in arms)


def load_study(folder: str | Path) -> Study:
    """Read a study from the directory of its results. Returns: the study, as it was when it ended.

    Raises: StudyError: there is none, or its stages or runs are not known.
    """
    return Study(**vars(read_study(Path(folder))))


def training_of(
    train: Any,
    task: Any,
    metric: Any,
    *,
    budget: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
) -> Task | Training:
    """The training that is asked for, with its metrics and settings.

    Raises: StudyError: there is none such, or it has no such metric or setting.
    """
    found = with_settings(_named(train, task), epochs=epochs, batch_size=batch_size, dtype=dtype, budget=budget)
    metrics = metrics_of(metric, found)
    return replace(found, metrics=metrics, margin=found.margin if metrics[0] == found.metrics[0] else None)


def _named(train: Any, task: Any) -> Task | Training:
    if train is not None and task is not None:
        raise StudyError("train and task exclude each other; pass one.")
    if isinstance(train, str):
        if not is_place(train):
            raise StudyError(f"train = {train!r}: say where the function is, as 'module:function'.")
        train = find_place(train)
    if train is not None:
        return train if isinstance(train, (Task, Training)) else Training(train)
    return task if isinstance(task, (Task, Training)) else find_task("digits" if task is None else task)


def _design(design: Any, chain: Chain, baseline: str | Chain | None) -> Design:
    other = None if baseline is None else (study_name(baseline, "baseline"), load_chain(baseline, {}))
    if design is None:
        return leave_one_out(chain, other)
    found = design if isinstance(design, Design) else design(chain)
    if other is None or any(arm.chain == other[1] for arm in found.arms):
        return found
    return replace(found, arms=(*found.arms, Arm(other[0], other[1], "baseline")))


def _check_tunable(tuned: Tuned | None, design: Design) -> None:
    for name in tuned.over if tuned else ():
        if not any(name in arm.chain.hyperparameters for arm in design.arms):
            raise StudyError(f"tune_over: no arm has a hyperparameter {name!r}. Leave it out.")


def _check_first(runs: Sequence[Run]) -> None:
    """Raises: StudyError: no arm got through the first seed."""
    if all(run.failed for run in runs):
        raise StudyError(f"every arm failed with the first seed, so the training does not work: {runs[0].failed}")


def _check_told_apart(study: Results) -> None:
    """Raises: StudyError: there are several arms, and the first metric is the same in all runs of each seed."""
    first = study.metric
    values = [[value_of(run, first) for run in result.runs[: study.looks[0]]] for result in study.results]
    if len(values) < 2 or any(each != values[0] for each in values) or None in values[0]:
        return
    same = len({run.weights for result in study.results for run in result.runs if run.seed == 0}) == 1
    raise StudyError(
        f"all {len(values)} arms gave exactly the same {first.name} with every seed"
        + (
            ", and the same weights: in this setting no stage does anything."
            if same
            else ", though their weights differ."
        )
        + " Take a metric that tells them apart, such as a loss, or train for longer."
        + ("" if study.folder is None else f" The runs are kept in {study.folder}.")
    )


def study_name(recipe: str | Chain, unnamed: str = "chain") -> str:
    """Name a chain for reports and directories. Returns: the recipe's name or the file's stem; for a chain, `unnamed`."""
    if isinstance(recipe, Chain):
        return unnamed
    return Path(recipe).stem if is_path(recipe) else recipe.rpartition(":")[2]


def _command() -> str | None:
    """The command line, if it is ours."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join(["gradchain", *sys.argv[1:]]) if name == "gradchain" else None

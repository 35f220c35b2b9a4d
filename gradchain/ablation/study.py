"""The study: every arm with every seed, the same for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import is_path, load_chain
from gradchain._core.text import Progress
from gradchain.ablation.arms import Arm
from gradchain.ablation.designs import leave_one_out
from gradchain.ablation.errors import StudyError
from gradchain.ablation.ledger import Ledger
from gradchain.ablation.report import report_text
from gradchain.ablation.results import Result, Results
from gradchain.ablation.run import Run, Settings, run_key, train
from gradchain.ablation.task import DTYPES, Task, find_task
from gradchain.errors import kind_of, shown

LR_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
RESULTS = "results.jsonl"


Watch = Callable[[Progress], None]


class Study(Results):
    """Everything a report needs. `print(study)` shows it; `gradchain.ablation.plot(study, path)` draws it."""

    def __str__(self) -> str:
        return report_text(self)


def ablate(
    recipe: str | Chain,
    *,
    task: str | Task = "digits",
    seeds: int = 3,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    lr_factors: Sequence[float] = (),
    baseline: str | Chain | None = "adamw",
    options: Mapping[str, Any] | None = None,
    dtype: str = "fp32",
    compile: bool = False,
    margin: float | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    watch: Watch | None = None,
) -> Study:
    """Train with a chain, with the chain without each of its stages in turn, and with a baseline.

    Args:
        recipe: the name of a recipe (yours too), a path to a chain's `.toml` or `.json`, or a chain.
        task: a name of `tasks()`, or a `Task`.
        seeds: runs per arm. Arms with the same seed see the same data, initial weights and batches.
        epochs, batch_size: instead of the task's; examples per batch.
        lr: instead of the recipe's; the baseline keeps its own.
        lr_factors: try these multiples of each arm's learning rate with the first seed, and run all seeds with the one
            of the lowest validation loss. The budget is the same for every arm.
        baseline: another recipe, path or chain, or `None`.
        options: of the recipe.
        dtype: of the network, `"fp32"`, `"bf16"` or `"fp64"`.
        compile: run compiled steps.
        margin: a difference in accuracy, in points, that does not matter: arms may then be called equivalent.
        out: directory for `results.jsonl`, from which an interrupted study resumes; `None` keeps nothing.
        fresh: run everything again, without reading earlier results.
        watch: called with a `Progress` before each run and at the end.

    Returns: the study, to be printed or plotted.
    Raises: StudyError, OptionError, ConfigError: something cannot be run as asked.

    >>> print(ablate("rose", seeds=3))
    """
    chains, flag = "a recipe's name, a path, or a chain", "True or False"
    _check_kind("recipe", recipe, (str, Chain), chains)
    _check_kind("baseline", baseline, (str, Chain, NoneType), chains)
    _check_kind("options", options, (Mapping, NoneType), "a dict of the recipe's options by name")
    if any(not isinstance(key, str) for key in options or ()):
        raise StudyError(f"options = {shown(options)}: pass a dict of the recipe's options by name.")
    _check_kind("compile", compile, (bool,), flag)
    _check_kind("fresh", fresh, (bool,), flag)
    _check_kind("out", out, (str, Path, NoneType), "the path of a directory, or None")
    _check_kind("watch", watch, (Callable, NoneType), "a function of a Progress")
    found = task if isinstance(task, Task) else find_task(task)
    settings = Settings(
        found,
        found.epochs if epochs is None else epochs,
        found.batch_size if batch_size is None else batch_size,
        dtype,
        compile,
    )
    _check(settings, seeds, lr_factors)
    _check_margin(margin)
    chain = load_chain(recipe, options or {})
    lr_factors = tuple(lr_factors)
    chain = chain if lr is None else chain.with_options(lr=lr)
    other = None if baseline is None else (study_name(baseline, "baseline"), load_chain(baseline, {}))
    plan = leave_one_out(chain, other)
    ledger = Ledger(None if out is None else Path(out) / RESULTS, fresh)
    runner = _Runner(settings, ledger, watch, len(plan.arms) * (seeds + max(0, len(lr_factors) - 1)))
    sweeps = {arm: _sweep(arm, lr_factors, runner) for arm in plan.arms} if lr_factors else {}
    chosen = {arm: _best(sweeps[arm]) if arm in sweeps else arm.chain for arm in plan.arms}
    # Seeds outside, arms inside: a machine that slows down does so for every arm.
    runs = {(arm, seed): runner(arm, chosen[arm], seed) for seed in range(seeds) for arm in plan.arms}
    results = tuple(
        Result(
            arm,
            tuple(runs[arm, seed] for seed in range(seeds)),
            tuple(run for _, run in sweeps.get(arm, ())),
        )
        for arm in plan.arms
    )
    return Study(study_name(recipe), settings, seeds, results, plan.notes, tuple(lr_factors), runner.resumed, margin)


class _Runner:
    """Runs what is not in the ledger yet."""

    def __init__(self, settings: Settings, ledger: Ledger, watch: Watch | None, total: int) -> None:
        self.settings, self.ledger, self.watch, self.total = settings, ledger, watch, total
        self.resumed = 0
        self._seen: dict[str, Run] = {}

    def __call__(self, arm: Arm, chain: Chain, seed: int) -> Run:
        key = run_key(chain, self.settings, seed)
        if key in self._seen:  # the sweep's run with the first seed
            return self._seen[key]
        self._tell(f"{arm.label}, seed {seed}")
        run = self.ledger.get(key)
        if run is None:
            run = train(chain, self.settings, seed, arm.label)
            self.ledger.add(run)
        else:
            self.resumed += 1
        self._seen[key] = run
        if len(self._seen) == self.total:
            self._tell("done")
        return run

    def _tell(self, text: str) -> None:
        if self.watch is not None:
            self.watch(Progress(len(self._seen), self.total, text))


def _sweep(arm: Arm, factors: Sequence[float], runner: _Runner) -> list[tuple[Chain, Run]]:
    """One run of the first seed for each learning rate."""
    lr = arm.chain.hyperparameters.get("lr")
    if lr is None:
        raise StudyError(f"arm {arm.label!r} has no hyperparameter 'lr', so its learning rate cannot be swept.")
    chains = [arm.chain.with_options(lr=float(f"{lr * factor:.6g}")) for factor in factors]
    return [(chain, runner(arm, chain, 0)) for chain in chains]


def _best(sweep: list[tuple[Chain, Run]]) -> Chain:
    """The chain with the lowest validation loss; diverged runs come last."""

    def rank(item: tuple[Chain, Run]) -> tuple[bool, float]:
        loss = item[1].validation_loss
        return (item[1].diverged or loss is None, loss or 0.0)

    return min(sweep, key=rank)[0]


def study_name(recipe: str | Chain, unnamed: str = "chain") -> str:
    """Name a chain for reports and directories. Returns: the recipe's name or the file's stem; for a chain, `unnamed`."""
    if isinstance(recipe, Chain):
        return unnamed
    return Path(recipe).stem if is_path(recipe) else recipe.rpartition(":")[2]


MOST = 1_000_000


def _check(settings: Settings, seeds: int, lr_factors: Any) -> None:
    for name, value in (("seeds", seeds), ("epochs", settings.epochs), ("batch_size", settings.batch_size)):
        _check_kind(name, value, (int,), "an integer of at least 1")
        if isinstance(value, bool) or not 1 <= value <= MOST:
            bound = f"at most {MOST:,}" if value > MOST else "at least 1"
            raise StudyError(f"{name} = {shown(value)}: pass {bound}.")
    if not isinstance(settings.dtype, str) or settings.dtype not in DTYPES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"dtype = {shown(settings.dtype)} is not one of {', '.join(DTYPES)}. Pass one of these.")
    _check_kind("lr_factors", lr_factors, (list, tuple), "a list of different positive numbers")
    numbers = [f for f in lr_factors if isinstance(f, (int, float)) and not isinstance(f, bool) and 0 < f < math.inf]
    if len(set(numbers)) < len(lr_factors):
        raise StudyError(f"lr_factors = {shown(lr_factors)}: pass different positive numbers.")


def _check_margin(margin: object) -> None:
    _check_kind("margin", margin, (int, float, NoneType), "a number of points of accuracy, or None")
    if margin is not None and (isinstance(margin, bool) or not 0 < margin < math.inf):  # type: ignore[operator]
        raise StudyError(f"margin = {shown(margin)}: pass a positive number of points of accuracy.")


def _check_kind(name: str, value: object, kinds: tuple[Any, ...], wanted: str) -> None:
    if not isinstance(value, kinds):
        raise StudyError(f"{name} = {shown(value)} is {kind_of(value)}; pass {wanted}.")

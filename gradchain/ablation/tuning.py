"""An equal budget for every arm to find its hyperparameters, by Optuna, on seeds that are for nothing else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from gradchain._chain.chain import Chain
from gradchain.ablation.analysis import value_of
from gradchain.ablation.arms import Arm
from gradchain.ablation.errors import StudyError, extra
from gradchain.ablation.execution import Worker, job_of
from gradchain.ablation.ledger import LOCKS
from gradchain.ablation.results import Tuned
from gradchain.ablation.run import Run, Settings
from gradchain.ablation.thresholds import thresholds
from gradchain.ablation.trial import TUNING_SEEDS
from gradchain.errors import shown

DATABASE = "optuna.db"
EDGE = 0.05
"""How near to an end of the range counts as its edge, as a fraction of its width, both logarithmic."""


@dataclass
class Tuner:
    """The search of one arm. Suggestions depend on the results so far and on nothing else: who runs them does not matter."""

    arm: Arm
    settings: Settings
    tuned: Tuned
    chains: list[Chain] = field(default_factory=list[Chain])
    runs: list[list[Run]] = field(default_factory=list[list[Run]])

    def __post_init__(self) -> None:
        own = self.arm.chain.hyperparameters
        self._names = [name for name in self.tuned.over if _tunable(own.get(name))]
        if "lr" in self.tuned.over and "lr" not in self._names:
            raise StudyError(
                f"arm {self.arm.label!r} has no hyperparameter 'lr' that is positive, so it cannot be tuned."
            )
        low, high = self.tuned.span
        optuna = _optuna()
        self._ranges = {
            name: optuna.distributions.FloatDistribution(own[name] * low, own[name] * high, log=True)
            for name in self._names
        }
        startup = max(2, self.tuned.trials // 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that options of the sampler may change
            sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=startup, multivariate=len(self._names) > 1)
        self._study = optuna.create_study(sampler=sampler, direction=self._direction)
        self._study.enqueue_trial({name: own[name] for name in self._names})
        self._asked: Any = None

    @property
    def _direction(self) -> str:
        return "maximize" if self.settings.training.tune_on.goal == "max" else "minimize"

    def ask(self) -> list[Any]:
        """The jobs of the next trial, one for each tuning seed."""
        self._asked = self._study.ask(self._ranges)
        chosen = {name: float(f"{value:.6g}") for name, value in self._asked.params.items()}
        self.chains.append(self.arm.chain.with_options(**chosen))
        prune = thresholds([run for runs in self.runs for run in runs], self.settings.training.tune_on)
        seeds = range(TUNING_SEEDS, TUNING_SEEDS + self.tuned.seeds)
        return [job_of(self.chains[-1], self.settings, seed, self.arm.label, prune) for seed in seeds]

    def tell(self, runs: list[Run]) -> None:
        """Take the results of what was asked last."""
        self.runs.append(runs)
        score = self._score(runs)
        states = _optuna().trial.TrialState
        if score is None:
            self._study.tell(self._asked, state=states.FAIL if any(run.failed for run in runs) else states.PRUNED)
        else:
            self._study.tell(self._asked, score)

    def _score(self, runs: Sequence[Run]) -> float | None:
        values = [value_of(run, self.settings.training.tune_on) for run in runs]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None

    @property
    def best(self) -> Chain:
        """The chain with the best score; the arm's own if no trial has one."""
        scores = [(self._score(runs), chain) for runs, chain in zip(self.runs, self.chains)]
        scored = [(score, place) for place, (score, _) in enumerate(scores) if score is not None]
        if not scored:
            return self.arm.chain
        pick = max if self._direction == "maximize" else min
        return scores[pick(scored)[1]][1]

    def record(self, folder: Path) -> None:
        """Put the trials into a database that optuna-dashboard reads, unless they are there."""
        optuna = _optuna()
        url = f"sqlite:///{folder / DATABASE}"
        name = f"{self.settings.training.name}: {self.arm.label}"
        with FileLock(folder / LOCKS / "optuna.lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = optuna.create_study(storage=url, study_name=name, direction=self._direction, load_if_exists=True)
            known = {trial.user_attrs.get("key") for trial in stored.get_trials(deepcopy=False)}
            for trial, runs in zip(self._study.get_trials(), self.runs):
                if runs[0].key not in known:
                    stored.add_trial(_with_key(trial, runs[0].key))


def _with_key(trial: Any, key: str) -> Any:
    return _optuna().trial.create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"key": key},
    )


def tune(arms: Sequence[Arm], settings: Settings, tuned: Tuned, worker: Worker, folder: Path | None) -> list[Tuner]:
    """Search for every arm, trial by trial, all arms side by side. Returns: the searches, at their end."""
    tuners = [Tuner(arm, settings, tuned) for arm in arms]
    for _ in range(tuned.trials):
        asked = [tuner.ask() for tuner in tuners]
        found = iter(worker([job for jobs in asked for job in jobs]))
        for tuner, jobs in zip(tuners, asked):
            tuner.tell([next(found) for _ in jobs])
    if folder is not None:
        for tuner in tuners:
            tuner.record(folder)
    return tuners


def at_edge(chosen: float, own: float, span: tuple[float, float]) -> bool:
    """Whether a chosen value lies at an end of its range."""
    place = (math.log(chosen / own) - math.log(span[0])) / (math.log(span[1]) - math.log(span[0]))
    return not EDGE < place < 1 - EDGE


def check_tuning(trials: int, over: Sequence[str], seeds: int, span: Any) -> Tuned | None:
    """What was asked for; `None` for no trials.

    Raises: StudyError: it makes no sense.
    """
    if trials == 0:
        return None
    if trials < 2:
        raise StudyError(f"tune = {trials}: pass at least 2 trials for each arm, or 0 for none.")
    if not over or not all(isinstance(name, str) for name in over):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"tune_over = {shown(over)}: name hyperparameters, such as 'lr' and 'weight_decay'.")
    if seeds < 1:
        raise StudyError(f"tune_seeds = {seeds}: pass at least 1.")
    low, high = (float(end) for end in span)
    if not 0 < low < 1 < high < math.inf:
        raise StudyError(f"tune_range = {shown(span)}: pass two factors around 1, such as (0.1, 10).")
    return Tuned(tuple(over), trials, seeds, (low, high))


def _tunable(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _optuna() -> Any:
    optuna = extra("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

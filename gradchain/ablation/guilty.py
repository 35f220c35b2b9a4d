"""Bisection by training: a chain is bad if it trains as the bad one does."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._chain.recipes import load_chain
from gradchain._core.text import Progress
from gradchain.ablation.analysis import values_of
from gradchain.ablation.bisect import Bisection, bisect
from gradchain.ablation.errors import StudyError
from gradchain.ablation.execution import Worker, job_of
from gradchain.ablation.run import Settings
from gradchain.ablation.statistics import judged, paired_difference
from gradchain.ablation.study import training_of


def bisect_training(
    good: str | Chain,
    bad: str | Chain,
    *,
    train: Any = None,
    task: Any = None,
    metric: Any = None,
    budget: int | None = None,
    epochs: int | None = None,
    seeds: int = 3,
    jobs: int = 1,
    watch: Callable[[Progress], None] | None = None,
) -> Bisection:
    """Find a smallest part of the edits from `good` to `bad` that makes the good chain train as badly.

    Both are trained first, and must differ (t test at 5 %), or the bad one must fail or diverge. A chain in between is bad
    if its mean metric is nearer to that of the bad one. One that fails or diverges, where the bad one does not, is
    unresolved. Arguments are those of `ablate`.

    Returns: the guilty edits.
    Raises: StudyError: good and bad cannot be told apart, or the good one fails.
    """
    training = training_of(train, task, metric, budget=budget, epochs=epochs)
    ends = load_chain(good, {}), load_chain(bad, {})
    with Worker(None, jobs=jobs, watch=watch) as worker:
        return bisect(*ends, _Judge(Settings(training, training.budget), ends, seeds, worker))


class _Judge:
    """Whether a chain trains badly. It has seen the two ends."""

    def __init__(self, settings: Settings, ends: tuple[Chain, Chain], seeds: int, worker: Worker) -> None:
        self.settings, self.seeds, self.worker = settings, seeds, worker
        self.metric = settings.training.metrics[0]
        worker.expect(2 * seeds)
        good, bad = (self._values(chain, name) for chain, name in zip(ends, ("good", "bad")))
        if good is None:
            raise StudyError("the good chain fails or diverges, so there is nothing to compare with.")
        self.good = fmean(good)
        self.bad = None if bad is None else fmean(bad)
        if bad is not None and seeds > 1:
            (judgement,) = judged([paired_difference(bad, good)], higher_is_better=self.metric.higher_is_better)
            if judgement.verdict != "worse":
                raise StudyError(
                    f"with {seeds} seeds the bad chain is not worse than the good one: {self.bad:.4g} against "
                    f"{self.good:.4g} of {self.metric.name}. Pass more seeds, or exchange the chains."
                )

    def __call__(self, chain: Chain) -> bool | None:
        values = self._values(chain, "between")
        if values is None:
            return True if self.bad is None else None
        if self.bad is None:
            return False
        return abs(fmean(values) - self.bad) < abs(fmean(values) - self.good)

    def _values(self, chain: Chain, name: str) -> list[float] | None:
        runs = self.worker([job_of(chain, self.settings, seed, name) for seed in range(self.seeds)])
        return values_of(runs, self.metric)

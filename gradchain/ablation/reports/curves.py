"""Curves over steps and over hyperparameters, as means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from gradchain.ablation.analysis import value_of
from gradchain.ablation.results import Result, Results
from gradchain.ablation.run import Run
from gradchain.ablation.trial import Metric

Points = tuple[list[float], list[float]]


def curve_names(study: Results) -> list[str]:
    """The curves that the training reports, the one that belongs to the first metric before the others."""
    names = list(dict.fromkeys(name for run in study.runs for name in run.curves))
    wanted = [study.metric.of, study.metric.name, study.settings.training.tune_on.name, "validation_loss"]
    first = [name for name in wanted if name in names]
    return list(dict.fromkeys([*first, *names]))


def mean_curve(runs: Sequence[Run], name: str) -> Points:
    """The mean of a curve over seeds, as long as the shortest: a run that diverges ends early. Returns: steps and values."""
    curves = [np.asarray(run.curves[name]) for run in runs if run.curves.get(name)]
    if not curves:
        return [], []
    steps = curves[0][:, 0]
    steps = steps[steps <= min(curve[-1, 0] for curve in curves)]
    values = np.mean([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
    return steps.tolist(), values.tolist()


def tried(result: Result, name: str, metric: Metric) -> Points:
    """What an arm's trials gave at each value of a hyperparameter, the mean of their seeds. Returns: values and metrics."""
    found: dict[float, list[float]] = {}
    for run in result.trials:
        value, score = run.hyperparameters.get(name), value_of(run, metric)
        if isinstance(value, (int, float)) and score is not None:
            found.setdefault(float(value), []).append(score)
    places = sorted(found)
    return places, [fmean(found[place]) for place in places]

"""The study as data for other programs: JSON of everything, CSV of its runs."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from typing import Any

from gradchain._chain.chain import Chain
from gradchain.ablation.analysis import value_of
from gradchain.ablation.reports.findings import findings
from gradchain.ablation.reports.numbers import Numbers, numbers_of
from gradchain.ablation.reports.verdict import verdict
from gradchain.ablation.results import Result, Results
from gradchain.ablation.run import Run
from gradchain.errors import ConfigError


def to_json(study: Results) -> str:
    """Write a study as JSON: the verdict, a row for each arm, effects, chains, and all runs with their curves.

    Numbers are as they were measured (a fraction is not in percent); what is missing is `null`.

    Returns: the text.

    >>> import json
    >>> json.loads(to_json(ablate("rose", seeds=3, epochs=2)))["rows"][1]["label"]
    'without promote (+ stochastic_round)'
    """
    return json.dumps(data_of(numbers_of(study)), indent=1, ensure_ascii=False, allow_nan=False)


def data_of(numbers: Numbers) -> dict[str, Any]:
    """The content of the JSON."""
    study = numbers.study
    content = {
        "name": study.name,
        "verdict": verdict(numbers),
        "notes": findings(numbers),
        "task": {"name": study.settings.training.name, "summary": study.settings.training.summary},
        "settings": study.settings.described(),
        "metrics": [asdict(metric) for metric in study.metrics],
        "looks": list(study.looks),
        "planned_looks": study.planned_looks,
        "tuned": None if study.tuned is None else asdict(study.tuned),
        "margin": study.margin,
        "rows": [asdict(row) for row in numbers.rows],
        "effects": [asdict(effect) for effect in numbers.effects],
        "arms": [_arm(result) for result in study.results],
        "command": study.command,
        "versions": dict(study.versions),
    }
    return _plain(content)


def _arm(result: Result) -> dict[str, Any]:
    return {
        "label": result.arm.label,
        "kind": result.arm.kind,
        "edits": result.arm.edits,
        "chain": chain_text(result.chain),
        "runs": [vars(run) for run in result.runs],
        "trials": [vars(run) for run in result.trials],
    }


def chain_text(chain: Chain) -> str:
    """The chain as TOML; as Python where it has no config."""
    try:
        return chain.to_toml()
    except ConfigError:  # a label function without a registered name
        return repr(chain)


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite are missing."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def to_csv(study: Results) -> str:
    """Write the runs of a study as CSV, a line for each: its arm, seed, metrics and hyperparameters, and what it cost.

    Numbers are as they were measured, in full; what is missing is empty. Trials are not among them.

    Returns: the text.

    >>> print(to_csv(ablate("rose", seeds=3, epochs=2)).splitlines()[0])
    arm,edits,seed,accuracy,loss,lr,...
    """
    extra = dict.fromkeys(name for run in study.runs for name in run.metrics)
    names = list(dict.fromkeys([*(metric.name for metric in study.metrics), *extra]))
    chosen = list(dict.fromkeys(name for run in study.runs for name in run.hyperparameters))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "edits", "seed", *names, *chosen, *_COSTS])
    for result in study.results:
        for run in result.runs:
            hyperparameters = [run.hyperparameters.get(name) for name in chosen]
            costs = [getattr(run, name) for name in _COSTS]
            line = [result.arm.label, result.arm.edits, run.seed, *_values(run, study, names), *hyperparameters, *costs]
            writer.writerow(line)
    return text.getvalue()


_COSTS = ("steps", "seconds", "step_seconds", "state_bytes", "diverged", "failed")


def _values(run: Run, study: Results, names: list[str]) -> list[float | None]:
    metrics = {metric.name: metric for metric in study.metrics}
    return [value_of(run, metrics[name]) if name in metrics else run.metrics.get(name) for name in names]

"""A study in its folder: what was compared and how, next to the runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from gradchain._chain.chain import Chain
from gradchain.ablation.arms import Arm, Contrast, Design
from gradchain.ablation.errors import StudyError
from gradchain.ablation.ledger import Ledger
from gradchain.ablation.results import Result, Results, Tuned
from gradchain.ablation.run import Settings
from gradchain.ablation.trial import Metric, Training
from gradchain.errors import ConfigError, GradchainError

STUDY = "study.json"


def write_study(study: Results, folder: Path) -> None:
    """Write the study next to its runs.

    Raises: StudyError: it cannot be written.
    """
    training = study.settings.training
    content = {
        "name": study.name,
        "task": {
            "name": training.name,
            "summary": training.summary,
            "unit": training.unit,
            "facts": training.facts(),
            "threads": training.threads,
        },
        "tune_on": asdict(training.tune_on),
        "budget": study.settings.budget,
        "compile": study.settings.compile,
        "metrics": [asdict(metric) for metric in study.metrics],
        "arms": [_arm(result) for result in study.results],
        "contrasts": [asdict(contrast) for contrast in study.design.contrasts],
        "notes": study.design.notes,
        "looks": study.looks,
        "planned_looks": study.planned_looks,
        "tuned": None if study.tuned is None else asdict(study.tuned),
        "margin": study.margin,
        "command": study.command,
        "versions": dict(study.versions),
    }
    path = folder / STUDY
    try:
        path.with_suffix(".tmp").write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
    except OSError as error:
        raise StudyError(f"{path}: the study cannot be written: {error.strerror or error}.") from None


def _arm(result: Result) -> dict[str, Any]:
    arm = result.arm
    return {
        "label": arm.label,
        "kind": arm.kind,
        "edits": arm.edits,
        "chain": _config(arm.chain),
        "trained": _config(result.chain),
        "runs": [run.key for run in result.runs],
        "trials": [run.key for run in result.trials],
    }


def _config(chain: Chain) -> dict[str, Any] | None:
    try:
        return chain.to_config()
    except ConfigError:  # a label function without a registered name
        return None


def read_study(folder: Path) -> Results:
    """Read a study from its folder.

    Raises: StudyError: there is none; a stage is not registered; or a run is missing.
    """
    path = folder / STUDY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: {error.strerror or error}. A study is there once its last run has ended.") from None
    except ValueError:
        raise StudyError(f"{path} is not a study of this version of gradchain. Run it again.") from None
    try:
        return _read(content, Ledger(folder), str(folder))
    except StudyError:
        raise
    except GradchainError as error:
        raise StudyError(f"{path}: {error} Import the module that registers it, with --import.") from None
    except (KeyError, TypeError, AttributeError):
        raise StudyError(f"{path} is not a study of this version of gradchain. Run it again.") from None


def _read(content: dict[str, Any], ledger: Ledger, folder: str) -> Results:
    task = content["task"]
    metrics = tuple(Metric(**metric) for metric in content["metrics"])
    training = Training(
        _gone,
        task["name"],
        task["summary"],
        metrics,
        content["budget"],
        task["unit"],
        Metric(**content["tune_on"]),
        threads=task["threads"],
        settings=tuple(task["facts"].items()),
    )
    results = tuple(_result(arm, ledger) for arm in content["arms"])
    contrasts = tuple(
        Contrast(c["label"], tuple((label, weight) for label, weight in c["weights"])) for c in content["contrasts"]
    )
    tuned = content["tuned"]
    return Results(
        name=content["name"],
        settings=Settings(training, content["budget"], content["compile"]),
        metrics=metrics,
        design=Design(tuple(result.arm for result in results), contrasts, tuple(content["notes"])),
        results=results,
        looks=tuple(content["looks"]),
        planned_looks=content["planned_looks"],
        tuned=tuned and Tuned(tuple(tuned["over"]), tuned["trials"], tuned["seeds"], tuple(tuned["span"])),
        margin=content["margin"],
        folder=folder,
        command=content["command"],
        versions=tuple(content["versions"].items()),
    )


def _result(arm: dict[str, Any], ledger: Ledger) -> Result:
    found = {key: ledger.get(key) for key in (*arm["runs"], *arm["trials"])}
    if None in found.values():
        raise StudyError(f"{ledger.path} lacks runs of the arm {arm['label']!r}. Run the study again.")
    if arm["chain"] is None or arm["trained"] is None:
        raise StudyError(
            f"the arm {arm['label']!r} has a chain that no config can describe, so the study cannot be read again. "
            "Decorate its label function with @gradchain.label_function."
        )
    made = Arm(arm["label"], Chain.from_config(arm["chain"]), arm["kind"], arm["edits"])
    runs = [found[key] for key in arm["runs"]]
    trials = [found[key] for key in arm["trials"]]
    return Result(
        made,
        Chain.from_config(arm["trained"]),
        tuple(run for run in runs if run is not None),
        tuple(run for run in trials if run is not None),
    )


def _gone(*_: Any) -> NoReturn:
    raise StudyError("this study was read from its folder; to train again, run it again.")

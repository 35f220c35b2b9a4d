"""The study as a page: one file, which loads nothing."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradchain.ablation.errors import StudyError, extra
from gradchain.ablation.reports.columns import (
    cost_columns,
    edits_of,
    effect_columns,
    judged_columns,
    metric_columns,
)
from gradchain.ablation.reports.curves import curve_names
from gradchain.ablation.reports.data import chain_text, data_of, to_csv
from gradchain.ablation.reports.drawing import (
    Mark,
    arm_marks,
    difference_axis,
    draw_curves,
    draw_differences,
    draw_tried,
    effect_axis,
    effect_marks,
    height_of,
)
from gradchain.ablation.reports.findings import WARNING, chosen, described, findings, legend, looked
from gradchain.ablation.reports.numbers import Numbers, numbers_of, title
from gradchain.ablation.reports.vector import DAY, NIGHT, vector
from gradchain.ablation.reports.verdict import sentences
from gradchain.ablation.results import Results

TEMPLATE = Path(__file__).with_name("page.html")
CURVES = 6
"""Curves that are drawn; the data has all of them."""


def to_html(study: Results) -> str:
    """Write a study as one HTML page that loads nothing from elsewhere: the verdict, pictures, tables, chains and data.

    Returns: the page.

    >>> to_html(ablate("rose", seeds=3, epochs=2))[:15]
    '<!doctype html>'
    """
    numbers = numbers_of(study)
    jinja2 = extra("jinja2")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return page.render(**_drawings(numbers), **_tables(numbers), **_texts(numbers), **_data(numbers))


def write_html(study: Results, path: str | Path) -> Path:
    """Write the page of a study into a file; folders are made. Returns: its path.

    Raises: StudyError: the file cannot be written.
    """
    path = Path(path)
    text = to_html(study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path}: the report cannot be written: {error.strerror or error}.") from None
    return path


def _texts(numbers: Numbers) -> dict[str, Any]:
    study = numbers.study
    found = findings(numbers)
    training = study.settings.training
    said = chosen(study).removeprefix("Hyperparameters: ")
    said = said[:1].upper() + said[1:]
    facts = [
        ("Task", training.name),
        ("Runs", described(study)),
        ("Looks", looked(study)),
        ("Hyperparameters", said),
    ]
    return {
        "title": f"Ablation of {study.name} on {training.name}",
        "verdict": sentences(numbers),
        "warnings": [note.removeprefix(WARNING) for note in found if note.startswith(WARNING)],
        "notes": [note for note in found if not note.startswith(WARNING)],
        "legend": legend(numbers),
        "reference": numbers.reference,
        "chosen": said,
        "facts": [fact for fact in facts if fact[1]],
        "command": study.command,
        "chains": [(result.arm.label, chain_text(result.chain)) for result in study.results],
        "colours": DAY,
        "night": NIGHT,
    }


def _tables(numbers: Numbers) -> dict[str, Any]:
    return {
        "labels": [row.label for row in numbers.rows],
        "judged": judged_columns(numbers),
        "others": [(title(metric), metric_columns(numbers, metric)) for metric in numbers.study.metrics[1:]],
        "cost": cost_columns(numbers),
        "edits": edits_of(numbers),
        "effect_labels": [effect.label for effect in numbers.effects],
        "effects_columns": effect_columns(numbers) if numbers.effects else [],
    }


def _drawings(numbers: Numbers) -> dict[str, Any]:
    study = numbers.study
    tuned = () if study.tuned is None else study.tuned.over
    return {
        "differences": _differences(numbers, arm_marks(numbers), "Differences of arms", difference_axis(numbers)),
        "effects": _differences(numbers, effect_marks(numbers), "Effects", effect_axis(numbers)),
        "differences_caption": f"Differences to {numbers.reference}, with 95 % intervals. {_MARKERS}",
        "effects_caption": f"Effects with 95 % intervals. {_MARKERS}",
        "curves": [
            (name.replace("_", " "), _lines(numbers, partial(draw_curves, numbers=numbers, name=name), name))
            for name in curve_names(study)[:CURVES]
        ],
        "tried": [
            (
                "learning rate" if name == "lr" else name,
                _lines(numbers, partial(draw_tried, numbers=numbers, hyperparameter=name), name),
            )
            for name in tuned
        ],
    }


_MARKERS = "Triangles up are better, triangles down worse, squares equivalent, rings not resolved."


def _differences(numbers: Numbers, marks: list[Mark], name: str, says: str) -> str:
    if not any(mark.difference for mark in marks):
        return ""
    draw = partial(draw_differences, numbers=numbers, marks=marks, says=says)
    return vector(draw, height_of(marks), 1.2 + 0.62 * len(marks), name)


def _lines(numbers: Numbers, draw: Any, name: str) -> str:
    arms = min(len(numbers.rows), 11)
    return vector(draw, 4.2, 3.4 + 0.24 * arms, name.replace("_", " "))


def _data(numbers: Numbers) -> dict[str, Any]:
    text = json.dumps(data_of(numbers), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # nothing in it may end the script
        text = text.replace(character, f"\\u{ord(character):04x}")
    study = numbers.study
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{study.name}-{study.settings.training.name}")
    return {"json": text, "csv": quote(to_csv(study)), "file": name}

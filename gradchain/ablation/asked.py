"""What a study was asked for, looked at before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from gradchain._chain.chain import Chain
from gradchain.ablation.errors import StudyError
from gradchain.ablation.task import Task
from gradchain.ablation.trial import GOALS, Metric, Training, time_to
from gradchain.errors import kind_of, shown

MOST = 1_000_000

_TARGET = re.compile(r"\s*([^<>=:]+?)\s*(<=|>=)\s*(\S+)\s*")


def check_asked(*, options: Any, margin: Any, **asked: Any) -> None:
    """Raises: StudyError: a value of the wrong type, or out of its range."""
    chains, flag = "a recipe's name, a path, or a chain", "True or False"
    kinds: dict[str, tuple[tuple[Any, ...], str]] = {
        "recipe": ((str, Chain), chains),
        "baseline": ((str, Chain, NoneType), chains),
        "compile": ((bool,), flag),
        "fresh": ((bool,), flag),
        "out": ((str, Path, NoneType), "the path of a directory, or None"),
        "watch": ((Callable, NoneType), "a function of a Progress"),
    }
    for name, value in asked.items():
        if name in kinds:
            check_kind(name, value, *kinds[name])
        else:
            _check_count(name, value)
    check_kind("options", options, (Mapping, NoneType), "a dict of the recipe's options by name")
    if any(not isinstance(key, str) for key in options or ()):
        raise StudyError(f"options = {shown(options)}: pass a dict of the recipe's options by name.")
    check_kind("margin", margin, (int, float, NoneType), "a number, or None")
    if margin is not None and (isinstance(margin, bool) or not 0 < margin < math.inf):
        raise StudyError(f"margin = {shown(margin)}: pass a positive difference of the first metric.")


def _check_count(name: str, value: Any) -> None:
    if value is None and name in ("budget", "epochs", "batch_size"):
        return
    least = 0 if name == "tune" else 1
    if not isinstance(value, int) or isinstance(value, bool):
        raise StudyError(f"{name} = {shown(value)} is {kind_of(value)}; pass an integer of at least {least}.")
    if not least <= value <= MOST:
        bound = f"at most {MOST:,}" if value > MOST else f"at least {least}"
        raise StudyError(f"{name} = {shown(value)}: pass {bound}.")


def check_looks(seeds: int, up_to: int | None) -> tuple[int, ...]:
    """At which numbers of seeds a study is judged: doubling from `seeds` to `up_to`.

    Raises: StudyError: it does not grow.
    """
    if up_to is None:
        return (seeds,)
    check_kind("up_to", up_to, (int,), "an integer, or None")
    if not seeds < up_to <= MOST or seeds < 2:
        raise StudyError(f"up_to = {shown(up_to)}, seeds = {seeds}: begin with at least 2 seeds, and go up to more.")
    looks = [seeds]
    while looks[-1] < up_to:
        looks.append(min(2 * looks[-1], up_to))
    return tuple(looks)


def metrics_of(asked: Any, training: Task | Training) -> tuple[Metric, ...]:
    """The metrics that were asked for, or the training's own.

    Raises: StudyError: one is not a metric, or its direction is not known.
    """
    if asked is None:
        return training.metrics
    check_kind("metric", asked, (str, Metric, list, tuple), "a name, such as 'loss:min', a Metric, or a list of these")
    several = [asked] if isinstance(asked, (str, Metric)) else list(asked)
    found = tuple(each if isinstance(each, Metric) else metric_from(each, training) for each in several)
    names = [metric.name for metric in found]
    if not found or len(set(names)) < len(names):
        raise StudyError(f"metric = {shown(asked)}: name different metrics, at least one.")
    return found


def metric_from(text: Any, training: Task | Training) -> Metric:
    """Read `accuracy:max`, `validation_loss<=1.5`, or a name that the training knows.

    Raises: StudyError: it is none of these.
    """
    check_kind("metric", text, (str,), "a name, such as 'loss:min', or a Metric")
    known = {metric.name: metric for metric in (training.tune_on, *training.metrics)}
    if text in known:
        return known[text]
    target = _TARGET.fullmatch(text)
    if target:
        of, sign, number = target.groups()
        try:
            return time_to(of, float(number), "min" if sign == "<=" else "max")
        except ValueError:
            raise StudyError(f"metric {shown(text)}: {shown(number)} is not a number.") from None
    name, _, goal = text.rpartition(":")
    if name.strip() in known and known[name.strip()].goal == goal:
        return known[name.strip()]
    if name and goal in GOALS:
        return Metric(name.strip(), goal)  # type: ignore[arg-type]
    raise StudyError(
        f"metric {shown(text)}: say which way is better, as '{text.partition(':')[0]}:min' or ':max'. "
        f"{training.name} itself knows {', '.join(known)}."
    )


def check_kind(name: str, value: object, kinds: tuple[Any, ...], wanted: str) -> None:
    if not isinstance(value, kinds):
        raise StudyError(f"{name} = {shown(value)} is {kind_of(value)}; pass {wanted}.")

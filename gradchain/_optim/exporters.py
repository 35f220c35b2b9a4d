"""Where telemetry goes: a file of JSON lines, TensorBoard, experiment trackers, a function."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradchain.errors import OptionError, kind_of, shown

Numbers = Mapping[str, float]


def check_target(to: object) -> None:
    """Raise `OptionError` unless telemetry can be written there."""
    methods = ("add_scalar", "log_metrics", "log")
    if not (to is None or isinstance(to, (str, Path)) or callable(to) or any(hasattr(to, name) for name in methods)):
        raise OptionError(
            f"to = {shown(to)} is {kind_of(to)}; telemetry goes to a path (JSON lines), an object with add_scalar "
            "(TensorBoard), log_metrics (mlflow, Lightning) or log (wandb, trackio), or a function of a dict."
        )


def write(to: Any, numbers: Numbers, step: int) -> None:
    """Write the numbers of a step.

    A path gets a line of JSON, where numbers that are not finite are null. `add_scalar` is called for each number,
    `log_metrics(numbers, step=step)` or `log(numbers, step=step)` once; a function, or a `log` that takes no step, gets one
    dict with the step in it.
    """
    if to is None:
        return
    if isinstance(to, (str, Path)):
        line = {"step": step, **{name: x if math.isfinite(x) else None for name, x in numbers.items()}}
        with Path(to).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    elif hasattr(to, "add_scalar"):
        for name, value in numbers.items():
            to.add_scalar(name, value, step)
    else:
        log = getattr(to, "log_metrics", getattr(to, "log", to))
        if _takes_step(log):
            log(dict(numbers), step=step)
        else:
            log({"step": step, **numbers})


def _takes_step(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a builtin
        return False
    return any(p.name == "step" for p in parameters)

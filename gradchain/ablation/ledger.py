"""The results file: one JSON line for each finished run, from which an interrupted study resumes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradchain.ablation.errors import StudyError
from gradchain.ablation.run import Run


class Ledger:
    """Finished runs by their key, kept in a file if there is one.

    Each run is written as one line when it ends, so a killed process leaves at most one broken line, at the end; opening the
    file cuts it off. With `fresh`, earlier lines stay in the file but are not used.
    """

    def __init__(self, path: Path | None, fresh: bool = False) -> None:
        self.path = path
        self._runs: dict[str, Run] = {}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            known = _read(path) if path.exists() else []
            path.touch()
        except (OSError, ValueError) as error:  # no UTF-8, or a name that no file can have
            if isinstance(error, StudyError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise StudyError(f"{str(path)[:300]} cannot be used for results: {reason}") from None
        if not fresh:
            self._runs = {run.key: run for run in known}

    def get(self, key: str) -> Run | None:
        return self._runs.get(key)

    def add(self, run: Run) -> None:
        self._runs[run.key] = run
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(vars(run), allow_nan=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StudyError(
                f"{self.path}: a result cannot be written: {error.strerror or error}. Earlier ones are kept; make room, and "
                "run the same study again."
            ) from None


def _read(path: Path) -> list[Run]:
    content = path.read_bytes()
    whole = content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b""
    if len(whole) < len(content):
        os.truncate(path, len(whole))  # else the next line would be glued to the broken one
    runs: list[Run] = []
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], 1):
        try:
            runs.append(_sound(Run(**json.loads(line))))
        except (ValueError, TypeError, RecursionError):
            raise StudyError(
                f"line {number} of {path} is not a result of this version of gradchain; remove the line, or choose "
                "another directory for the results."
            ) from None
    return runs


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("key", "arm", "weights"), lambda x: isinstance(x, str)),
    **dict.fromkeys(("seed", "steps", "state_bytes"), lambda x: type(x) is int and x >= 0),
    **dict.fromkeys(("test_accuracy", "step_seconds"), _number),
    **dict.fromkeys(("lr", "test_loss", "validation_loss"), lambda x: x is None or _number(x)),
    "settings": lambda x: isinstance(x, dict),
    "diverged": lambda x: isinstance(x, bool),
    "curve": lambda x: (
        isinstance(x, list) and all(isinstance(p, list) and len(p) == 2 and all(map(_number, p)) for p in x)
    ),
    "advice": lambda x: isinstance(x, list) and all(isinstance(text, str) for text in x),
}


def _sound(run: Run) -> Run:
    """The run, if each of its entries is of the right type."""
    for name, good in _FORMS.items():
        if not good(getattr(run, name)):
            raise ValueError(name)
    return run

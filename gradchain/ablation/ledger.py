"""The results file: one JSON line for each finished run, shared by all processes that work on a study."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Generator
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gradchain.ablation.errors import StudyError
from gradchain.ablation.run import Run

RESULTS = "results.jsonl"
LOCKS = ".locks"


class Ledger:
    """Finished runs by their key, in a folder.

    Each run is written as one line when it ends, so a killed process leaves at most one broken line, at the end; the next
    one that writes cuts it off. Processes take turns by file locks, which the system releases when a process dies.

    Args:
        folder: where the results are; it is made.
        since: lines before this place in the file are not used.
    """

    def __init__(self, folder: Path, since: int = 0) -> None:
        self.folder, self.path, self.since = folder, folder / RESULTS, since
        self._runs: dict[str, Run] = {}
        self._read_to = since
        self._number = 0
        with self._file_errors("cannot be used for results"):
            (folder / LOCKS).mkdir(parents=True, exist_ok=True)
            self.path.touch()
            self._turn = FileLock(folder / LOCKS / "results.lock")
        self.refresh()

    @property
    def size(self) -> int:
        """Bytes of whole lines."""
        return self._read_to

    def get(self, key: str) -> Run | None:
        return self._runs.get(key)

    def refresh(self) -> None:
        """Read what other processes have added.

        Raises: StudyError: a line is no result.
        """
        with self._file_errors("cannot be read"), self.path.open("rb") as file:
            file.seek(self._read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._number += 1
            run = self._parsed(line)
            self._runs[run.key] = run
        self._read_to += len(whole)

    def add(self, run: Run) -> None:
        """Append a run.

        Raises: StudyError: it cannot be written.
        """
        line = json.dumps(vars(run), allow_nan=False).encode() + b"\n"
        with self._file_errors(
            "a result cannot be written", "Earlier ones are kept; make room, and run the same study again."
        ):
            with self._turn, self.path.open("r+b") as file:
                self.refresh()
                file.truncate(self._read_to)  # else the line would be glued to one that a killed process left
                file.seek(self._read_to)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._read_to += len(line)
            self._number += 1
        self._runs[run.key] = run

    @contextlib.contextmanager
    def claim(self, key: str) -> Generator[bool, None, None]:
        """Whether the run is ours to do: no other process is at it."""
        lock = FileLock(self.folder / LOCKS / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _parsed(self, line: bytes) -> Run:
        try:
            return _sound(Run(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            where = f"line {self._number}" if not self.since else f"a line after byte {self.since}"
            raise StudyError(
                f"{where} of {self.path} is not a result of this version of gradchain; remove the line, or choose "
                "another directory for the results."
            ) from None

    @contextlib.contextmanager
    def _file_errors(self, what: str, then: str = "") -> Generator[None, None, None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            if isinstance(error, StudyError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise StudyError(f"{str(self.path)[:300]}: {what}: {reason}. {then}".strip()) from None


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(x is None or _number(x) for x in value.values())


def _curves(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 and all(map(_number, p)) for p in points)
        for points in value.values()
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("key", "arm", "weights"), lambda x: isinstance(x, str)),
    **dict.fromkeys(("seed", "steps", "state_bytes"), lambda x: type(x) is int and x >= 0),
    **dict.fromkeys(("seconds", "step_seconds"), _number),
    **dict.fromkeys(("settings", "hyperparameters"), lambda x: isinstance(x, dict)),
    **dict.fromkeys(("diverged", "pruned"), lambda x: isinstance(x, bool)),
    "metrics": _numbers,
    "curves": _curves,
    "change": lambda x: x is None or _number(x),
    "failed": lambda x: x is None or isinstance(x, str),
    "advice": lambda x: isinstance(x, list) and all(isinstance(text, str) for text in x),
}


def _sound(run: Run) -> Run:
    """The run, if each of its entries is of the right type."""
    for entry in fields(run):
        if not _FORMS[entry.name](getattr(run, entry.name)):
            raise ValueError(entry.name)
    return run

"""The results file: one JSON line for each finished run, from which an interrupted study resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gradchain.ablation.errors import StudyError
from gradchain.ablation.run import Run


class Ledger:
    """Finished runs by their key, kept in a file if there is one.

    A line is written in one piece after its run, so a killed process leaves at most one broken line, at the end; it is cut
    off when the file is opened again. With `fresh`, earlier lines stay in the file but are not used.
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
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path} cannot be used for results: {error}") from None
        if not fresh:
            self._runs = {run.key: run for run in known}

    def get(self, key: str) -> Run | None:
        return self._runs.get(key)

    def add(self, run: Run) -> None:
        self._runs[run.key] = run
        if self.path is None:
            return
        with self.path.open("ab") as file:
            file.write(json.dumps(run.to_json(), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> list[Run]:
    content = path.read_bytes()
    whole = content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b""
    if len(whole) < len(content):
        os.truncate(path, len(whole))  # else the next line would be glued to the broken one
    runs: list[Run] = []
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], 1):
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            raise StudyError(
                f"line {number} of {path} is not a result of this version of gradchain; remove the line, or choose "
                "another directory for the results."
            ) from None
    return runs

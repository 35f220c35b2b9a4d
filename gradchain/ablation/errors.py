"""Errors of studies, and imports of packages that only they need."""

from __future__ import annotations

import importlib
from typing import Any

from gradchain.errors import GradchainError

HINT = 'is not installed. Ablation studies need it: pip install "gradchain[ablate]"'


class StudyError(GradchainError, ValueError):
    """A study that cannot be run as asked: an unknown task, no seeds, results that cannot be read."""


def extra(module: str) -> Any:
    """A module of a package that only studies need."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} {HINT}", name=error.name) from None

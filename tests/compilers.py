"""What stands in the place of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gradchain._engine import kernel


def compile_by(monkeypatch: pytest.MonkeyPatch, start: Callable[..., Any]) -> None:
    """Let another function start compiling, and nothing be found that was compiled in other runs."""
    monkeypatch.setattr(kernel, "start_compiling", start)
    find_nothing(monkeypatch)


def find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found that was compiled in other runs."""
    monkeypatch.setattr(kernel, "find", lambda name: None)

"""What can be counted in a step: numbers that do not depend on what else the machine does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

STEPS = 3


def of(optimizer: Any, prepare: Callable[[], object]) -> dict[str, int]:
    """The kernels that our side has compiled, and the functions that Python calls in a steady step."""
    seen = [calls(optimizer.step, prepare) for _ in range(STEPS)]
    kernels = {"kernels": optimizer.compile_report().kernels} if hasattr(optimizer, "compile_report") else {}
    return {"calls": min(seen), **kernels}


def calls(step: Callable[[], object], prepare: Callable[[], object]) -> int:
    """Functions that are called in a step: Python's and built-in ones, torch's own included."""
    count = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    prepare()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(before)
    return count

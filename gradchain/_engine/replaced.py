"""One attribute exchanged for a while, which is how inductor is told what it has no option for."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Generator[None, None, None]:
    """Let an attribute of a module or a class, which it has itself, be another; afterwards it is what it was."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)

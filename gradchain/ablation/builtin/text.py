"""Text that comes with Python: the topics of its documentation that `help()` shows, and the sources of some modules."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
from pathlib import Path

import torch

from gradchain.ablation.errors import StudyError

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
VOCABULARY = len(CHARACTERS) + 1
"""Of these, and one for all others."""


SOURCES = ("argparse", "difflib", "doctest", "inspect", "typing")
"""Modules whose sources are another text, to adapt to."""


@functools.cache
def text(name: str = "topics") -> str:
    """The text `"topics"`, about 450,000 characters, or `"sources"`; other versions of Python have somewhat other ones.

    Raises: StudyError: this Python has been installed without it.
    """
    try:
        if name == "topics":
            topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
            return "".join(topics[topic] for topic in sorted(topics))
        return "".join(_source(module) for module in SOURCES)
    except (ImportError, OSError):
        what = "pydoc_data" if name == "topics" else f"the sources of {', '.join(SOURCES)}"
        raise StudyError(
            f"the text of this task is in {what}, a part of the standard library that this Python has been installed "
            "without. Install all of the standard library, or take another task."
        ) from None


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ImportError(module)
    return Path(spec.origin).read_text(encoding="utf-8")


def digest(name: str = "topics") -> str:
    """A fingerprint of a text. Returns: it."""
    return hashlib.sha256(text(name).encode()).hexdigest()[:12]


@functools.cache
def parts(name: str = "topics") -> dict[str, torch.Tensor]:
    """A text as integers, in contiguous parts: 80 % to train, 10 % to choose hyperparameters, 10 % to test.

    Returns: `"train"`, `"validation"` and `"test"`.
    """
    place = {character: index for index, character in enumerate(CHARACTERS)}
    every = torch.tensor([place.get(character, len(CHARACTERS)) for character in text(name)])
    first, second = round(0.8 * len(every)), round(0.9 * len(every))
    return {"train": every[:first], "validation": every[first:second], "test": every[second:]}


def windows(part: torch.Tensor, length: int, count: int) -> torch.Tensor:
    """Pieces of a part, `length` characters and the next one each, at equal distances. Returns: `(count, length + 1)`."""
    starts = torch.linspace(0, len(part) - length - 1, count).long()
    return part[starts[:, None] + torch.arange(length + 1)]

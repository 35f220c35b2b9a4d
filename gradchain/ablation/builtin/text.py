"""Text that comes with Python: the topics of its documentation that `help()` shows, as characters."""

from __future__ import annotations

import functools
import hashlib
import importlib

import torch

from gradchain.ablation.errors import StudyError

CHARACTERS = "\n" + "".join(chr(code) for code in range(32, 127))
VOCABULARY = len(CHARACTERS) + 1
"""Of these, and one for all others."""


@functools.cache
def text() -> str:
    """The text: about 450,000 characters; some more or less in other versions of Python.

    Raises: StudyError: this Python has been installed without it.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:
        raise StudyError(
            "the text of this task is in pydoc_data, a part of the standard library that this Python has been installed "
            "without. Install all of the standard library, or take another task."
        ) from None
    return "".join(topics[name] for name in sorted(topics))


def digest() -> str:
    """A fingerprint of the text. Returns: it."""
    return hashlib.sha256(text().encode()).hexdigest()[:12]


@functools.cache
def parts() -> dict[str, torch.Tensor]:
    """The text as integers, in contiguous parts: 80 % to train, 10 % to choose hyperparameters, 10 % to test.

    Returns: `"train"`, `"validation"` and `"test"`.
    """
    place = {character: index for index, character in enumerate(CHARACTERS)}
    every = torch.tensor([place.get(character, len(CHARACTERS)) for character in text()])
    first, second = round(0.8 * len(every)), round(0.9 * len(every))
    return {"train": every[:first], "validation": every[first:second], "test": every[second:]}


def windows(part: torch.Tensor, length: int, count: int) -> torch.Tensor:
    """Pieces of a part, `length` characters and the next one each, at equal distances. Returns: `(count, length + 1)`."""
    starts = torch.linspace(0, len(part) - length - 1, count).long()
    return part[starts[:, None] + torch.arange(length + 1)]

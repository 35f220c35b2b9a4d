"""Every error gradchain raises. Each message says what was wrong, where, what is allowed, and what to do."""

from __future__ import annotations

import difflib
import reprlib
import sys
from collections.abc import Iterable
from typing import Any


class GradchainError(Exception):
    """Base class: `except gradchain.GradchainError` catches everything this package raises on purpose."""


class ChainError(GradchainError, ValueError):
    """The stages of a chain do not fit together. `stage` is the address of the stage at fault."""

    def __init__(self, message: str, *, stage: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage


class OptionError(GradchainError, ValueError):
    """A hyperparameter or option has a value outside its range, or of the wrong type."""


class UnknownOptionError(OptionError, TypeError):
    """A keyword that no stage, recipe or optimizer knows (also a `TypeError`, as for any Python call)."""


class UnknownNameError(OptionError, LookupError):
    """A recipe, stage or label function that is not registered."""


class ConfigError(GradchainError, ValueError):
    """A configuration (dict, JSON or TOML) that does not describe a chain."""


class ParameterError(GradchainError, ValueError, TypeError):
    """A parameter that an optimizer cannot hold, such as a complex one (torch raises either of the other two)."""


class GradientError(GradchainError, RuntimeError):
    """A gradient that a step cannot use, such as a sparse one."""


class StateError(GradchainError, ValueError):
    """A state dict that does not belong to this optimizer."""


class CompileWarning(UserWarning):
    """A bucket of parameters could not be compiled and runs eagerly instead, or runs compiled only from some step on."""


MOST = 120
"""Characters of a value that a message shows."""


class _Shown(reprlib.Repr):
    """Values in messages: never long, never a tensor's elements, never an error of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = MOST
        self.maxlong = 40
        self.maxlevel = 3

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x).__name__
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(x, torch.nn.Module):
            return f"<a module: {kind}>"
        if not hasattr(type(x), "shape") or not hasattr(type(x), "dtype"):
            return super().repr1(x, level)
        if _single(x):
            return self.repr_instance(x, level)
        return f"<{kind} of shape {tuple(x.shape)}, {x.dtype}>"

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return repr(x) if bits <= 128 else f"<an integer of about {int(bits * 0.30103) + 1} digits>"

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            text = repr(x)
        except Exception:
            return f"<a {type(x).__name__} that cannot be printed>"
        return text if len(text) <= self.maxother else f"{text[: self.maxother - 20]}...{text[-17:]}"


def _single(array: Any) -> bool:
    """Whether an array is one number that can be shown."""
    here = getattr(getattr(array, "device", None), "type", "cpu") == "cpu"
    dense = str(getattr(array, "layout", "torch.strided")) == "torch.strided"
    return here and dense and tuple(array.shape) in ((), (1,))


_SHOWN = _Shown()


def shown(value: object) -> str:
    """Shorten a value for a message. Returns: its `repr`; for tensors shape and dtype instead of elements.

    >>> from gradchain.errors import shown
    >>> shown(0.1), shown(torch.zeros(1000)), shown("x" * 1000)[:8], shown(10**400)
    ('0.1', '<Tensor of shape (1000,), torch.float32>', "'xxxxxxx", '<an integer of about 401 digits>')
    """
    return _SHOWN.repr(value)


def kind_of(value: object) -> str:
    """Name the type of a value. Returns: `a str`, `an int` or `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


LISTED = 50
"""How many known names a message lists."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Help someone who mistyped `name`. Returns: a sentence with the closest known names, or with all of them.

    >>> nearest("rosé", ["rose", "gyro-adam"])
    "Did you mean 'rose'?"
    """
    options = sorted(known)
    name = name[:MOST]
    close = [option for option in options if option.replace("/", ".").rpartition(".")[2] == name]
    close = close or difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(option) for option in close) + "?"
    rest = f" and {len(options) - LISTED} more" if len(options) > LISTED else ""
    return "Known: " + (", ".join(options[:LISTED]) or "none") + rest + "."

"""Every error gradchain raises. Each message says what was wrong, where, what is allowed, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class ParameterError(GradchainError, ValueError):
    """A parameter that an optimizer cannot hold, such as a complex one."""


class GradientError(GradchainError, RuntimeError):
    """A gradient that a step cannot use, such as a sparse one."""


class StateError(GradchainError, ValueError):
    """A state dict that does not belong to this optimizer."""


class CompileWarning(UserWarning):
    """A bucket of parameters could not be compiled and runs eagerly instead."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that helps someone who mistyped `name`: the closest known names, or all of them.

    >>> nearest("rosé", ["rose", "gyro-adam"])
    "Did you mean 'rose'?"
    """
    options = sorted(known)
    close = [option for option in options if option.replace("/", ".").rpartition(".")[2] == name]
    close = close or difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(option) for option in close) + "?"
    return "Known: " + (", ".join(options) or "none") + "."

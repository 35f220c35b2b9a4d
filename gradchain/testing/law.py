"""What a law is: a name, what is lost where it is broken, how to mend it, and the function that looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradchain.errors import UnknownNameError, nearest, shown


class Broken(Exception):
    """A law does not hold; the message says what was seen."""


class NotApplicable(Exception):
    """A law says nothing about this thing; the message says why."""


@dataclass(frozen=True)
class Law:
    """One law. `check` takes what is examined, and returns a remark or nothing; it raises `Broken` or `NotApplicable`."""

    name: str
    lost: str
    fix: str
    check: Callable[[Any], str | None]


class Laws(dict[str, Law]):
    """Laws by name, in the order in which they are defined."""

    def law(self, fix: str) -> Callable[[Callable[[Any], str | None]], Callable[[Any], str | None]]:
        """Register a function as a law; its docstring says what a user loses where the law is broken.

        Returns: a decorator that returns the function.
        """

        def register(check: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
            name = check.__name__
            self[name] = Law(name, " ".join((check.__doc__ or "").split()), fix, check)
            return check

        return register


OF_OPTIMIZERS, OF_TRANSFORMS = Laws(), Laws()


def chosen(laws: Mapping[str, Law], only: Sequence[str] | None, skip: Sequence[str]) -> list[Law]:
    """The laws to check.

    Raises:
        UnknownNameError: `only` or `skip` names no law.
    """
    for what, names in (("only", only or ()), ("skip", skip)):
        if isinstance(names, str):
            raise UnknownNameError(
                f"{what} = {shown(names)} is a str; pass the names of laws in a tuple: ({names!r},)."
            )
        for name in names:
            if name not in laws:
                raise UnknownNameError(f"{what}: there is no law {shown(name)}. {nearest(str(name), laws)}")
    return [law for name, law in laws.items() if (only is None or name in only)]

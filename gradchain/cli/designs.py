"""Which arms a study has, from the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradchain._chain.chain import Chain
from gradchain.cli.helpers import value_of
from gradchain.errors import OptionError

FLAGS = ("--edit", "--add-from", "--swap", "--orders", "--sweep", "--factorial", "--interactions", "--beside")


def design_from(
    *,
    edit: Sequence[str] | None,
    add_from: str | None,
    swap: str | None,
    orders: str | None,
    sweep: str | None,
    factorial: str | None,
    interactions: str | None,
    beside: str | None,
    resolution: int | None,
) -> Callable[[Chain], Any] | None:
    """Read the design that was asked for. Returns: a function of the recipe's chain; `None` for the default.

    Raises: OptionError: several, or one that cannot be read.
    """
    from gradchain.ablation import designs

    values = (edit, add_from, swap, orders, sweep, factorial, interactions, beside)
    given = [flag for flag, value in zip(FLAGS, values) if value]
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} exclude each other; pass one.")
    if resolution is not None and not factorial:
        raise OptionError("--resolution is for --factorial.")
    if edit:
        return lambda chain: designs.edited(chain, edit)
    if add_from:
        return lambda chain: designs.add_one_in(add_from, chain)
    if swap:
        place, others = _named("--swap", swap, "divide=sign|atan2_scale(a=1.27)")
        return lambda chain: designs.swap(chain, place, [other.strip() for other in others.split("|")])
    if orders:
        return lambda chain: designs.orders(chain, None if orders == "all" else _names(orders))
    if sweep:
        option, values = _named("--sweep", sweep, "eps=1e-8|1e-6")
        return lambda chain: designs.sweep(chain, option, [value_of(value.strip()) for value in values.split("|")])
    if factorial:
        return lambda chain: designs.factorial(chain, _factors(factorial), resolution)
    if interactions:
        return lambda chain: designs.interactions(chain, _factors(interactions))
    if beside:
        return lambda chain: designs.beside(chain, _names(beside))
    return None


def _named(flag: str, text: str, example: str) -> tuple[str, str]:
    name, separator, rest = text.partition("=")
    if not separator or not name.strip() or not rest.strip():
        raise OptionError(f"{flag} {text[:100]!r} is not of the form {example}.")
    return name.strip(), rest


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _factors(text: str) -> list[str | list[str]]:
    """Stages with commas between them; those that go together with a plus."""
    factors = [[name.strip() for name in factor.split("+") if name.strip()] for factor in text.split(",")]
    return [factor[0] if len(factor) == 1 else factor for factor in factors if factor]

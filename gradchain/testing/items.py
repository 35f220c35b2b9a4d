"""The laws as tests: one item of pytest for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradchain.testing.checks import laws_of_transforms, look, optimizer_subject
from gradchain.testing.law import OF_OPTIMIZERS, Law, chosen
from gradchain.testing.report import ConformanceError, Report, message
from gradchain.testing.runs import Factory
from gradchain.testing.stages import Around, Given, bench


def transform_laws(
    transform: Given,
    *,
    before: Around = (),
    after: Around = (),
    only: Sequence[str] | None = None,
    skip: Sequence[str] = (),
) -> Callable[..., None]:
    """Make a test of a transform for pytest, with an item for each law: assign it to a name that begins with `test_`.

    The arguments are those of `check_transform`. Laws that do not apply are skipped, with the reason.

    Returns:
        The test.

    Raises:
        UnknownNameError: `only` or `skip` names no law.
        OptionError: this is no transform, or its class cannot be made without arguments.
        ChainError: it fits into no chain that was tried, or not between `before` and `after`.

    >>> from gradchain.testing import transform_laws
    >>> test_sign = transform_laws(gradchain.sign(), skip=["compiled"])
    """
    subject = bench(transform, before, after)
    return _items(subject, subject.name, laws_of_transforms(), only, skip)


def optimizer_laws(
    factory: Factory, *, cross_parameter: bool = False, only: Sequence[str] | None = None, skip: Sequence[str] = ()
) -> Callable[..., None]:
    """Make a test of an optimizer for pytest, with an item for each law: assign it to a name that begins with `test_`.

    The arguments are those of `check_optimizer`. Laws that do not apply are skipped, with the reason.

    Returns:
        The test.

    Raises:
        UnknownNameError: `only` or `skip` names no law.
        OptionError: `factory` cannot be called.

    >>> from gradchain.testing import optimizer_laws
    >>> test_adamw = optimizer_laws(torch.optim.AdamW, skip=["float16", "bad_rates", "loaded_is_copied"])
    """
    subject = optimizer_subject(factory, cross_parameter)
    return _items(subject, subject.name, OF_OPTIMIZERS, only, skip)


def _items(
    subject: Any, name: str, laws: Mapping[str, Law], only: Sequence[str] | None, skip: Sequence[str]
) -> Callable[..., None]:
    import pytest  # the rest of gradchain.testing does without it

    wanted = [law for law in chosen(laws, only, skip) if law.name not in skip]

    @pytest.mark.parametrize("law", wanted, ids=lambda law: law.name)
    def test(law: Law) -> None:
        __tracebackhide__ = True
        row = look(law, subject)
        if row.status == "not applicable":
            pytest.skip(row.why)
        if row.status == "broken":
            report = Report(name, (row,))
            raise ConformanceError(message(report, laws), report)

    test.__doc__ = f"{name} keeps the law."
    test.__dict__["gradchain_laws"] = True  # for the plugin
    return test

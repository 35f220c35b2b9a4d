"""Check all laws of one thing."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from gradchain.errors import OptionError, shown
from gradchain.testing import of_gradients as of_gradients  # the laws register themselves
from gradchain.testing import of_saving as of_saving
from gradchain.testing import of_stages as of_stages
from gradchain.testing import of_steps as of_steps
from gradchain.testing import of_surroundings as of_surroundings
from gradchain.testing import of_tensors as of_tensors
from gradchain.testing import of_values as of_values
from gradchain.testing.law import OF_OPTIMIZERS, OF_TRANSFORMS, Broken, Law, Laws, NotApplicable, chosen
from gradchain.testing.report import ConformanceError, Report, Row, message
from gradchain.testing.runs import Factory, Subject, left_as_it_was
from gradchain.testing.stages import Around, Bench, Given, bench

SHOWN = 400
"""Characters of an error that a row shows."""


def look(law: Law, subject: Any) -> Row:
    """Check one law. Returns: its row."""
    try:
        with left_as_it_was(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Row(law.name, "holds", law.check(subject) or "")
    except NotApplicable as reason:
        return Row(law.name, "not applicable", str(reason))
    except Broken as fault:
        return Row(law.name, "broken", _short(str(fault)))
    except Exception as error:
        return Row(law.name, "broken", _short(f"it raised {type(error).__name__}: {error}"))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def examine(
    subject: Any, name: str, laws: Mapping[str, Law], only: Sequence[str] | None, skip: Sequence[str], strict: bool
) -> Report:
    """Check laws one after another. Returns: the report. Raises: ConformanceError: one is broken, and `strict`."""
    __tracebackhide__ = True
    rows = [
        Row(law.name, "skipped", "named in skip") if law.name in skip else look(law, subject)
        for law in chosen(laws, only, skip)
    ]
    report = Report(name, tuple(rows))
    if strict and not report.ok:
        raise ConformanceError(message(report, laws), report)
    return report


def optimizer_subject(factory: Factory, cross_parameter: bool) -> Subject:
    """What the laws of optimizers examine. Raises: OptionError: `factory` is no function."""
    if not callable(factory):
        raise OptionError(
            f"factory = {shown(factory)} cannot be called; pass a function that makes an optimizer of parameters, such as "
            "`lambda params: torch.optim.SGD(params, lr=0.1)`, or the class."
        )
    return Subject(factory, getattr(factory, "__name__", None) or type(factory).__name__, bool(cross_parameter))


def check_optimizer(
    factory: Factory,
    *,
    cross_parameter: bool = False,
    only: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    strict: bool = True,
) -> Report:
    """Check that an optimizer keeps the laws of optimizers: it makes many, and steps them a few times on small tensors.

    Args:
        factory: makes the optimizer of parameters, or of group dicts: a class, or a function such as
            `lambda params: torch.optim.SGD(params, lr=0.1)`.
        cross_parameter: the step of a parameter depends on all the others by design, as with clipping by the global norm.
        only: names of laws; `None` (default) for all.
        skip: names of laws that are not to be checked.
        strict: raise if a law is broken.

    Returns:
        The report: `print(report)`, `report.failed`, `report["resume"].why`.

    Raises:
        ConformanceError: laws are broken; the message says which, what was seen, what is lost, and how to mend it.
        UnknownNameError: `only` or `skip` names no law.
        OptionError: `factory` cannot be called.

    >>> from gradchain.testing import check_optimizer
    >>> report = check_optimizer(gradchain.optim.Lion, only=["resume", "closure"])
    >>> print(report)
    law      status  why
    -------  ------  ---
    resume   holds
    closure  holds
    <BLANKLINE>
    Lion: 2 holds
    """
    __tracebackhide__ = True
    subject = optimizer_subject(factory, cross_parameter)
    return examine(subject, subject.name, OF_OPTIMIZERS, only, skip, strict)


def laws_of_transforms() -> Laws:
    """The laws of transforms, and those laws of optimizers that a chain with the transform has to keep.

    Returns: laws, all of which examine a `Bench`.
    """
    laws = Laws(OF_TRANSFORMS)
    for name, law in OF_OPTIMIZERS.items():
        if name not in (*laws, "numbers_act"):  # the law options_act says more
            laws[name] = dataclasses.replace(law, check=functools.partial(_on_optimizer, law))
    return laws


def _on_optimizer(law: Law, bench: Bench) -> str | None:
    return law.check(bench.subject)


def check_transform(
    transform: Given,
    *,
    before: Around = (),
    after: Around = (),
    only: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    strict: bool = True,
) -> Report:
    """Check that a transform keeps the laws of transforms, and that an optimizer with it keeps those of optimizers.

    Args:
        transform: a stage, its class, or a function that makes one.
        before: stages to put before it in the chain that is run.
        after: stages to put after it. Without either, it is put before `scale_by_learning_rate`, or else into the first of
            some other small chains that it fits.
        only: names of laws; `None` (default) for all.
        skip: names of laws that are not to be checked.
        strict: raise if a law is broken.

    Returns:
        The report: `print(report)`, `report.failed`, `report["purity"].why`.

    Raises:
        ConformanceError: laws are broken; the message says which, what was seen, what is lost, and how to mend it.
        UnknownNameError: `only` or `skip` names no law.
        OptionError: this is no transform, or its class cannot be made without arguments.
        ChainError: it fits into no chain that was tried, or not between `before` and `after`.

    >>> from gradchain.testing import check_transform
    >>> check_transform(gradchain.sign(), only=["purity", "resume"]).ok
    True
    """
    __tracebackhide__ = True
    subject = bench(transform, before, after)
    return examine(subject, subject.name, laws_of_transforms(), only, skip, strict)

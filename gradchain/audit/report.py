"""The findings of a check, as a value and as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from gradchain._core.text import aligned
from gradchain.audit.changes import Kind

Verdict = Literal[
    "changes the update", "state only", "live with", "refused", "inert", "untried", "DEAD", "NOT INERT", "BROKEN"
]

BAD: tuple[Verdict, ...] = ("DEAD", "NOT INERT", "BROKEN")


@dataclass(frozen=True)
class Finding:
    """The verdict on one stage, hyperparameter, field of a stage, or option of a recipe; `because` gives the reason."""

    kind: Kind
    name: str
    verdict: Verdict
    because: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.kind, self.name, self.verdict, self.because


@dataclass(frozen=True)
class Report:
    """What `check` found. `print(report)` shows it."""

    name: str
    findings: tuple[Finding, ...]
    runs: int
    seconds: float

    @property
    def bad(self) -> tuple[Finding, ...]:
        """The findings that are dead, declared inert although they act, or broken."""
        return tuple(found for found in self.findings if found.verdict in BAD)

    @property
    def ok(self) -> bool:
        return not self.bad

    def verdict(self, name: str, kind: Kind | None = None) -> Verdict:
        """Look up the verdict on a name. Returns: the first of this kind."""
        return next(f.verdict for f in self.findings if f.name == name and kind in (None, f.kind))

    @property
    def summary(self) -> str:
        counts = Counter(found.verdict for found in self.findings)
        listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        names = ", ".join(f"{found.kind} {found.name}" for found in self.bad)
        wrong = f"To mend: {names}." if names else "Everything matters."
        return f"{self.name}: {listed}. {wrong} ({self.runs} runs, {self.seconds:.1f} s)"

    def __str__(self) -> str:
        return f"{aligned(HEADER, [found.cells for found in self.findings])}\n\n{self.summary}"


HEADER = ("what", "name", "verdict", "because")

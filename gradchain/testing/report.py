"""What a check found, as a value and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gradchain._core.text import aligned
from gradchain.errors import GradchainError, UnknownNameError, nearest, shown
from gradchain.testing.law import Law

Status = Literal["holds", "broken", "not applicable", "skipped"]


class ConformanceError(GradchainError, AssertionError):
    """Laws are broken. The message says which, what was seen, what a user loses, and how to mend it.

    `report` is the whole report.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, Report]]:
        return type(self), (str(self), self.report)


@dataclass(frozen=True)
class Row:
    """What was found about one law: `why` says what was seen, or why the law does not apply."""

    law: str
    status: Status
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What `check_transform` or `check_optimizer` found, one row a law. `print(report)` shows it as a table."""

    subject: str
    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the broken laws."""
        return tuple(row.law for row in self.rows if row.status == "broken")

    @property
    def ok(self) -> bool:
        """Whether no law is broken."""
        return not self.failed

    def __getitem__(self, law: str) -> Row:
        """Look up the row of a law. Returns: the row. Raises: UnknownNameError: the law was not checked."""
        rows = {row.law: row for row in self.rows}
        if law not in rows:
            raise UnknownNameError(f"the report has no law {shown(law)}. {nearest(str(law), rows)}")
        return rows[law]

    @property
    def summary(self) -> str:
        """How many laws hold, and how many do not."""
        counts = Counter(row.status for row in self.rows)
        return f"{self.subject}: " + ", ".join(f"{count} {status}" for status, count in counts.items())

    def __str__(self) -> str:
        table = aligned(("law", "status", "why"), [(row.law, row.status, row.why) for row in self.rows])
        return f"{table}\n\n{self.summary}"


def message(report: Report, laws: Mapping[str, Law]) -> str:
    """What to tell about broken laws."""
    count = len(report.failed)
    lines = [f"{report.subject} breaks {count} law{'s' if count > 1 else ''}."]
    for row in report.rows:
        if row.status == "broken":
            law = laws[row.law]
            lines += [f"{row.law}: {row.why}", f"    Lost: {law.lost}", f"    Mend: {law.fix}"]
    return "\n".join(lines)

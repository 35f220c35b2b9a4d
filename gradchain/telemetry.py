"""What stages record, summed up when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gradchain.context import Reduction

if TYPE_CHECKING:
    from gradchain.work import Work

Recorded = dict[tuple[str, Reduction], torch.Tensor]


class Telemetry:
    """Holds the tensors of the last step until `report` reads them."""

    def __init__(self) -> None:
        self.step = 0
        self._records: list[Recorded] = []
        self._seen: set[int] = set()

    def take(self, works: Sequence[Work], recorded: Sequence[Recorded]) -> None:
        self.step = works[-1].step if works else self.step
        self._records = [record for work, record in zip(works, recorded) if work.telemetry]

    def add(self, works: Sequence[Work], recorded: Sequence[Recorded]) -> None:
        """As `take`, of parameters that are stepped one by one; those that come again begin a new step."""
        new = {id(work.seat.param) for work in works}
        if new & self._seen:
            self._seen, self._records = set(), []
        self._seen |= new
        self.step = works[-1].step
        self._records += [record for work, record in zip(works, recorded) if work.telemetry]

    def report(self, names: Sequence[str]) -> dict[str, float]:
        """Means (or sums) over the recorded parameters. The only place that waits for the device."""
        totals: dict[tuple[str, Reduction], float] = {}
        for record in self._records:
            for key, value in record.items():
                if key[1] != "total":
                    totals[key] = totals.get(key, 0.0) + float(value)
        count = max(len(self._records), 1)
        means = {name: total / count if reduce == "mean" else total for (name, reduce), total in totals.items()}
        return {"step": self.step, **{name: means.get(name, 0.0) for name in names}}

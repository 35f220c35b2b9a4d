"""What stages record, summed up when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradchain.context import Reduction

Recorded = dict[tuple[str, Reduction], torch.Tensor]


class Telemetry:
    """Holds the tensors of the last step until `report` reads them."""

    def __init__(self) -> None:
        self.step = 0
        self._records: list[Recorded] = []
        self._seen: set[int] = set()

    def take(self, step: int | None, recorded: Sequence[Recorded], telling: Sequence[bool]) -> None:
        """Keep what was recorded by those that tell."""
        self.step = self.step if step is None else step
        self._records = [record for record, tells in zip(recorded, telling) if tells]

    def add(self, param: torch.Tensor, step: int, recorded: Recorded, tells: bool) -> None:
        """As `take`, of parameters that are stepped one by one; one that comes again begins a new step."""
        if id(param) in self._seen:
            self._seen, self._records = set(), []
        self._seen.add(id(param))
        self.step = step
        self._records += [recorded] if tells else []

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

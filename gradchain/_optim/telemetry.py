"""What stages record, summed up when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch

from gradchain._chain.context import Recorded, Reduction
from gradchain._core.totals import gather

Sums = dict[tuple[str, Reduction], float]


class Telemetry:
    """Holds the tensors of the last step until `report` reads them."""

    def __init__(self) -> None:
        self.step: int | torch.Tensor = 0
        self._records: list[Recorded] = []
        self._seen: set[int] = set()
        self._names: set[str] = set()
        """What has been reported: a name that came up once stays."""

    def take(self, step: int | torch.Tensor | None, recorded: Sequence[Recorded], telling: Sequence[bool]) -> None:
        """Keep what was recorded by those that tell."""
        self.step = self.step if step is None else step
        self._records = list(compress(recorded, telling))

    def add(self, param: torch.Tensor, step: int | torch.Tensor, recorded: Recorded, tells: bool) -> None:
        """As `take`, of parameters that are stepped one by one; one that comes again begins a new step."""
        if id(param) in self._seen:
            self._seen, self._records = set(), []
        self._seen.add(id(param))
        self.step = step
        self._records += [recorded] if tells else []

    def report(self, names: Sequence[str], partition: Any = None) -> dict[str, float]:
        """Means (or sums) over the recorded parameters, those of all members of a `partition` if there is one.

        Of `names`, and of whatever else has been recorded.

        The only place that waits for the device.
        """
        own = (int(self.step), len(self._records), self._totals())
        everybody: list[tuple[int, int, Sums]] = [own] if partition is None else gather(own, partition)
        totals: Sums = {}
        for _, _, theirs in everybody:
            for key, value in theirs.items():
                totals[key] = totals.get(key, 0.0) + value
        count = max(sum(count for _, count, _ in everybody), 1)
        means = {name: total / count if reduce == "mean" else total for (name, reduce), total in totals.items()}
        self._names |= {*names, *means}
        return {"step": max(step for step, _, _ in everybody), **{n: means.get(n, 0.0) for n in sorted(self._names)}}

    def _totals(self) -> Sums:
        totals: Sums = {}
        for record in self._records:
            for key, value in record.items():
                if key[1] != "total":
                    totals[key] = totals.get(key, 0.0) + float(value)
        return totals

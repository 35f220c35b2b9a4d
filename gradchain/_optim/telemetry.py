"""What stages record and what is measured of them, summed up when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, TypeAlias

import torch

from gradchain._chain.context import Recorded, Reduction
from gradchain._core.shard import Shard
from gradchain._core.totals import gather
from gradchain._engine import measure
from gradchain.ops import widest

Sums: TypeAlias = "dict[tuple[str, Reduction], float]"

IN, SEEN, PLACES = "~in", "~gradient", "~count"
"""Of a stage: squares of what it is given and of the gradient, and elements, of those parameters that pass through it."""


LOOKED_AT = "~"
"""After the name of what a stage reports: the elements of those parameters for which it does."""


class Telemetry:
    """Holds the tensors of the last step that recorded something until `report` reads them."""

    def __init__(self) -> None:
        self.step: int | torch.Tensor = 0
        self.fresh = False
        """Whether something was recorded that nobody has logged."""
        self._recorded_at: int | torch.Tensor | None = None
        self._records: list[tuple[Recorded, Any]] = []
        """What each parameter recorded, and the process group that it is sharded over."""
        self._seen: set[int] = set()
        self._names: dict[str, None] = {}
        """What has been reported: a name that came up once stays."""

    def take(
        self,
        step: int | torch.Tensor | None,
        recorded: Sequence[Recorded],
        shards: Sequence[Shard],
        telling: Sequence[bool],
    ) -> None:
        """Keep what was recorded by those that tell; if none does, what is there stays."""
        self.step = self.step if step is None else step
        if any(telling):
            self._records = [
                (measure.told(record), shard.group) for record, shard in compress(zip(recorded, shards), telling)
            ]
            self._recorded_at, self.fresh = step, True

    def add(self, param: torch.Tensor, step: int | torch.Tensor, recorded: Recorded, shard: Shard, tells: bool) -> None:
        """As `take`, of parameters that are stepped one by one; one that comes again begins a new step."""
        self.step = step
        if tells:
            if id(param) in self._seen:
                self._seen, self._records = set(), []
            self._seen.add(id(param))
            self._records.append((measure.told(recorded), shard.group))
            self._recorded_at, self.fresh = step, True

    def report(self, names: Sequence[str], partition: Any = None, gathered: bool | None = None) -> dict[str, float]:
        """Means (or sums) over the recorded parameters, those of all members of a `partition` if there is one.

        Of `names`, and of whatever else has been recorded. Of sharded parameters, what is measured is that of all rows if
        it is `gathered`, that of the rows here if not, and left out if `gathered` is `None`.

        The only place that waits for the device.
        """
        step = self.step if self._recorded_at is None else self._recorded_at
        own = (int(step), len(self._records), self._totals(gathered))
        everybody: list[tuple[int, int, Sums]] = [own] if partition is None else gather(own, partition)
        totals = _added(sums for _, _, sums in everybody)
        count = max(sum(count for _, count, _ in everybody), 1)
        told = {name: x / count if how == "mean" else x for (name, how), x in totals.items() if how != "rows"}
        told |= _measures({name: x for (name, how), x in totals.items() if how == "rows"})
        self._names |= dict.fromkeys([*names, *told])
        return {"step": max(step for step, _, _ in everybody), **{name: told.get(name, 0.0) for name in self._names}}

    def _totals(self, gathered: bool | None) -> Sums:
        """The sums over all parameters, and over all processes that hold rows of them if that is wanted."""
        apart: dict[Any, list[Sums]] = {None: []}
        for values, (_, group) in zip(_read([record for record, _ in self._records]), self._records):
            apart[None].append({key: x for key, x in values.items() if key[1] != "rows"})
            rows = _spread({name: x for (name, how), x in values.items() if how == "rows"})
            apart.setdefault(group, []).append({(name, "rows"): x for name, x in rows.items()})
        whole = apart.pop(None)
        for group, sums in apart.items():
            rows = _added(sums)
            whole += gather(rows, group) if gathered else [rows]
        totals = _added(whole)
        return {key: x for key, x in totals.items() if not apart or gathered is not None or key[1] != "rows"}


def _read(records: Sequence[Recorded]) -> list[Sums]:
    """The numbers in some records: one copy for each device."""
    by_device: dict[torch.device, list[tuple[int, Any, torch.Tensor]]] = {}
    for number, record in enumerate(records):
        for key, value in record.items():
            by_device.setdefault(value.device, []).append((number, key, value))
    found: list[Sums] = [dict.fromkeys(record, 0.0) for record in records]
    for device, rows in by_device.items():
        numbers = torch.stack([value.to(widest(device)) for _, _, value in rows]).tolist()
        for (number, key, _), value in zip(rows, numbers):
            found[number][key] = value
    return found


def _added(several: Iterable[Sums]) -> Sums:
    totals: Sums = {}
    for sums in several:
        for key, value in sums.items():
            totals[key] = totals.get(key, 0.0) + value
    return totals


def _spread(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums of a parameter, and for each of its stages what was given to it."""
    found = dict(sums)
    given = sums.get(measure.GRADIENT, 0.0)
    for name, value in sums.items():
        address, _, what = name.rpartition("/")
        if what == measure.OUT:
            found |= {f"{address}/{IN}": given, f"{address}/{SEEN}": sums[measure.GRADIENT]}
            found[f"{address}/{PLACES}"] = sums[measure.COUNT]
            given = value
        elif address and not what.startswith("~"):
            found[name + LOOKED_AT] = sums[measure.COUNT]
    return found


def _measures(sums: Mapping[str, float]) -> dict[str, float]:
    """RMS values, cosines and fractions, by name."""
    told: dict[str, float] = {}
    for name, value in sums.items():
        address, _, what = name.rpartition("/")
        if what == measure.OUT:
            told |= _of_stage(address, sums)
        elif name + LOOKED_AT in sums:
            told[name] = ratio(value, sums[name + LOOKED_AT])
    if measure.COUNT in sums:
        told |= _of_step(*(sums[key] for key in (measure.COUNT, measure.GRADIENT, measure.PARAM, measure.CHANGE)))
    return told


def _of_stage(address: str, sums: Mapping[str, float]) -> dict[str, float]:
    keys = (IN, SEEN, PLACES, measure.OUT, measure.BOTH, measure.ALONG, measure.FLIPS)
    given, seen, count, out, both, along, flips = (sums[f"{address}/{key}"] for key in keys)
    told = {
        "rms_in": ratio(given, count) ** 0.5,
        "rms_out": ratio(out, count) ** 0.5,
        "cosine": ratio(both, given**0.5 * out**0.5),
        "cosine_gradient": ratio(along, seen**0.5 * out**0.5),
        "sign_flips": ratio(flips, count),
    }
    if (decay := sums.get(f"{address}/{measure.DECAY}")) is not None:
        told["rms_decay"] = ratio(decay, count) ** 0.5
    return {f"{address}/{name}": value for name, value in told.items()}


def _of_step(count: float, gradient: float, param: float, change: float) -> dict[str, float]:
    return {
        "rms_gradient": ratio(gradient, count) ** 0.5,
        "rms_param": ratio(param, count) ** 0.5,
        "rms_change": ratio(change, count) ** 0.5,
        "relative_change": ratio(change, param) ** 0.5,
        "effective_lr": ratio(change, gradient) ** 0.5,
    }


def ratio(one: float, other: float) -> float:
    """A quotient; 0 where the divisor is 0."""
    return one / other if other else 0.0

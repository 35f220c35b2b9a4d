"""How many updates a stage has made to a parameter, where that is less than the parameter's step count.

The bias correction of a moment that started late, or paused, uses the stage's own count. The state of a parameter then
holds, besides the slots,

| key | |
|---|---|
| `stage.since` | the steps of the parameter that the stage has missed; absent if none |
| `stage.until` | the parameter's count when the stage was switched off; present while it is off |

as 0-d int64 tensors. A stage without slots goes by the youngest stage whose slots it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch

from gradchain.errors import StateError

SINCE, UNTIL = "since", "until"
"""Names that no slot may have."""

Ages: TypeAlias = "tuple[tuple[str, Any], ...]"
"""The stages that have missed steps, and how many."""


def is_age(key: str) -> bool:
    """Whether an entry of a state is one of those above."""
    return str(key).rpartition(".")[2] in (SINCE, UNTIL)


def ages_of(state: Mapping[str, Any]) -> Ages:
    """How many steps each stage has missed, as tensors."""
    return tuple((key[: -len(SINCE) - 1], x) for key, x in state.items() if str(key).endswith(f".{SINCE}"))


def own_count(step: Any, missed: Any) -> Any:
    """The number of a step, counting only those that a stage has made."""
    own = step - missed
    return own.clamp(min=1) if isinstance(own, torch.Tensor) else max(own, 1)


def turn(state: dict[str, Any], counter: torch.Tensor, owners: Iterable[str], on: Iterable[str], new: set[str]) -> None:
    """Note which of the stages that own slots were switched off or on since the last step, or are `new`."""
    running = set(on)
    for address in dict.fromkeys(owners):
        since, until = f"{address}.{SINCE}", f"{address}.{UNTIL}"
        if address not in running:
            if until not in state and any(key.startswith(f"{address}.") for key in state):
                state[until] = counter.clone()
        elif address in new:
            state.pop(until, None)
            _put(state, since, counter.clone())
        elif until in state:
            _put(state, since, state.get(since, 0) + counter - state.pop(until))


def _put(state: dict[str, Any], key: str, missed: torch.Tensor) -> None:
    """Keep how many steps a stage has missed, unless it is known to be 0; reading a device's count would wait."""
    state[key] = missed
    if missed.device.type == "cpu" and int(missed) == 0:
        del state[key]


def loaded(
    saved: Mapping[str, Any], kept: Iterable[str], reset: Iterable[str], step: int, where: str
) -> dict[str, Any]:
    """The ages after loading a state dict: the saved ones of `kept` stages, and new ones of stages `reset`."""
    result: dict[str, Any] = {}
    for address in kept:
        for key in (f"{address}.{SINCE}", f"{address}.{UNTIL}"):
            if key not in saved:
                continue
            count = float(saved[key])
            if not (count.is_integer() and 0 <= count <= step):
                raise StateError(
                    f"{where}: {key} = {count:g} is no whole number in [0, {step}], the steps taken so far."
                )
            result[key] = torch.tensor(int(count), dtype=torch.int64)
    if step > 0:
        result |= {f"{address}.{SINCE}": torch.tensor(step, dtype=torch.int64) for address in reset}
    return result

"""Loading a state dict: what fits is taken over in its own dtype, and what does not is explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain.errors import StateError


@dataclass
class LoadReport:
    """What a load did, as `parameter: stage.slot` lines."""

    kept: list[str] = field(default_factory=list)
    reset: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = list(self.differences)
        lines += [f"reset (not in the state dict): {item}" for item in self.reset]
        lines += [f"dropped (no such slot here): {item}" for item in self.dropped]
        return "\n".join([f"{len(self.kept)} slots kept", *lines])

    @property
    def clean(self) -> bool:
        return not (self.reset or self.dropped or self.differences)


def chain_differences(saved: Mapping[str, Any] | None, current: Mapping[str, Any]) -> list[str]:
    """The stages in which two configs differ in structure; hyperparameters travel in the groups and do not count."""
    if saved is None:
        return []
    old, new = _structure(saved), _structure(current)
    lines = [f"stage {name} of the state dict is not in this chain" for name in old if name not in new]
    lines += [f"stage {name} of this chain is not in the state dict" for name in new if name not in old]
    for name in old:
        if name in new and old[name] != new[name]:
            changed = sorted(
                option for option in {*old[name], *new[name]} if old[name].get(option) != new[name].get(option)
            )
            lines += [
                f"stage {name}: {option} was {old[name].get(option)!r}, is {new[name].get(option)!r}"
                for option in changed
            ]
    return lines


def _structure(config: Mapping[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The static options of each stage, by address."""
    from gradchain import registry

    result: dict[str, dict[str, Any]] = {}
    for item in config.get("stages", ()):
        if "partition" in item:
            for label, stages in item["branches"].items():
                result |= _structure({"stages": stages}, f"{prefix}{label}/")
            continue
        known = registry.stages().get(item["stage"])
        dynamic = known.dynamic_fields() if known is not None else {}
        result[prefix + (item.get("name") or item["stage"])] = {
            key: _normal(value) for key, value in item.items() if key not in dynamic and key != "keys"
        }
    return result


def _normal(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def fit_slots(
    saved: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], parameter: str, report: LoadReport
) -> dict[str, Any]:
    """The state of one parameter: saved slots where they fit, fresh ones where they are missing.

    Shapes must agree; every slot keeps the dtype that it was saved in if its storage still uses that dtype.
    """
    result: dict[str, Any] = {}
    for slot, fresh in wanted.items():
        value = saved.get(slot)
        if value is None:
            result[slot] = fresh
            report.reset.append(f"{parameter}: {slot}")
            continue
        if not isinstance(value, torch.Tensor) or value.shape != fresh.shape:
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise StateError(
                f"{parameter}: slot {slot} has shape {shape} in the state dict, but {tuple(fresh.shape)} here. The state "
                "belongs to a model of other shapes; nothing was loaded."
            )
        if value.dtype != fresh.dtype:
            report.differences.append(f"{parameter}: slot {slot} was {value.dtype}, is kept as {fresh.dtype}")
        result[slot] = torch.empty_like(fresh).copy_(value)
        report.kept.append(f"{parameter}: {slot}")
    report.dropped += [f"{parameter}: {slot}" for slot in saved if slot not in wanted and slot != "step"]
    step = saved.get("step", 0.0)
    result["step"] = torch.tensor(float(step), dtype=torch.float32)
    return result


def check_form(state_dict: object) -> None:
    """Raise unless this is the state dict of an optimizer at all."""
    if not isinstance(state_dict, Mapping):
        raise StateError(f"a state dict is a dict, not a {type(state_dict).__name__}; nothing was loaded.")
    if missing := [key for key in ("state", "param_groups") if key not in state_dict]:
        raise StateError(
            f"the state dict has no {' and no '.join(missing)}: it is not an optimizer's; nothing was loaded."
        )


def check_groups(saved: Sequence[Mapping[str, Any]], current: Sequence[Mapping[str, Any]]) -> None:
    """Raise unless both have the same number of groups with the same number of parameters in each."""
    old, new = [len(group["params"]) for group in saved], [len(group["params"]) for group in current]
    if old != new:
        raise StateError(
            f"the state dict has parameter groups of {old} tensors, this optimizer of {new}; nothing was loaded. Build "
            "the optimizer with the same groups."
        )

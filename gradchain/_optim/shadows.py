"""Shadows: other chains that see the gradients of a run. What they would do is compared with what is done, not applied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from gradchain._chain.chain import Chain
from gradchain._chain.extra_evaluation import check_single
from gradchain._core.shard import Shard
from gradchain._optim.telemetry import ratio
from gradchain.errors import GradchainError, OptionError, ParameterError, StateError, kind_of, shown
from gradchain.ops import wide, widest

Groups: TypeAlias = "Sequence[Mapping[str, Any]]"

SCALED = ("lr", "weight_decay")
"""Hyperparameters of a shadow's own that change in proportion to those of the run."""


class Runs(Protocol):
    """The optimizer of a shadow."""

    chain: Chain
    compile: Any
    param_groups: list[dict[str, Any]]

    def advance(self) -> None: ...
    def add_param_group(self, param_group: dict[str, Any]) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


Make: TypeAlias = "Callable[[list[dict[str, Any]], Chain], Runs]"


class Shadow:
    """One chain beside a run: an optimizer over copies of the parameters, which are set back to the run's at each step."""

    def __init__(self, chain: Chain, main: Chain, defaults: Mapping[str, Any], groups: Groups, make: Make) -> None:
        shared = {key: main.hyperparameters[key] for key in chain.hyperparameters if key in main.hyperparameters}
        self.follows = [key for key, value in shared.items() if _equal(value, chain.hyperparameters[key])]
        self.scaled = {
            key: (float(chain.hyperparameters[key]), float(defaults[key]))
            for key in shared.keys() - self.follows
            if key.rpartition(".")[2] in SCALED
        }
        self._seen: dict[tuple[int, str], Any] = {}
        self.optimizer = make([self._group(chain, group) for group in groups], chain)
        self.apart = [_zeros(param) for param in self.params]
        """What it would have moved each parameter by, less what the run did, summed over the steps."""
        self.sums: list[torch.Tensor] = []

    @property
    def params(self) -> list[torch.Tensor]:
        return [param for group in self.optimizer.param_groups for param in group["params"]]

    def add(self, group: Mapping[str, Any]) -> None:
        """Take up a new group of the run."""
        self.optimizer.add_param_group(self._group(self.optimizer.chain, group))
        self.apart += [_zeros(param) for param in self.params[len(self.apart) :]]

    def _group(self, chain: Chain, group: Mapping[str, Any]) -> dict[str, Any]:
        params: list[Any] = [nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in group["params"]]
        if names := group.get("param_names"):
            params = list(zip(names, params))
        made: dict[str, Any] = {key: group[key] for key in (*self.follows, "maximize", "role")}
        made |= {key: self._value(key, group[key]) for key in self.scaled}
        return {**made, "params": params, "disable": _known(chain, group["disable"])}

    def _value(self, key: str, value: Any) -> Any:
        own, base = self.scaled[key]
        return own * value / base if base else own

    def step(self, groups: Groups, compile: Any) -> None:
        """Move the copies as the chain moves parameters that are where those of the run are."""
        self.optimizer.compile = compile
        for number, (group, own) in enumerate(zip(groups, self.optimizer.param_groups)):
            own.update({key: group[key] for key in (*self.follows, "maximize")})
            for key in self.scaled:
                if self._seen.get((number, key)) is not group[key] or torch.is_tensor(group[key]):
                    own[key], self._seen[number, key] = self._value(key, group[key]), group[key]
            if (disable := _known(self.optimizer.chain, group["disable"])) != tuple(own["disable"]):
                own["disable"] = disable
            for param, copied in zip(group["params"], own["params"]):
                copied.grad = param.grad
                if param.grad is not None:
                    copied.copy_(param)
        try:
            self.optimizer.advance()
        finally:
            for copied in self.params:
                copied.grad = None  # it would outlive its step

    def compare(self, old: Sequence[torch.Tensor | None], made: Sequence[torch.Tensor | None]) -> None:
        """Note how the last step differs from the changes that the run made to parameters that were `old`."""
        sums: list[torch.Tensor] = []
        for copied, apart, before, change in zip(self.params, self.apart, old, made):
            if before is not None and change is not None:
                own = wide(copied) - wide(before)
                apart.add_(own - change)
                sums.append(torch.stack([_sum(own * own), _sum(own * change), _sum(change * change)]))
        self.sums = sums

    def report(self, moved: Sequence[torch.Tensor]) -> dict[str, float]:
        """The numbers of the last step, and how far the two have come apart. Waits for the device."""
        own, both, made = _total(self.sums) or (0.0, 0.0, 0.0)
        apart, way = _total([torch.stack([_sum(x * x), _sum(y * y)]) for x, y in zip(self.apart, moved)])
        return {
            "cosine": ratio(both, (own * made) ** 0.5),
            "norm_ratio": ratio(own, made) ** 0.5,
            "divergence": ratio(apart, way) ** 0.5,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "apart": list(self.apart)}

    def load(self, saved: Any) -> None:
        self.optimizer.load_state_dict(saved["optimizer"])
        self.apart = _taken(saved["apart"], self.apart)


class Shadows:
    """The shadows of a run, by name."""

    def __init__(
        self, chains: Mapping[str, Chain], main: Chain, defaults: Mapping[str, Any], groups: Groups, make: Make
    ) -> None:
        params = [param for group in groups for param in group["params"]]
        _check_whole(params)
        self.moved = [_zeros(param) for param in params]
        """How far the run has moved each parameter, summed over the steps."""
        self.all = {name: Shadow(chain, main, defaults, groups, make) for name, chain in chains.items()}

    @property
    def chains(self) -> dict[str, Chain]:
        return {name: shadow.optimizer.chain for name, shadow in self.all.items()}

    def add(self, group: Mapping[str, Any]) -> None:
        """Take up a new group of the run."""
        _check_whole(group["params"])
        for shadow in self.all.values():
            shadow.add(group)
        self.moved += [_zeros(param) for param in group["params"]]

    def step(self, groups: Groups, compile: Any) -> list[torch.Tensor | None]:
        """Step all shadows. Returns: copies of the parameters that the run will step."""
        for shadow in self.all.values():
            shadow.step(groups, compile)
        params = [param for group in groups for param in group["params"]]
        return [None if param.grad is None else param.detach().clone() for param in params]

    def compare(self, groups: Groups, old: Sequence[torch.Tensor | None]) -> None:
        """Compare the step that the run has made with those of the shadows."""
        params = [param.detach() for group in groups for param in group["params"]]
        made = [None if x is None else wide(param) - wide(x) for param, x in zip(params, old)]
        for moved, change in zip(self.moved, made):
            if change is not None:
                moved.add_(change)
        for shadow in self.all.values():
            shadow.compare(old, made)

    def report(self) -> dict[str, float]:
        """The numbers of all shadows. Waits for the device."""
        told = {name: shadow.report(self.moved) for name, shadow in self.all.items()}
        return {f"shadow/{name}/{what}": value for name, its in told.items() for what, value in its.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**{name: shadow.state_dict() for name, shadow in self.all.items()}, "": {"moved": list(self.moved)}}

    def loaded(self, saved: Any) -> Shadows:
        """These shadows with a saved state.

        Raises:
            StateError: the state of one does not fit; nothing has changed.
        """
        new = copy.deepcopy(self)
        name = ""
        try:
            new.moved = _taken(saved[""]["moved"], new.moved)
            for name, shadow in new.all.items():
                shadow.load(saved[name])
        except (GradchainError, KeyError, TypeError) as error:
            about = f"shadow {name!r}" if name else "the shadows"
            raise StateError(f"the state of {about} does not fit; nothing was loaded. {error}") from None
        return new


def check_shadows(shadows: object, partition_of: object) -> dict[str, Chain]:
    """The chains of the shadows by name. `OptionError` for what is none."""
    if shadows is None:
        return {}
    if not isinstance(shadows, Mapping):
        raise OptionError(f"shadows is {kind_of(shadows)}; pass a dict of chains by name, {{'no_gate': chain}}.")
    found: dict[str, Chain] = {}
    for name, chain in shadows.items():  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(name, str) or not name or "/" in name:
            raise OptionError(f"shadows has the key {shown(name)}; shadows have names without '/', such as 'no_gate'.")
        if not isinstance(chain, Chain):
            raise OptionError(f"shadows[{name!r}] = {shown(chain)} is {kind_of(chain)}; pass a chain.")
        check_single(chain, f"shadows[{name!r}] sees the gradients of the run")
        found[name] = chain
    if found and partition_of is not None:
        raise OptionError("shadows compare steps of whole models, and with partition_of each process steps a part.")
    return found


def _check_whole(params: Iterable[torch.Tensor]) -> None:
    if any(Shard.of(param).group is not None for param in params):
        raise ParameterError("shadows compare whole tensors, and a parameter is sharded. Leave out shadows=.")


def _known(chain: Chain, disable: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in disable if name in chain)


def _taken(saved: Sequence[torch.Tensor], own: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies of saved tensors, like those that are here."""
    if [x.shape for x in saved] != [x.shape for x in own]:
        raise StateError("its tensors have other shapes than the parameters.")
    return [torch.empty_like(mine).copy_(x) for x, mine in zip(saved, own)]


def _equal(one: Any, other: Any) -> bool:
    """Whether two hyperparameters are the same; tensors are read."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))  # pyright: ignore
    return one is other or (one is not None and other is not None and bool(one == other))


def _zeros(param: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(wide(param.detach()))


def _sum(values: torch.Tensor) -> torch.Tensor:
    return values.sum(dtype=widest(values.device))


def _total(parts: Sequence[torch.Tensor]) -> list[float]:
    """The sum of some vectors, read from their device in one copy."""
    return torch.stack([x.to(parts[0].device) for x in parts]).sum(0).tolist() if parts else []

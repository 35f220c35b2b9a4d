"""Saving, loading, pickling and copying an optimizer."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from gradchain._chain.chain import Chain
from gradchain._chain.structure import chain_differences
from gradchain._core import ages
from gradchain._core.counters import place_together
from gradchain._dist.zero import Partitioned
from gradchain._engine import Compile, Executor
from gradchain._engine.replay import ReplayPlan
from gradchain._optim.nonfinite import Guard
from gradchain._optim.saved import Saved, check_pickled, read
from gradchain._optim.saved_groups import fit_groups
from gradchain._optim.state import LoadReport, check_clean, check_whole, explained, fit_states
from gradchain._optim.table import ParamTable
from gradchain._optim.telemetry import Telemetry
from gradchain.errors import ConfigError


class Checkpointed(torch.optim.Optimizer):
    """The part of `gradchain.Optimizer` that is saved, and how it comes back."""

    chain: Chain
    name: str = "Optimizer"
    """What to call the optimizer in logs: its recipe's name, or that of its class."""
    compile: Compile
    capturable: bool
    _guard: Guard
    _table: ParamTable
    _executor: Executor
    _replay_plan: ReplayPlan | None
    _telemetry: Telemetry
    _partition: Partitioned
    _in_backward: Callable[[Iterable[torch.Tensor]], None] | None
    _guests: set[str]
    _alone: object

    def state_dict(self) -> dict[str, Any]:
        """As of any torch optimizer, plus the chain's config under `"chain"`, and under `"with_state"` whose state it has.

        The latter tells a parameter that was frozen from one whose state was lost.
        """
        saved = super().state_dict()
        saved["with_state"] = [index for index, state in saved["state"].items() if isinstance(index, int) and state]
        if (config := self._config()) is not None:
            saved["chain"] = config
        return saved

    def _config(self) -> dict[str, Any] | None:
        """The chain's config, unless it has a label function without a name; the slots say what belongs where."""
        with contextlib.suppress(ConfigError):
            return self.chain.to_config()
        return None

    @torch._disable_dynamo  # type: ignore[misc]  # as torch.optim.Optimizer.load_state_dict
    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadReport:  # type: ignore[override]
        """Take over a state dict. Every slot keeps its dtype; hyperparameters come from the saved groups.

        With `strict` (default) a state dict of another chain is an error that explains the differences stage by stage.
        Without, slots that both have are kept bit for bit, those that are missing or do not fit start afresh, others are
        dropped, and what a group has to have keeps its value here. Returns the report.

        Raises:
            StateError: it does not fit; or, whatever `strict`, it is no optimizer's or one of other groups.

        On an error nothing has changed, nor if a hook raises: a post hook sees the new state, which is then taken back.
        """
        if isinstance(state_dict, Mapping):
            state_dict = dict(state_dict)
            for hook in self._optimizer_load_state_dict_pre_hooks.values():
                replaced = hook(self, state_dict)
                state_dict = state_dict if replaced is None else replaced
        report = LoadReport()
        with explained(), torch.inference_mode(False), torch.no_grad():
            saved = read(state_dict, self.param_groups)
            if strict:
                check_whole(saved)
            groups, states = self._fit(saved, "chain" in state_dict, report)
            if strict:
                check_clean(report, saved)
        before = self.__dict__.copy()
        try:
            self._install(groups, states)
            for post_hook in self._optimizer_load_state_dict_post_hooks.values():
                post_hook(self)
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        return report

    def _fit(
        self, saved: Saved, has_chain: bool, report: LoadReport
    ) -> tuple[list[dict[str, Any]], dict[torch.Tensor, dict[str, Any]]]:
        """The groups and states of a state dict in the form that they have here; nothing is written."""
        stages = chain_differences(saved.chain, self._config()) if has_chain else []
        report.differences += [*saved.faults, *stages]
        report.another_chain = bool(stages)
        routing = self._table.routing
        groups = fit_groups(routing, saved.groups, self.param_groups, report)
        states = fit_states(routing, saved, groups, report)
        if self.capturable:
            for param, state in states.items():
                state.update({k: x.to(param.device) for k, x in state.items() if k == "step" or ages.is_age(k)})
        place_together(states.values())
        return groups, states

    def _install(self, groups: list[dict[str, Any]], states: dict[torch.Tensor, dict[str, Any]]) -> None:
        """Exchange groups and states, and forget what was known of the old ones; these stay as they are."""
        self._table = ParamTable(self.chain)
        self._replay_plan = None  # it holds the old state
        self.__setstate__({"state": defaultdict(dict, states), "param_groups": groups})

    def __getstate__(self) -> dict[str, Any]:
        kept = {
            "chain": self.chain,
            "compile": self.compile,
            "name": self.name,
            "capturable": self.capturable,
            "nonfinite": (self._guard.policy, self._guard.scope),
            "_role": None,
            "_partition": self._partition.unbound(),
        }
        fresh = [index for index, param in enumerate(self._parameters()) if param in self._table.fresh]
        return {**super().__getstate__(), **kept, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = check_pickled(state, Chain, whole="chain" not in self.__dict__)
        fresh, nonfinite = held.pop("fresh", None), held.pop("nonfinite", ())
        super().__setstate__(held)
        if fresh is not None:  # unpickled or copied
            self._table, self._executor, self._replay_plan = ParamTable(self.chain), Executor(), None
            self._guard, self._telemetry = Guard(*nonfinite), Telemetry()
            self._in_backward, self._guests, self._alone = None, set[str](), False
            parameters = self._parameters()
            place_together(state for state in self.state.values() if "step" in state)
            made = {parameters[index]: self.state.get(parameters[index], {}) for index in fresh}
            self._table.fresh = {param: state["step"] for param, state in made.items() if "step" in state}

    def _parameters(self) -> list[torch.Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

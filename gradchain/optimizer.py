"""A chain as a `torch.optim.Optimizer`."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import nn

from gradchain import engine, registry
from gradchain.chain import Chain
from gradchain.errors import (
    ChainError,
    ConfigError,
    GradientError,
    OptionError,
    ParameterError,
    StateError,
    UnknownOptionError,
    nearest,
)
from gradchain.noise import parameter_key
from gradchain.program import Numbers, Program
from gradchain.state import LoadReport, chain_differences, check_form, check_groups, fit_slots
from gradchain.telemetry import Telemetry
from gradchain.work import Work

Compile = Literal["auto"] | bool

Settings = tuple[tuple[str, ...], str | None]
"""What decides the stages of a parameter besides the chain: the group's `disable` and `role`."""

# Group keys that torch's schedulers and training loops write.
_FOREIGN = frozenset({
    "name", "initial_lr", "max_lr", "min_lr", "base_lr", "max_momentum", "base_momentum", "swa_lr",
    "constructor_lr", "param_names",
})  # fmt: skip


class Optimizer(torch.optim.Optimizer):
    """Runs a chain over parameters, and behaves as `torch.optim.AdamW` does.

    Args:
        params: a module, parameters, named parameters, or group dicts. A group may override any hyperparameter, switch
            stages off (`"disable": ["spectral_decay"]`), and give its parameters a role (`"role": "vector"`).
        chain: the chain.
        disable: stages that are switched off in all groups that do not say otherwise.
        compile: `True` compiles the step, `False` runs it eagerly, `"auto"` compiles if the optimizer holds at least
            `gradchain.engine.AUTO_ELEMENTS` elements and a compiler is at hand.
        telemetry: collect what stages record, for `telemetry()`. Costs no sync.
        maximize: ascend instead of descend.
        hyperparameters: other defaults for the chain's hyperparameters, by their names in `param_groups`.

    The state of a parameter is made when the optimizer takes it up and set again from the parameter's value at its
    first step, so a model may be loaded or moved in between. If anything fails in a step, nothing has been written.

    >>> optimizer = gradchain.Optimizer(model, gradchain.recipe("rose", lr=1e-2))
    >>> loss.backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        chain: Chain,
        *,
        disable: Iterable[str] = (),
        compile: Compile = "auto",
        telemetry: bool = False,
        maximize: bool = False,
        **hyperparameters: Any,
    ) -> None:
        if not isinstance(chain, Chain):
            raise OptionError(f"chain = {chain!r} is a {type(chain).__name__}; pass gradchain.chain(...) or a recipe.")
        if compile not in ("auto", True, False):
            raise OptionError(f"compile = {compile!r} is not one of 'auto', True, False. Pass one of these.")
        self.chain = chain
        self.compile: Compile = compile
        self._programs: dict[torch.Tensor, tuple[Settings, Program]] = {}
        self._variants: dict[tuple[str, ...], Chain] = {(): chain}
        self._checked: dict[int, tuple[Any, ...]] = {}
        self._fresh: set[torch.Tensor] = set()
        self._telemetry = Telemetry()
        defaults = {
            **chain.hyperparameters,
            "disable": _names(disable),
            "role": None,
            "maximize": maximize,
            "telemetry": telemetry,
        }
        for name, value in hyperparameters.items():
            if name not in chain.hyperparameters:
                raise UnknownOptionError(f"unknown hyperparameter {name!r}. {nearest(name, chain.hyperparameters)}")
            defaults[name] = value
        self._check_group(defaults, "")
        super().__init__(_listed(params), defaults)

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up more parameters, at any time; an invalid group leaves the optimizer as it was."""
        if isinstance(param_group, Mapping):
            group = {**self.defaults, **param_group}
            where = f"group {len(self.param_groups)}: "
            group["disable"] = _names(group["disable"], where)
            for key in param_group:
                if key not in self.defaults and key not in _FOREIGN and key != "params":
                    raise UnknownOptionError(f"{where}unknown entry {key!r}. {nearest(key, self.defaults)}")
            self._check_group(group, where)
            param_group = {**param_group, "disable": group["disable"]}
            for stage in self._variant(_names(group["disable"])):
                pinned = {
                    key: value.clone() if torch.is_tensor(value) else value for key, value in stage.pin(group).items()
                }
                param_group = {**pinned, **param_group}
        super().add_param_group(param_group)
        try:
            self._take_up(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: Mapping[str, Any], where: str) -> None:
        """Raise `OptionError` if a group holds a value that no stage can use."""
        self.chain.bindings.check(group, where)
        for flag in ("maximize", "telemetry"):
            if not isinstance(group[flag], bool):
                raise OptionError(f"{where}{flag} = {group[flag]!r}: pass True or False.")
        if group["role"] is not None and not isinstance(group["role"], str):
            raise OptionError(f"{where}role = {group['role']!r}: pass a string or None.")
        self._variant(_names(group["disable"], where), where)

    def _variant(self, disable: tuple[str, ...], where: str = "") -> Chain:
        """The chain without some stages."""
        if disable not in self._variants:
            try:
                self._variants[disable] = self.chain.without(*disable)
            except ChainError as error:
                raise ChainError(f"{where}disable={list(disable)} does not leave a sound chain: {error}") from None
            except UnknownOptionError as error:
                raise UnknownOptionError(f"{where}disable={list(disable)}: {error}") from None
        return self._variants[disable]

    def _take_up(self, group: dict[str, Any]) -> None:
        """Check the parameters of a new group and make their state."""
        advice: dict[str, None] = {}
        made: dict[torch.Tensor, dict[str, Any]] = {}
        names: list[str] = group.get("param_names", [""] * len(group["params"]))
        for name, param in zip(names, group["params"]):
            if param.is_complex() or not param.is_floating_point():
                raise ParameterError(
                    f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)} is {param.dtype}; gradchain steps real "
                    "floating parameters. Optimize torch.view_as_real(p) of a complex one."
                )
            if hasattr(param, "device_mesh"):
                raise ParameterError(
                    f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)} is a DTensor; sharded parameters are "
                    "not supported yet. Use DistributedDataParallel, or keep this parameter unsharded."
                )
            program = self._program(param, _settings(group), name)
            for _, stage in program.stages:
                if (text := stage.advice(param.shape)) is not None:
                    advice[f"{name or 'a parameter'}: {text}"] = None
            if param.requires_grad:
                made[param] = self._initial(param, program)
        for text in advice:
            warnings.warn(text, UserWarning, stacklevel=5)
        for param, state in made.items():
            self.state[param] = state
            self._fresh.add(param)

    def _program(self, param: torch.Tensor, settings: Settings, name: str) -> Program:
        """The stages that a parameter goes through; found once, and again if its group's settings change."""
        known = self._programs.get(param)
        if known is None or known[0] != settings:
            disable, role = settings
            known = (settings, self._variant(disable).route(name, param, role))
            self._programs[param] = known
        return known[1]

    def _initial(self, param: torch.Tensor, program: Program) -> dict[str, Any]:
        with torch.no_grad():
            return {"step": torch.zeros((), dtype=torch.float32), **program.init(param.detach())}

    # The step.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step for every parameter that has a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            works = self._collect()
            recorded = engine.run(works, compiled=self._compiled())
            for work in works:
                work.state["step"].add_(1)
                self._fresh.discard(work.owner)
            self._telemetry.take(works, recorded)
        return loss

    def _compiled(self) -> bool:
        if self.compile == "auto":
            return engine.worth_compiling(param for group in self.param_groups for param in group["params"])
        return self.compile

    def _collect(self) -> list[Work]:
        """Everything that the step needs, checked; nothing is written but state that was missing or stale."""
        works: list[Work] = []
        numbers: dict[tuple[int, int, int], Numbers] = {}
        index = -1
        for number, group in enumerate(self.param_groups):
            self._check_changed(number, group)
            settings = _settings(group)
            names = group.get("param_names") or [""] * len(group["params"])
            for name, param in zip(names, group["params"]):
                index += 1
                if param.grad is None:
                    continue
                self._check_gradient(number, group, param)
                program = self._program(param, settings, name)
                state = self._current_state(param, program)
                step = int(state["step"]) + 1
                key = (number, id(program), step)
                if key not in numbers:
                    numbers[key] = program.numbers(self.chain.bindings, group, step)
                noise = parameter_key(step, index) if program.random else None
                works.append(Work(
                    param, param.grad, state, program, numbers[key], step,
                    group["role"], group["maximize"], group["telemetry"], noise,
                ))  # fmt: skip
        return works

    def _check_changed(self, number: int, group: dict[str, Any]) -> None:
        """Check the group's values again if anyone has written to them since the last step."""
        values = tuple(tuple(value) if isinstance(value := group.get(key), list) else value for key in self.defaults)
        known = self._checked.get(number)
        if known is None or any(old is not new and old != new for old, new in zip(known, values)):
            self._check_group({**self.defaults, **group}, f"group {number}: ")
            self._checked[number] = values

    def _check_gradient(self, number: int, group: Mapping[str, Any], param: torch.Tensor) -> None:
        grad = cast("torch.Tensor", param.grad)
        if grad.layout == torch.strided and not grad.is_complex():
            return
        names = group.get("param_names")
        position = next(i for i, other in enumerate(group["params"]) if other is param)
        what = names[position] if names else f"{position} of group {number}"
        kind = "complex" if grad.is_complex() else str(grad.layout).removeprefix("torch.").replace("_", " ")
        raise GradientError(
            f"parameter {what} of shape {tuple(param.shape)} has a {kind} gradient; gradchain steps dense real gradients. "
            "Build embeddings with sparse=False, or give this parameter to torch.optim.SparseAdam."
        )

    def _current_state(self, param: torch.Tensor, program: Program) -> dict[str, Any]:
        """The state of a parameter, made or completed where it is missing, and made anew before its first step."""
        state = self.state[param]
        if "step" not in state or param in self._fresh:
            state.clear()
            state.update(self._initial(param, program))
        elif any(program.key(slot) not in state for slot in program.owners):
            for slot, value in program.init(param.detach()).items():
                state.setdefault(slot, value)
        return state

    def telemetry(self) -> dict[str, float]:
        """What the stages recorded in the last step, over all parameters of groups with `telemetry=True`.

        `step` is the counter of the parameter visited last. Before the first step, and without telemetry, all else
        is 0. This call syncs with the device; the step does not.
        """
        names = {name for _, program in self._programs.values() for name in program.records}
        return self._telemetry.report(sorted(names))

    # Saving and loading.

    def state_dict(self) -> dict[str, Any]:
        """As of any torch optimizer, plus the chain's config under `"chain"`."""
        saved = super().state_dict()
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
        Without, slots that both have are kept bit for bit, missing ones start afresh, others are dropped. Returns the
        report. On an error nothing has changed.
        """
        check_form(state_dict)
        state_dict = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        check_form(state_dict)
        check_groups(state_dict["param_groups"], self.param_groups)
        report = LoadReport()
        if (config := self._config()) is not None:
            report.differences += chain_differences(state_dict.get("chain"), config)
        groups = self._loaded_groups(state_dict["param_groups"], report, strict)
        states = self._loaded_states(state_dict, groups, report)
        if strict and not report.clean:
            origin = (
                "" if "chain" in state_dict else "It names no chain: another optimizer than gradchain's saved it.\n"
            )
            raise StateError(
                f"the state dict does not belong to this chain; nothing was loaded.\n{origin}{report}\n"
                "Build the same chain, or pass strict=False to keep what fits."
            )
        self._programs.clear()
        self._checked.clear()
        self._fresh.clear()
        self.__setstate__({"state": defaultdict(dict, states), "param_groups": groups})
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
        return report

    def _loaded_groups(self, saved: list[dict[str, Any]], report: LoadReport, strict: bool) -> list[dict[str, Any]]:
        """The saved groups with this optimizer's parameters, checked."""
        groups: list[dict[str, Any]] = []
        explained = bool(report.differences)  # stages that differ have other hyperparameters
        for number, (old, current) in enumerate(zip(saved, self.param_groups)):
            taken = {key: value for key, value in old.items() if key not in ("params", "param_names")}
            report.differences += [
                f"group {number}: hyperparameter {key!r} is not in the state dict"
                for key in self.chain.hyperparameters
                if key not in taken and not explained
            ]
            group = {**current, **copy.deepcopy(taken)}
            gone = [name for name in _names(group["disable"]) if name not in self.chain]
            if gone and not strict:
                report.differences.append(f"group {number}: disable names {gone[0]}, which this chain does not have")
                group["disable"] = tuple(name for name in _names(group["disable"]) if name not in gone)
            self._check_group(group, f"group {number} of the state dict: ")
            groups.append(group)
        return groups

    def _loaded_states(
        self, state_dict: Mapping[str, Any], groups: list[dict[str, Any]], report: LoadReport
    ) -> dict[torch.Tensor, dict[str, Any]]:
        states: dict[torch.Tensor, dict[str, Any]] = {}
        for number, (old, group) in enumerate(zip(state_dict["param_groups"], groups)):
            names = group.get("param_names") or [
                f"parameter {i} of group {number}" for i in range(len(group["params"]))
            ]
            for index, param, name in zip(old["params"], group["params"], names):
                plain = "" if name.startswith("parameter ") else name
                if (saved := state_dict["state"].get(index)) is None:
                    continue
                disable, role = _settings(group)
                program = self._variant(disable).route(plain, param, role)
                wanted = program.init(param.detach())
                # A stage that was switched off in mid-run left its slots behind; they are kept for its return.
                idle = self.chain.route(plain, param, role).init(param.detach()) if disable else {}
                wanted |= {slot: value for slot, value in idle.items() if slot in saved and slot not in wanted}
                states[param] = fit_slots(saved, wanted, name, report)
        return states

    def __getstate__(self) -> dict[str, Any]:
        kept = {"chain": self.chain, "compile": self.compile}
        fresh = [index for index, param in enumerate(self._parameters()) if param in self._fresh]
        return {**super().__getstate__(), **kept, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fresh = state.pop("fresh", None)
        super().__setstate__(state)
        if fresh is not None:  # unpickled or copied
            self._programs, self._variants, self._checked = {}, {(): self.chain}, {}
            self._telemetry = Telemetry()
            parameters = self._parameters()
            self._fresh = {parameters[index] for index in fresh}

    def _parameters(self) -> list[torch.Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.chain}\n)\n{super().__repr__()}"


def _listed(params: nn.Module | Iterable[Any]) -> Any:
    """What torch's constructor takes; a module gives its named parameters."""
    return list(params.named_parameters()) if isinstance(params, nn.Module) else params


def _names(disable: Any, where: str = "") -> tuple[str, ...]:
    """The stages that a group switches off."""
    if isinstance(disable, str) or not isinstance(disable, Iterable):
        raise OptionError(f"{where}disable = {disable!r}: pass a list of stage names, such as ['{disable}'].")
    names = tuple(cast("Iterable[Any]", disable))
    if not all(isinstance(name, str) for name in names):
        raise OptionError(f"{where}disable = {disable!r}: pass a list of stage names.")
    return names


def _settings(group: Mapping[str, Any]) -> Settings:
    return _names(group["disable"]), group["role"]


def optimizer(
    name: str,
    params: nn.Module | Iterable[Any],
    *,
    disable: Iterable[str] = (),
    compile: Compile = "auto",
    telemetry: bool = False,
    maximize: bool = False,
    **options: Any,
) -> Optimizer:
    """An optimizer by the name of its recipe.

    Args:
        name: one of `gradchain.recipes()`.
        params: as for `Optimizer`, as are `disable`, `compile`, `telemetry` and `maximize`.
        options: of the recipe.

    Raises:
        UnknownNameError, UnknownOptionError, OptionError: with the nearest names, or the allowed range.

    >>> optimizer = gradchain.optimizer("rose", model.parameters(), lr=1e-3, disable=("cv_trust_gate",))
    """
    chain = registry.recipe(name, **options)
    return Optimizer(params, chain, disable=disable, compile=compile, telemetry=telemetry, maximize=maximize)

"""A chain as a `torch.optim.Optimizer`."""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, Literal, cast

import torch
from torch import nn

from gradchain import _engine as engine
from gradchain._chain import recipes, shared
from gradchain._chain.chain import Chain
from gradchain._chain.program import Numbers, Program
from gradchain._chain.routes_table import Route, routing_table
from gradchain._chain.structure import chain_differences
from gradchain._chain.tracing import sharing, traits_of
from gradchain._core import ages
from gradchain._core.ages import Ages
from gradchain._core.autocast import no_autocast
from gradchain._core.counters import COUNTER, Counters, counter_of, place_together
from gradchain._core.fields import differ, stamp
from gradchain._core.parameters import check_live, check_members, check_named_alike, checked_group, listed
from gradchain._core.shard import Shard, local_of
from gradchain._core.totals import APART
from gradchain._core.untraced import untraced
from gradchain._dist.check_split import check_split
from gradchain._dist.initial import expected, initial_state
from gradchain._dist.zero import check_not_zero, partition_of_all
from gradchain._engine import capturable as on_device
from gradchain._engine.report import CompileReport
from gradchain._engine.standing import Standing
from gradchain._engine.work import Seat, Work
from gradchain._engine.writing import unwritable
from gradchain._optim.nonfinite import Guard, NonfiniteReport, Policy, Scope, any_kept
from gradchain._optim.nonfinite import origins as origins_of
from gradchain._optim.routing import Routing, Settings, parameter_names, stage_names
from gradchain._optim.saved import Saved, check_pickled, read
from gradchain._optim.saved_groups import fit_groups
from gradchain._optim.state import (
    LoadReport,
    check_clean,
    check_counted,
    check_held,
    check_whole,
    explained,
    fit_states,
)
from gradchain._optim.telemetry import Recorded, Telemetry
from gradchain.errors import (
    ConfigError,
    GradientError,
    OptionError,
    ParameterError,
    StateError,
    UnknownOptionError,
    kind_of,
    nearest,
    shown,
)
from gradchain.roles import Rule, assign, check_matched, roles_of

Compile = Literal["auto"] | bool

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
            `gradchain._engine.AUTO_ELEMENTS` elements and a compiler is at hand.
        telemetry: collect what stages record, for `telemetry()`. Costs no sync.
        maximize: ascend instead of descend.
        role: the roles of the parameters, for groups that do not say: one for all, a mapping from parameters or their
            names (such as `gradchain.roles.from_peft(model)`), or a function of name and parameter.
        capturable: keep the step counters on the parameters' devices and find there what depends on them, so that a step can
            be captured in a CUDA graph. Numbers of the host, such as a float `lr`, are fixed at capture: pass tensors.
        nonfinite: what to do where gradients are not finite: let them `"propagate"`, `"skip"` the step, or raise an
            `"error"`. A step that is skipped changes nothing: neither parameters and state nor counters and shared numbers.
            `nonfinite_report()` tells where it was. With `"skip"`, parameters that are not on the CPU make the optimizer
            `capturable`, since only their device knows how many steps were taken.
        nonfinite_scope: what is skipped: the step of the whole `"model"` (default) if any gradient is not finite, or
            that of each `"parameter"` whose own gradient is not.
        partition_of: the model, or all its parameters in order, where each process steps only some of them, as inside
            `torch.distributed.optim.ZeroRedundancyOptimizer`. Totals over parameters are then those of all processes, and
            the noise is that of an optimizer that holds all parameters.
        partition_group: the process group that the parameters are divided over; `None` for all processes.
        hyperparameters: other defaults for the chain's hyperparameters, by their names in `param_groups`.

    The state of a parameter is made when the optimizer takes it up and set again from the parameter's value at its
    first step, so a model may be loaded or moved in between. If anything fails in a step, nothing has been written; but
    for a stage's `share`, which makes numbers for the next step when this one is done.

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
        role: Rule = None,
        capturable: bool = False,
        nonfinite: Policy = "propagate",
        nonfinite_scope: Scope | None = None,
        partition_of: nn.Module | Iterable[torch.Tensor] | None = None,
        partition_group: Any = None,
        **hyperparameters: Any,
    ) -> None:
        _check_arguments(params, chain, compile, capturable)
        disable = stage_names(disable)
        self.chain = chain
        self.compile: Compile = compile
        self.capturable = capturable
        self._guard = Guard(nonfinite, nonfinite_scope)
        if capturable and nonfinite == "error":
            raise OptionError(
                "nonfinite = 'error' has to read from the device at every step, which capturable=True promises not to do. "
                "Pass nonfinite='skip', and look at nonfinite_report() now and then."
            )
        self._routing = Routing(chain)
        self._checked: dict[int, dict[str, Any]] = {}
        self._adopted: dict[tuple[int, str], Any] = {}
        self._fresh: dict[torch.Tensor, torch.Tensor] = {}
        """The counters of states that nobody has stepped or loaded yet."""
        self._seats: dict[torch.Tensor, Seat] = {}
        self._settings: dict[int, tuple[tuple[Any, ...], list[Settings]]] = {}
        self._places: dict[torch.Tensor, tuple[int, int, int]] = {}
        self._memory: dict[str, Any] = {}
        self._standing: Standing | None = None
        self._in_backward: Callable[[Iterable[torch.Tensor]], None] | None = None  # takes up parameters that are added
        self._telemetry = Telemetry()
        self._role = role
        self._partition = partition_of_all(chain, partition_of, partition_group, self._guard.joint)
        defaults = {
            **chain.hyperparameters,
            "disable": disable,
            "role": None,
            "maximize": maximize,
            "telemetry": telemetry,
        }
        for name, value in hyperparameters.items():
            if name not in chain.hyperparameters:
                raise UnknownOptionError(
                    f"unknown hyperparameter {shown(name)}. {nearest(name, chain.hyperparameters)}"
                )
            defaults[name] = value
        self._routing.check(defaults, "")
        super().__init__(listed(params), defaults)
        names = [name for group in self.param_groups for name in parameter_names(group)]
        if partition_of is None:
            check_not_zero(self.reaching_out() or self._guard.joint)
        check_matched(role, names, self._parameters(), [r for group in self.param_groups for r in roles_of(group)])

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take up more parameters, at any time; an invalid group leaves the optimizer as it was."""
        where = f"group {len(self.param_groups)}: "
        param_group = checked_group(param_group, where, set(self._parameters()))
        group = {**self.defaults, **param_group}
        group["disable"] = stage_names(group["disable"], where)
        for key in param_group:
            if key not in {*self.defaults, *_FOREIGN, "params", *shared.keys(self.chain)}:
                raise UnknownOptionError(f"{where}unknown entry {shown(key)}. {nearest(key, self.defaults)}")
        if isinstance(group["role"], Mapping) or callable(group["role"]):
            raise OptionError(f"{where}role: pass rules to the optimizer; a group holds strings.")
        self._routing.check(group, where)
        shared.check_given(self.chain, param_group, where)
        param_group = {**param_group, "disable": group["disable"]}
        for stage in self._routing.variant(group["disable"]):
            entries = stage.initial_entries(group).items()
            initial = {key: value.clone() if torch.is_tensor(value) else value for key, value in entries}
            param_group = {**initial, **param_group}
        explicit = "role" in param_group
        check_named_alike(param_group, self.param_groups, where)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not explicit:
                group["role"] = assign(self._role, parameter_names(group), group["params"])
            roles_of(group, where, self._routing.labels)
            shared.attach_shared(self.chain, group, self.param_groups[0])
            self._adopted = shared.stamps(self.chain, self.param_groups)
            self._take_up(group)
            if self._in_backward is not None:
                self._in_backward(group["params"])
        except Exception:
            self.param_groups.pop()
            raise

    @torch.inference_mode(False)
    def _take_up(self, group: dict[str, Any]) -> None:
        """Check the parameters of a new group and make their state."""
        advice: dict[str, None] = {}
        made: dict[torch.Tensor, dict[str, Any]] = {}
        rehearsed: set[tuple[Program, torch.Size]] = set()
        for name, param, settings in zip(parameter_names(group), group["params"], Settings.each(group)):
            if param.requires_grad and (fault := unwritable(local_of(param), inference=True)) is not None:
                what = f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)}"
                raise ParameterError(f"{what} cannot be written: {fault}.")
            shard = Shard.of(param, name)
            program = self._routing.program(param, settings, name)
            if shard.group is not None and program.third_party and (program, shard.shape) not in rehearsed:
                rehearsed.add((program, shard.shape))
                numbers = [program.numbers(self.chain.bindings, group, step) for step in (1, 2)]
                check_split(program, shard.shape, numbers, name)
            if param.device.type != "cpu" and self._guard.policy == "skip":
                self.capturable = True  # only the device knows how many steps were taken
            if param.requires_grad:
                made[param] = self._initial(param, program, name)
                advice |= dict.fromkeys(f"{name or 'a parameter'}: {text}" for text in program.warnings(param))
            traits_of(program, param)  # where a stage does what none may do, this says so
        for text in advice:
            warnings.warn(text, UserWarning, stacklevel=5)
        place_together(made.values())
        for param, state in made.items():
            self.state[param] = state
            self._fresh[param] = state["step"]

    @torch.inference_mode(False)  # what is made in inference mode could not be written outside
    @torch.no_grad()
    def _initial(self, param: torch.Tensor, program: Program, name: str) -> dict[str, Any]:
        device = param.device if self.capturable else None
        return {"step": torch.zeros((), dtype=COUNTER, device=device), **initial_state(program, param, name)}

    # The step.

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """What torch puts around `step`, with its hooks."""
        return untraced(torch.optim.Optimizer.profile_hook_step(func))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step for every parameter that has a gradient; returns the closure's loss."""
        loss = None
        if closure is not None and not callable(closure):
            raise OptionError(
                f"closure = {shown(closure)} is {kind_of(closure)}; pass a function that returns the loss."
            )
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad(), no_autocast():
            recorded = self._repeat()
            if recorded is None:
                works = self._admit(self._collect())
                group, compiled = self._partition.group, self._compiled()
                recorded = engine.run(works, compiled=compiled, memory=self._memory, partition=self._partition.totals)
                self._count(works)
                shards, keep = [work.seat.shard for work in works], any_kept(works)
                shared.update(self.chain, self.param_groups, recorded, shards, group, self.capturable, keep)
                self._adopted = shared.stamps(self.chain, self.param_groups)
                step = works[-1].counted if works else None
                self._telemetry.take(step, recorded, [work.telemetry for work in works])
                self._stand(works)
        return loss

    def _repeat(self) -> list[Recorded] | None:
        """The step, if it is compiled and like the last one; what each parameter recorded."""
        standing, self._standing = self._standing, None
        if standing is None or self.compile is False:
            return None
        grads = standing.gradients(self.state, self.param_groups, self._settings_of_all())
        if grads is not None and self._guard.active and not self._guard.lets_pass(grads, self._partition):
            return None
        packs = None if grads is None else standing.packs(self._numbers)
        if grads is None or packs is None:
            return None
        recorded = standing.run(grads, packs)
        shared.update(self.chain, self.param_groups, recorded, standing.shards)
        self._adopted = shared.stamps(self.chain, self.param_groups)
        self._telemetry.take(standing.last, recorded, standing.telling)
        self._standing = standing
        return recorded

    def _stand(self, works: Sequence[Work]) -> None:
        """Remember a step that went by a known plan, for those that will be like it."""
        plan = self._memory.pop("plan", None)
        if plan and works and all(work.owner is work.seat.param and work.step is not None for work in works):
            self._standing = Standing(works, plan, self.state, self.param_groups, self._settings_of_all())

    def _settings_of_all(self) -> list[Any]:
        """The settings of each group, checked."""
        for number, group in enumerate(self.param_groups):
            self._check_changed(number, group)
        return [self._settings_of(number, group) for number, group in enumerate(self.param_groups)]

    def _numbers(self, program: Program, group: Mapping[str, Any], step: Any, since: Ages = ()) -> Numbers:
        return program.numbers(self.chain.bindings, group, step, since)

    def _count(self, works: Sequence[Work]) -> None:
        """Raise the step counters."""
        counters, keeps = [work.state["step"] for work in works], [work.keep for work in works if work.keep is not None]
        if keeps:
            torch._foreach_add_(counters, [keep.to(x.device, x.dtype) for keep, x in zip(keeps, counters)])  # pyright: ignore
        else:
            Counters(counters).raise_all()
        for work in works:
            if work.step is not None:
                work.seat.stepped()
        if self._fresh:
            for work in works:
                self._fresh.pop(work.seat.param, None)

    def _compiled(self) -> bool:
        if self.compile == "auto":
            return engine.worth_compiling(param for group in self.param_groups for param in group["params"])
        return self.compile

    def _collect(self) -> list[Work]:
        """Everything that the step needs, checked; nothing is written but state that was missing or stale."""
        works: list[Work] = []
        numbers: dict[Any, Numbers] = {}
        first = 0
        for number, group in enumerate(self.param_groups):
            self._check_changed(number, group)
        members, known = self._parameters(), self._memory.get("members", ())
        if len(members) != len(known) or not all(map(is_, members, known)):
            check_members(self.param_groups)
            self._memory["members"] = members
        for number, group in enumerate(self.param_groups):
            for position, (param, settings) in enumerate(zip(group["params"], self._settings_of(number, group))):
                if param.grad is not None:
                    works.append(self._work(param, settings, number, position, first + position, numbers))
            first += len(group["params"])
        if len(self._seats) > first:  # some have left: their memory is theirs to free
            here = set(self._parameters())
            self._seats = {param: seat for param, seat in self._seats.items() if param in here}
            self._routing.forget(here)
        if self.capturable:
            on_device.number(works, self._numbers)
        return works

    def _work(
        self,
        param: torch.Tensor,
        settings: Settings,
        number: int,
        position: int,
        place: int,
        numbers: dict[Any, Numbers],
    ) -> Work:
        """What a step needs of one parameter."""
        group, grad = self.param_groups[number], cast("torch.Tensor", param.grad)
        if grad.layout != torch.strided or grad.is_complex():
            self._refuse_gradient(number, group, param)
        seat = self._seats.get(param)
        if seat is None or seat.settings is not settings or not self._is_current(param, seat):
            seat = self._seat(param, settings, parameter_names(group)[position])
        if self.capturable:
            counter_of(seat.state, param.device)
            work = Work(*seat.local(grad), seat, group)
        else:
            step = seat.steps + 1
            key = (number, id(seat.program), step, seat.ages)
            if key not in numbers:
                numbers[key] = self._numbers(seat.program, group, step, seat.ages)
            work = Work(*seat.local(grad), seat, group, step, numbers[key])
        work.place = place
        if traits_of(seat.program, param).draws:
            work.index = self._partition.place(param, place)
        return work

    @untraced
    @torch.no_grad()
    def step_parameter(self, param: torch.Tensor) -> None:
        """One step for one parameter, which has a gradient: what `step_in_backward` does. Its chain must not be joint."""
        number, position, place = self._place(param)
        group = self.param_groups[number]
        if param.grad is None:
            raise GradientError(f"parameter {position} of group {number} has no gradient. Step it after its backward.")
        self._check_changed(number, group)
        works = [self._work(param, self._settings_of(number, group)[position], number, position, place, {})]
        if self.capturable:
            on_device.number(works, self._numbers)
        self._guard.check_one_by_one()
        if not (works := self._admit(works)):
            return
        compiled = engine.worth_compiling([param]) if self.compile == "auto" else self.compile
        with no_autocast():
            recorded = engine.run(works, compiled=compiled, memory=self._memory, partition=APART)
        self._count(works)
        self._telemetry.add(param, works[0].counted, recorded[0], works[0].telemetry)
        self._opt_called = True  # learning-rate schedulers look whether there has been a step

    def _admit(self, works: list[Work]) -> list[Work]:
        """The works that are to be stepped, by what the optimizer does about gradients that are not finite."""
        if not self._guard.active:
            return works
        members = self._partition.everybody if self._guard.model_wide else None
        return self._guard.admit(works, self._names, members=members, on_device=self.capturable)

    def _names(self) -> list[str]:
        """What to call each parameter in a message."""
        return [
            name or f"parameter {position} of group {number}"
            for number, group in enumerate(self.param_groups)
            for position, name in enumerate(parameter_names(group))
        ]

    @untraced
    def nonfinite_report(self, origins: bool = False) -> NonfiniteReport:
        """Which gradients were not finite so far, under `nonfinite="skip"` or `"error"`. Waits for the device.

        Counts are of this process, and of this object: they are neither saved nor copied with it.

        Args:
            origins: also step every parameter that has a gradient now, tensor by tensor, without writing anything, to find
                out what makes it not finite first: its gradient, what the last step left, or a stage. This works under
                any policy. In sharded runs all processes must ask.

        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = gradchain.optimizer("adamw", [("weight", weight)], nonfinite="skip")
        >>> weight.grad = torch.tensor([1.0, float("nan")])
        >>> optimizer.step()
        >>> weight.tolist()
        [0.0, 0.0]
        >>> print(optimizer.nonfinite_report(origins=True))
        gradients that are not finite: in 1 steps
        first in the last of these steps: weight
        weight: 1 steps
        weight: first in its gradient
        """
        found: dict[str, str] = {}
        if origins:
            with torch.no_grad():
                found = origins_of(self._collect(), self._names(), self._partition.group)
        return self._guard.report(self._names(), found)

    def reaching_out(self) -> str | None:
        """The first stage, if there is one, whose work on one parameter depends on others."""
        joint = (traits.joint[0] for traits in self._routing.traits if traits.joint)
        return sharing(self.chain.addressed) or next(joint, None)

    def _place(self, param: torch.Tensor) -> tuple[int, int, int]:
        """The group of a parameter, its position there, and among all."""
        number, position, _ = self._places.get(param, (0, 0, 0))
        held = self.param_groups[number]["params"] if number < len(self.param_groups) else []
        if param not in self._places or position >= len(held) or held[position] is not param:
            listed = [
                (number, position, other)
                for number, group in enumerate(self.param_groups)
                for position, other in enumerate(group["params"])
            ]
            self._places = {other: (number, at, place) for place, (number, at, other) in enumerate(listed)}
        if param not in self._places:
            raise ParameterError(f"{shown(param)} is not a parameter of this optimizer. Add it with add_param_group.")
        return self._places[param]

    def _settings_of(self, number: int, group: Mapping[str, Any]) -> list[Settings]:
        """The settings of each parameter; the same objects as long as nothing changes."""
        role = group["role"] if isinstance(group["role"], str) else tuple(group["role"] or ())
        now = (tuple(group["disable"]), role, len(group["params"]))
        known = self._settings.get(number)
        if known is None or known[0] != now:
            known = self._settings[number] = (now, Settings.each(group))
        return known[1]

    def _is_current(self, param: torch.Tensor, seat: Seat) -> bool:
        """Whether a parameter's state is the one that its seat knows, and not to be made anew."""
        return (
            self.state.get(param) is seat.state
            and len(seat.state) == len(seat.entries)
            and all(map(is_, seat.state.values(), seat.entries))
            and not (self._fresh and param in self._fresh)
        )

    def _check_changed(self, number: int, group: dict[str, Any]) -> None:
        """Check the group's values again if anyone has written to them since the last step."""
        where = f"group {number}: "
        check_live(group, where)
        shared.check(self.chain, number, group, self._adopted)
        values = {key: stamp(group.get(key, MISSING)) for key in self.defaults}
        known = self._checked.get(number, {})
        changed = {key for key, value in values.items() if key not in known or differ(known[key], value)}
        if changed:
            self._routing.check(group, where, changed)
            self._checked[number] = values

    def _refuse_gradient(self, number: int, group: Mapping[str, Any], param: torch.Tensor) -> None:
        grad = cast("torch.Tensor", param.grad)
        names = group.get("param_names")
        position = next(i for i, other in enumerate(group["params"]) if other is param)
        what = names[position] if names else f"{position} of group {number}"
        kind = "complex" if grad.is_complex() else str(grad.layout).removeprefix("torch.").replace("_", " ")
        raise GradientError(
            f"parameter {what} of shape {tuple(param.shape)} has a {kind} gradient; gradchain steps dense real gradients. "
            "Build embeddings with sparse=False, or give this parameter to torch.optim.SparseAdam."
        )

    def _seat(self, param: torch.Tensor, settings: Settings, name: str) -> Seat:
        """A parameter's seat: its state is made or completed where it is missing, and made anew before its first step."""
        program = self._routing.program(param, settings, name)
        state = self.state.setdefault(param, {})
        check_counted(state, name)
        if "step" not in state or (self._fresh.get(param) is state["step"] and self._unstepped(state["step"])):
            counter = state.get("step")
            state.clear()
            state.update(self._initial(param, program, name))
            state["step"] = state["step"] if counter is None else counter
        else:  # ZeRO loads without asking us, and moves numbers to the CPU
            wanted = expected(program, param)
            if (known := self._seats.get(param)) is None or known.settings == settings:
                check_held(state, wanted, name)
            state.update(
                {k: state[k].to(param.device) for k in wanted if k in state and state[k].device != param.device}
            )
            if param in self._fresh:
                self._check_slots(param, settings, name, wanted)
            new = {key.partition(".")[0] for key in wanted.keys() - state.keys()}
            if new:  # a stage may have been switched on since
                kept = {key: x for key, x in state.items() if key.partition(".")[0] not in new or key not in wanted}
                state.update({**initial_state(program, param, name), **kept})
            owners = self._routing.chain.route(name, param, settings.role).owners.values()
            ages.turn(state, counter_of(state), [at for at, _ in owners], program.addresses, new)
            for slot, value in wanted.items():
                if state[slot].shape != value.shape:
                    raise OptionError(
                        f"parameter {name or '(unnamed)'}: slot {slot} has shape {tuple(state[slot].shape)}, and under role "
                        f"{settings.role!r} it would be {tuple(value.shape)}. A role cannot change in mid-run: make a new "
                        "optimizer."
                    )
        seat = self._seats[param] = Seat(settings, program, state, param, name)
        return seat

    def _unstepped(self, counter: torch.Tensor) -> bool:
        """Whether a counter is 0, where it can be read without waiting for a device."""
        return self.capturable or float(counter) == 0

    def _check_slots(self, param: torch.Tensor, settings: Settings, name: str, wanted: Mapping[str, Any]) -> None:
        """Raise unless a state that was put here by others, as ZeRO does when it loads, belongs to this chain."""
        held = {key for key in self.state[param] if key != "step" and not ages.is_age(key)}
        known = expected(self._routing.chain.route(name, param, settings.role), param).keys()
        if foreign_slots := sorted({*(held - known), *(wanted.keys() - held)}):
            raise StateError(
                f"parameter {name or '(unnamed)'} of shape {tuple(param.shape)}: the loaded state does not belong to this "
                f"chain, by its slots {', '.join(foreign_slots)}. Build the same chain. (ZeroRedundancyOptimizer loads "
                "without asking the optimizer; load_state_dict of gradchain.Optimizer explains the differences.)"
            )

    def routing_table(self) -> str:
        """What the optimizer will do with each parameter: its role, the stages it goes through, its bytes of state.

        >>> chain = gradchain.chain(first_moment(storage="bf16"), scale_by_learning_rate(0.1))
        >>> print(gradchain.Optimizer([("weight", torch.nn.Parameter(torch.zeros(3, 2)))], chain).routing_table())
        parameter  shape  role  route  state bytes
        ---------  -----  ----  -----  -----------
        weight     3 x 2        1      12
        total                          12
        <BLANKLINE>
        route 1: first_moment, scale_by_learning_rate
        """
        return routing_table(
            Route(name, param, self._routing.program(param, settings, name))
            for group in self.param_groups
            for name, param, settings in zip(parameter_names(group), group["params"], Settings.each(group))
        )

    def compile_report(self) -> CompileReport:
        """What has been compiled so far: buckets, kernels, seconds, and what runs eagerly because it could not be.

        >>> print(gradchain.Optimizer([torch.nn.Parameter(torch.zeros(3))], gradchain.recipe("sgd")).compile_report())
        nothing has been compiled
        """
        known = self._memory.get("compiled")
        return CompileReport(()) if known is None else known.report()

    @untraced
    def telemetry(self, gather: bool | None = None) -> dict[str, float]:
        """What the stages recorded in the last step, over all parameters of groups with `telemetry=True`.

        `step` is the counter of the parameter visited last. Before the first step, and without telemetry, all else
        is 0. This call syncs with the device; the step does not.

        Args:
            gather: with `partition_of`, `True` for the numbers of the whole model, for which all processes must call this,
                or `False` for those of the parameters that are stepped here. Otherwise there is no difference.

        Raises:
            OptionError: the parameters are divided over processes, and `gather` does not say which numbers are meant.
        """
        if gather is not None and not isinstance(gather, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"gather = {shown(gather)} is not True, False or None. Pass one of these.")
        names = {name for traits in self._routing.traits for name in traits.records}
        if gather is None and self._partition.places:
            raise OptionError(
                "the parameters are divided over processes. Pass gather=True, in all processes, for the telemetry of the "
                "whole model, or gather=False for that of the parameters that this process steps."
            )
        told = self._telemetry.report(sorted(names), self._partition.members if gather else None)
        return {**told, **self._guard.tally.numbers()} if self._guard.active else told

    # Saving and loading.

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
        groups = fit_groups(self._routing, saved.groups, self.param_groups, report)
        states = fit_states(self._routing, saved, groups, report)
        if self.capturable:
            for param, state in states.items():
                state.update({k: x.to(param.device) for k, x in state.items() if k == "step" or ages.is_age(k)})
        place_together(states.values())
        return groups, states

    def _install(self, groups: list[dict[str, Any]], states: dict[torch.Tensor, dict[str, Any]]) -> None:
        """Exchange groups and states, and forget what was known of the old ones; these stay as they are."""
        self._routing = Routing(self.chain)
        self._checked, self._adopted, self._fresh, self._seats, self._settings = {}, {}, {}, {}, {}
        self._standing = None  # it holds the old state
        self.__setstate__({"state": defaultdict(dict, states), "param_groups": groups})

    def __getstate__(self) -> dict[str, Any]:
        kept = {
            "chain": self.chain,
            "compile": self.compile,
            "capturable": self.capturable,
            "nonfinite": (self._guard.policy, self._guard.scope),
            "_role": None,
            "_partition": self._partition.forgotten(),
        }
        fresh = [index for index, param in enumerate(self._parameters()) if param in self._fresh]
        return {**super().__getstate__(), **kept, "fresh": fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        held = check_pickled(state, Chain, whole="chain" not in self.__dict__)
        fresh, nonfinite = held.pop("fresh", None), held.pop("nonfinite", ())
        super().__setstate__(held)
        if fresh is not None:  # unpickled or copied
            self._routing, self._checked, self._adopted, self._memory = Routing(self.chain), {}, {}, {}
            self._guard = Guard(*nonfinite)
            self._seats, self._settings, self._places, self._standing = {}, {}, {}, None
            self._in_backward = None
            self._telemetry = Telemetry()
            parameters = self._parameters()
            place_together(state for state in self.state.values() if "step" in state)
            made = {parameters[index]: self.state.get(parameters[index], {}) for index in fresh}
            self._fresh = {param: state["step"] for param, state in made.items() if "step" in state}

    def _parameters(self) -> list[torch.Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.chain}\n)\n{super().__repr__()}"


MISSING = object()
"""Stands for an entry that a group lacks."""


def _check_arguments(params: object, chain: object, compile: object, capturable: object) -> None:
    """Raise `OptionError` for what is not a chain, or not a choice."""
    if not isinstance(chain, Chain):
        if isinstance(params, Chain):
            raise OptionError("the arguments are swapped: pass the parameters first, Optimizer(params, chain).")
        made = " Call the recipe's function." if callable(chain) else ""
        named = f" For a recipe's name: gradchain.recipe({shown(chain)})." if isinstance(chain, str) else ""
        raise OptionError(
            f"chain = {shown(chain)} is {kind_of(chain)}; pass gradchain.chain(...) or a recipe.{made}{named}"
        )
    if not (isinstance(compile, str) and compile == "auto") and not isinstance(compile, bool):
        raise OptionError(f"compile = {shown(compile)} is not one of 'auto', True, False. Pass one of these.")
    if not isinstance(capturable, bool):
        raise OptionError(f"capturable = {shown(capturable)} is not True or False. Pass one of these.")


def optimizer(
    name: str,
    params: nn.Module | Iterable[Any],
    *,
    disable: Iterable[str] = (),
    compile: Compile = "auto",
    telemetry: bool = False,
    maximize: bool = False,
    role: Rule = None,
    capturable: bool = False,
    nonfinite: Policy = "propagate",
    nonfinite_scope: Scope | None = None,
    partition_of: nn.Module | Iterable[torch.Tensor] | None = None,
    partition_group: Any = None,
    **options: Any,
) -> Optimizer:
    """An optimizer by the name of its recipe.

    Args:
        name: one of `gradchain.recipes()`.
        params: as for `Optimizer`, as are all keywords that it has.
        options: of the recipe.

    Raises:
        UnknownNameError, UnknownOptionError, OptionError: with the nearest names, or the allowed range.

    >>> optimizer = gradchain.optimizer("rose", model.parameters(), lr=1e-3, disable=("cv_trust_gate",))
    """
    if not isinstance(name, str) and isinstance(params, str):
        raise OptionError(
            f"the arguments are swapped: pass the name first, gradchain.optimizer({shown(params)}, params)."
        )
    if isinstance(name, Chain) or isinstance(params, Chain):
        raise OptionError("gradchain.optimizer takes the name of a recipe; for a chain use Optimizer(params, chain).")
    chain = recipes.recipe(name, **options)
    return Optimizer(
        params,
        chain,
        disable=disable,
        compile=compile,
        telemetry=telemetry,
        maximize=maximize,
        role=role,
        capturable=capturable,
        nonfinite=nonfinite,
        nonfinite_scope=nonfinite_scope,
        partition_of=partition_of,
        partition_group=partition_group,
    )

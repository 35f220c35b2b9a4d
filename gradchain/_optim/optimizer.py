"""A chain as a `torch.optim.Optimizer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gradchain import _engine as engine
from gradchain._chain import shared
from gradchain._chain.chain import Chain
from gradchain._chain.routes_table import Route, routing_table
from gradchain._chain.tracing import sharing
from gradchain._core.autocast import no_autocast
from gradchain._core.fields import as_tuple
from gradchain._core.parameters import checked_group, listed, named_alike
from gradchain._core.shard import Shard
from gradchain._core.totals import APART
from gradchain._core.untraced import untraced
from gradchain._dist.zero import partition_of_all, watch_zero
from gradchain._engine.param_step import ParamStep
from gradchain._engine.replay import ReplayPlan
from gradchain._engine.report import CompileReport
from gradchain._optim.arguments import check_arguments
from gradchain._optim.evaluated_twice import EvaluatedTwice
from gradchain._optim.evaluation import modes
from gradchain._optim.guests import check_guests
from gradchain._optim.nonfinite import Guard, NonfiniteReport, Policy, Scope, any_kept
from gradchain._optim.nonfinite import origins as origins_of
from gradchain._optim.register import register
from gradchain._optim.routing import Settings, labels_of, parameter_names, stage_names
from gradchain._optim.shadows import check_shadows
from gradchain._optim.table import ParamTable, StepInfo
from gradchain._optim.telemetry import Recorded, Telemetry
from gradchain.errors import ChainError, OptionError, UnknownOptionError, nearest, shown
from gradchain.roles import Rule, assign, check_matched, roles_of


class Optimizer(EvaluatedTwice):
    """Runs a chain over parameters, with the interface of `torch.optim.AdamW`.

    Args:
        params: a module, parameters, named parameters, or group dicts. A group may override any hyperparameter, switch
            stages off (`"disable": ["spectral_decay"]`), and give its parameters a role (`"role": "vector"`).
        chain: the chain.
        disable: stages that are switched off in all groups that do not say otherwise.
        compile: `True` compiles the step, `False` runs it eagerly, `"auto"` compiles if the optimizer holds at least
            `gradchain._engine.AUTO_ELEMENTS` elements and a compiler is installed. `"background"` compiles in another
            process: steps are eager until it is done, and a `CompileWarning` says from which step on they are not.
        telemetry: measure and collect what stages do, for `telemetry()`: at every step, or at every so many. Costs no sync.
        maximize: ascend instead of descend.
        role: the roles of the parameters, for groups that do not say: one for all, a mapping from parameters or their
            names (such as `gradchain.roles.from_peft(model)`), or a function of name and parameter.
        capturable: keep the step counters on the parameters' devices and compute there what depends on them, so that a step
            can be captured in a CUDA graph. Python numbers, such as a float `lr`, are fixed at capture: pass tensors.
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
        shadows: other chains, by name, that see the same gradients. What they would do is compared with what is done, in
            `telemetry()`, and not applied.
        hyperparameters: other defaults for the chain's hyperparameters, by their names in `param_groups`.

    State is allocated when the parameter is added and re-initialised from the parameter's value at its first step, so a
    model may be loaded or moved in between. A step that fails has written nothing; exception: `share` runs after the write.

    Raises: OptionError, UnknownOptionError, ParameterError, ChainError: the chain cannot use an argument or a parameter.

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
        compile: engine.Compile = "auto",
        telemetry: bool | int = False,
        maximize: bool = False,
        role: Rule = None,
        capturable: bool = False,
        nonfinite: Policy = "propagate",
        nonfinite_scope: Scope | None = None,
        partition_of: nn.Module | Iterable[torch.Tensor] | None = None,
        partition_group: Any = None,
        shadows: Mapping[str, Chain] | None = None,
        **hyperparameters: Any,
    ) -> None:
        check_arguments(params, chain, compile, capturable, nonfinite)
        disable = stage_names(disable)
        self.chain = chain
        self.name = type(self).__name__
        self.compile: engine.Compile = compile
        self.capturable = capturable
        self._guard = Guard(nonfinite, nonfinite_scope)
        self._table = ParamTable(chain)
        self._executor = engine.Executor()
        self._replay_plan: ReplayPlan | None = None
        self._in_backward: Callable[[Iterable[torch.Tensor]], None] | None = None  # takes up parameters that are added
        self._telemetry = Telemetry()
        self._role = role
        self._alone: object = False  # the membership that was found to be stepped one by one
        self._guests: set[str] = set()  # entries of groups that were warned of
        self._partition = partition_of_all(chain, partition_of, partition_group, self._guard.joint)
        defaults = {
            **chain.hyperparameters,
            "disable": disable,
            "role": None,
            "maximize": maximize,
            "telemetry": telemetry,
            **modes(chain),
        }
        for name, value in hyperparameters.items():
            if name not in chain.hyperparameters:
                raise UnknownOptionError(
                    f"unknown hyperparameter {shown(name)}. {nearest(name, chain.hyperparameters)}"
                )
            defaults[name] = as_tuple(value)
        self._table.routing.check(defaults, "")
        super().__init__(listed(params), defaults)
        names = [name for group in self.param_groups for name in parameter_names(group)]
        watch_zero(self._needs_partition())
        self._shadows = self._shadowed_by(check_shadows(shadows, partition_of))
        check_matched(role, names, self._parameters(), [r for group in self.param_groups for r in roles_of(group)])
        self._remind(params)

    # Groups.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, at any time. Raises: OptionError, ParameterError, ChainError: the group; nothing has changed."""
        where = f"group {len(self.param_groups)}: "
        param_group = named_alike(checked_group(param_group, where, set(self._parameters())), self.param_groups, where)
        for key in self.chain.hyperparameters.keys() & param_group.keys():
            if not isinstance(param_group[key], list):  # one may be written to later
                param_group[key] = as_tuple(param_group[key])
        group = {**self.defaults, **param_group}
        group["disable"] = stage_names(group["disable"], where)
        own = {*self.defaults, *shared.keys(self.chain)}
        check_guests(param_group, own, self.chain.hyperparameters, where, self._guests)
        if isinstance(group["role"], Mapping) or callable(group["role"]):
            raise OptionError(f"{where}role: pass rules to the optimizer; a group holds strings.")
        self._table.routing.check(group, where)
        shared.check_given(self.chain, param_group, where)
        param_group = {**param_group, "disable": group["disable"]}
        for stage in self._table.routing.variant(group["disable"]):
            entries = stage.initial_entries(group).items()
            initial = {key: value.clone() if torch.is_tensor(value) else value for key, value in entries}
            param_group = {**initial, **param_group}
        explicit = "role" in param_group
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not explicit:
                group["role"] = assign(self._role, parameter_names(group), group["params"])
            roles_of(group, where, self._table.routing.labels)
            shared.attach_shared(self.chain, group, self.param_groups[0])
            self._table.stamp_shared(self.param_groups)
            if self._guard.policy == "skip" and any(param.device.type != "cpu" for param in group["params"]):
                self.capturable = True  # only the device knows how many steps were taken
            register(self._table, group, self.state, self.capturable)
            if self._in_backward is not None:
                self._in_backward(group["params"])
            if self._shadows is not None:
                self._shadows.add(group)
        except Exception:
            self.param_groups.pop()
            raise

    # The step.

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """What torch puts around `step`, with its hooks."""
        return untraced(torch.optim.Optimizer.profile_hook_step(func))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step every parameter that has a gradient; a step that fails writes nothing. Returns: the closure's loss."""
        self._check_mode()
        loss = self._evaluate(closure)
        with torch.no_grad(), no_autocast():
            if self._shadows is None:
                self.advance()
            else:
                before = self._shadows.step(self.param_groups, self.compile)
                self.advance()
                self._shadows.compare(self.param_groups, before)
        return loss

    def advance(self) -> None:
        """`step` without hooks and closure, inside `torch.no_grad()`."""
        self._table.sync(self.param_groups)
        if not self._replay():
            self._step()

    def _beside(self, groups: list[dict[str, Any]], chain: Chain) -> Optimizer:
        """The optimizer of a shadow."""
        guard = self._guard
        return Optimizer(groups, chain, capturable=self.capturable, nonfinite=guard.policy, nonfinite_scope=guard.scope)

    def _replay(self) -> bool:
        """Whether the step was like the last one, and was made by running again what that ran."""
        plan, self._replay_plan = self._replay_plan, None
        if plan is None or self._membership != (self._table.membership, self.compile):
            return False
        grads = plan.gradients(self.state)
        if grads is None or (self._guard.active and not self._guard.lets_pass(grads, self._partition)):
            return False
        if (numbers := plan.numbers()) is None:
            return False
        recorded = plan.run(grads, numbers)
        if plan.tells or self.chain.bindings.shared:
            self._take(recorded, plan.shards, plan.last, plan.telling)
        self._telemetry.step = plan.last
        self._replay_plan = plan
        return True

    def _step(self) -> None:
        """The step, parameter by parameter; and what is needed to replay it."""
        due = self._admit(self._table.due(self.param_groups, self._info()))
        recorded = self._executor.run(due, compiled=self._compiled(), partition=self._partition.totals)
        self._table.count(due)
        shards = [item.record.shard for item in due]
        step = due[-1].counted if due else None
        self._take(recorded, shards, step, [item.telemetry for item in due], any_kept(due))
        replayable = self._executor.replayable
        alone = not self._guard.active or all(shard.group is None for shard in shards)  # else others may skip the step
        if replayable is not None and due and alone and not self.capturable:
            self._replay_plan = ReplayPlan(due, replayable, self.chain.bindings, self.state, self.param_groups)
            self._membership = (self._table.membership, self.compile)

    def _take(
        self,
        recorded: Sequence[Recorded],
        shards: Sequence[Shard],
        step: int | torch.Tensor | None,
        telling: Sequence[bool],
        keep: torch.Tensor | None = None,
    ) -> None:
        """Take in what the parameters of a step recorded."""
        if self.chain.bindings.shared:
            group, in_place = self._partition.group, self.capturable
            shared.update(self.chain, self.param_groups, recorded, shards, group, in_place, keep)
            self._table.stamp_shared(self.param_groups)
        self._telemetry.take(step, recorded, shards, telling)

    def _info(self) -> StepInfo:
        return StepInfo(self.state, self._partition, self.capturable)

    def _compiled(self) -> engine.Mode:
        return engine.mode(self.compile, (param for group in self.param_groups for param in group["params"]))

    @untraced
    @torch.no_grad()
    def step_parameter(self, param: torch.Tensor, group: Any = None, i: int | None = None) -> None:
        """Step one parameter that has a gradient, as `step_in_backward` does. Its chain must not be joint.

        `group` and `i` are passed by trainers with a fused backward pass and not used.

        Raises: GradientError: the gradient cannot be used. ChainError: a stage needs those of all parameters.
        """
        self._check_mode()
        due = [self._table.due_one(param, self.param_groups, self._info())]
        if self._alone is not self._table.membership:
            self.check_one_by_one()
            self._alone = self._table.membership
        if not (due := self._admit(due)):
            return
        compiled = engine.mode(self.compile, [param])
        with no_autocast():
            recorded = self._executor.run(due, compiled=compiled, partition=APART)
        self._table.count(due)
        self._telemetry.add(param, due[0].counted, recorded[0], due[0].record.shard, due[0].telemetry)
        self._opt_called = True  # learning-rate schedulers look whether there has been a step

    def step_param(self, param: torch.Tensor, group: Any = None) -> None:
        """`step_parameter` by the name that other trainers call."""
        self.step_parameter(param, group)

    def _admit(self, due: list[ParamStep]) -> list[ParamStep]:
        """Those that are to be stepped, by what the optimizer does about gradients that are not finite."""
        if not self._guard.active:
            return due
        members = self._partition.everybody if self._guard.model_wide else None
        return self._guard.admit(due, self._names, members=members, on_device=self.capturable)

    def _names(self) -> list[str]:
        """What to call each parameter in a message."""
        return [label for number, group in enumerate(self.param_groups) for label in labels_of(group, number)]

    @untraced
    def nonfinite_report(self, origins: bool = False) -> NonfiniteReport:
        """Report which gradients were not finite so far, under `nonfinite="skip"` or `"error"`. Waits for the device.

        Counts are of this process, and of this object: they are neither saved nor copied with it.

        Args:
            origins: also step every parameter that has a gradient now, tensor by tensor, without writing anything, to find
                out what makes it not finite first: its gradient, what the last step left, or a stage. This works under
                any policy. In sharded runs all processes must ask.

        Returns: the report, to be printed.

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
                self._table.sync(self.param_groups)
                due = self._table.due(self.param_groups, self._info())
                found = origins_of(due, self._names(), self._partition.group)
        return self._guard.report(self._names(), found)

    def reaching_out(self) -> str | None:
        """Find the first stage whose work on one parameter depends on others. Returns: its address, or `None`."""
        joint = (traits.joint[0] for traits in self._table.traits if traits.joint)
        return sharing(self.chain.addressed) or next(joint, None)

    def check_one_by_one(self) -> None:
        """Raise if parameters cannot be stepped one after another.

        Raises: ChainError: a stage needs the gradients of all. OptionError: so does what is done about nonfinite ones.
        """
        if (address := self.reaching_out()) is not None:
            raise ChainError(
                f"{address} needs the gradients of all parameters at one time; in the backward pass there is one after "
                f"another. Remove {address}, or call optimizer.step() after the backward pass.",
                stage=address,
            )
        if self._shadows is not None:
            raise OptionError("shadows are compared with whole steps: call optimizer.step(), or leave out shadows=.")
        self._guard.check_one_by_one()

    def _needs_partition(self) -> str | None:
        """What needs all parameters at one time, if anything does and `partition_of` was not given."""
        return None if self._partition.places else self.reaching_out() or self._guard.joint

    def routing_table(self) -> str:
        """Show each parameter's role, stages and bytes of state. Returns: a table as text.

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
            Route(name, param, self._table.program(param, settings, name))
            for group in self.param_groups
            for name, param, settings in zip(parameter_names(group), group["params"], Settings.each(group))
        )

    def compile_report(self) -> CompileReport:
        """Report what is compiled: buckets, kernels, seconds, and what runs eagerly instead. Returns: the report.

        >>> print(gradchain.Optimizer([torch.nn.Parameter(torch.zeros(3))], gradchain.recipe("sgd")).compile_report())
        nothing has been compiled
        """
        return self._executor.compiled.report()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.chain}\n)\n{super().__repr__()}"

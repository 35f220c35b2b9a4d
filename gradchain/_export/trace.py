"""Runs a chain's step on one example of a parameter, with every outcome of its conditions, and merges what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain._chain.chain import Chain
from gradchain._chain.elements import addressed
from gradchain._chain.mixins import SharedNumbers
from gradchain._chain.numbers import NumberReader
from gradchain._chain.program import Program
from gradchain._core.fields import DTYPES, Interval
from gradchain._core.reduce import Totals
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain._export.graph import Graph, Node, Unifier
from gradchain._export.leaves import exchanged, places
from gradchain._export.recorder import META, Recorder, Undecided
from gradchain._export.symbols import ExportError, Symbol
from gradchain.errors import GradchainError

MOST = 512
"""How many ways a step may go for one parameter."""


@dataclass(frozen=True)
class Example:
    """A parameter to try a step on."""

    shape: tuple[int, ...]
    dtype: str = "fp32"
    role: str | None = None

    def __str__(self) -> str:
        role = "" if self.role is None else f", role {self.role!r}"
        return f"shape {self.shape}, {self.dtype}{role}"


@dataclass
class Traced:
    """What a step makes: the expression of each tensor that is written, and of each contribution to a shared number."""

    roots: dict[str, Node] = field(default_factory=dict[str, Node])
    marks: dict[tuple[str, str], Node] = field(default_factory=dict[tuple[str, str], Node])
    """What each stage passed on: there two traces may differ as a whole."""
    guards: dict[tuple[int, ...], tuple[tuple[tuple[Node, bool], ...], str]] = field(default_factory=dict[Any, Any])
    """Conditions, all of which must not hold at the same time, and what to say if they do."""
    asked: list[tuple[Node, bool]] = field(default_factory=list[tuple[Node, bool]])
    """Conditions on the shape, and how they turned out."""

    def guard(self, conditions: tuple[tuple[Node, bool], ...], message: str) -> None:
        self.guards[tuple(id(node) * 2 + wanted for node, wanted in conditions)] = (conditions, message)


class Refusal(str):
    """The message of the error that a way ends in."""


def merged(graph: Graph, condition: Node, yes: Traced | Refusal, no: Traced | Refusal) -> Traced | Refusal:
    """The trace that goes one way if a condition holds, and the other if not."""
    if isinstance(yes, Refusal) or isinstance(no, Refusal):
        if isinstance(yes, Refusal) and isinstance(no, Refusal):
            return yes
        way, refusal = (no, yes) if isinstance(yes, Refusal) else (yes, no)
        assert isinstance(way, Traced)
        way.guard(((condition, way is no),), str(refusal))
        return way
    marks = {mark: (node, no.marks[mark]) for mark, node in yes.marks.items() if mark in no.marks}
    unifier = Unifier(graph, lambda a, b: graph.choice(condition, a, b), marks.values())
    result = Traced(marks={mark: unifier.unify(*pair) for mark, pair in marks.items()})
    for name in dict.fromkeys((*yes.roots, *no.roots)):
        ends = [_end(graph, side, name) for side in (yes, no)]
        result.roots[name] = unifier.unify(*ends)
    for side, wanted, other in ((yes, True, no), (no, False, yes)):
        for key, (conditions, message) in side.guards.items():
            if key in other.guards:
                result.guards[key] = (conditions, message)
            else:
                result.guard(((condition, wanted), *conditions), message)
    seen: dict[int, tuple[Node, bool]] = {}
    for node, outcome in (*yes.asked, *no.asked):
        seen.setdefault(id(node), (node, outcome))
    result.asked = list(seen.values())
    return result


def _end(graph: Graph, side: Traced, name: str) -> Node:
    """What a way makes; nothing, or the slot that it leaves as it is."""
    if name in side.roots:
        return side.roots[name]
    kind, _, key = name.partition(" ")
    if kind == "slot" and f"new {key}" in side.roots:
        return graph.leaf(f"state {key}", "tensor")
    if kind in ("slot", "new"):
        return graph.leaf("absent", "tensor")
    raise ExportError(f"the step makes {name} for some parameters or steps only.")


WRITTEN = ("initial_lr", "max_lr")
"""Entries that torch's learning-rate schedulers put into the groups."""


class Nameless:
    """In the place of a parameter's name."""

    def _refuse(self, *_: Any) -> Any:
        raise ExportError(
            "a partition's label function goes by the names of parameters, which an exported optimizer does not know. Give "
            "the parameters roles that are the labels of the branches."
        )

    __bool__ = __str__ = __repr__ = __eq__ = __hash__ = __len__ = __iter__ = __contains__ = __getitem__ = _refuse
    __getattr__ = __format__ = __add__ = __radd__ = __lt__ = __fspath__ = _refuse


class TracedGroup(dict[str, Any]):
    """A parameter group of symbols. Entries that others may put there are asked for."""

    recorder: Recorder

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self and key not in WRITTEN:
            return default
        if key not in self:
            condition = self.recorder.graph.make("present", key, kind="number", order=-1.0)
            found = self.recorder.decide(condition, False)
            self[key] = self.recorder.number(f"group {key}", 1e-3, 0.0) if found else None
        return self[key] if self[key] is not None else default


class Tracer:
    """Traces the steps of one chain into one graph."""

    def __init__(self, chain: Chain, graph: Graph | None = None) -> None:
        self.chain, self.graph = chain, graph or Graph()
        self.places = places()
        self.mixed = False
        """Whether some state has another dtype than its parameter."""
        self.sources: dict[str, str] = {at: stage.source for at, stage in chain.addressed}

    def explore(self, run: Callable[[Recorder], Traced]) -> Traced:
        """Run under every combination of decisions, and merge."""
        runs = 0

        def visit(decisions: Mapping[int, bool]) -> Traced | Refusal:
            nonlocal runs
            if (runs := runs + 1) > MOST:
                raise ExportError(
                    f"the step goes more than {MOST // 2} ways, by its hyperparameters and the step count."
                )
            recorder = Recorder(self.graph, decisions)
            try:
                with torch.no_grad(), exchanged(recorder, self.places):
                    result = run(recorder)
                    result.asked = recorder.asked
                    return result
            except Undecided as undecided:
                condition = undecided.condition
            except ExportError:
                raise
            except GradchainError as error:
                return Refusal(str(error))
            except Exception as error:
                raise ExportError(
                    f"{self.graph.stage} cannot be traced for the export: {type(error).__name__}: {str(error)[:300]}"
                ) from error
            yes, no = (visit({**decisions, id(condition): way}) for way in (True, False))
            return merged(self.graph, condition, yes, no)

        result = visit({})
        if isinstance(result, Refusal):
            raise ExportError(result)
        return result

    def group(self, recorder: Recorder) -> TracedGroup:
        """The entries of a parameter group."""
        bindings = self.chain.bindings
        ranges: dict[tuple[str, int | None], tuple[float, float]] = {}
        for binding in bindings.bindings:
            if not binding.spec.follows:
                low, high = bounds(binding.spec.interval)
                known = ranges.get((binding.key, binding.index), (low, high))
                ranges[binding.key, binding.index] = max(low, known[0]), min(high, known[1])

        def entry(key: str, value: Any, index: int | None = None) -> Any:
            if value is None:
                return None
            text = f"group {key}" if index is None else f"group {key}[{index}]"
            return recorder.number(text, value, *ranges[key, index])

        group = TracedGroup()
        group.recorder = recorder
        for key, value in bindings.defaults.items():
            entries = tuple(entry(key, x, i) for i, x in enumerate(value)) if isinstance(value, tuple) else None
            group[key] = entry(key, value) if entries is None else entries
        for key in initial_keys(self.chain):
            group[key] = recorder.number(f"group {key}", 1e-3, 0.0)
        for _, _, key in bindings.shared:
            number = torch.empty((), dtype=torch.float64, device=META)
            group[key] = recorder.tensor(f"group {key}", number, key)
        return group

    # The step.

    def step(self, example: Example) -> Traced:
        return self.explore(lambda recorder: self._step(recorder, example))

    def _step(self, recorder: Recorder, example: Example) -> Traced:
        graph, dtype = self.graph, DTYPES[example.dtype]
        shape = recorder.parameter_shape(example.shape)
        param = recorder.tensor("p", torch.empty(example.shape, dtype=dtype, device=META))
        gradient = recorder.tensor("grad", torch.empty(example.shape, dtype=dtype, device=META))
        key = recorder.tensor("noise_key", torch.empty((), dtype=torch.int32, device=META))
        result = Traced()
        graph.stage, graph.rank = "state", 0
        with recorder:
            program = self._program(param, example.role)
            shard: Any = Shard(shape, 0, shape[0] if len(shape) else 1)  # type: ignore[arg-type]
            fresh = self._answered(recorder, program.start(param, shard, ""), "state")
        self.mixed = self.mixed or any(tensor.dtype != dtype for tensor in fresh.values())
        for name, tensor in fresh.items():
            result.roots[f"new {name}"] = recorder.node_of(tensor)
        state = {name: recorder.tensor(f"state {name}", torch.empty_like(x), _local(name)) for name, x in fresh.items()}
        graph.stage, graph.rank = program.stages[0][0], 1
        with recorder:
            group = self.group(recorder)
            step = recorder.number("step", 7, 1)
            numbers = NumberReader(program, program.clocks, self.chain.bindings).read(group, step, ())
            for values in numbers:
                for name, value in values.items():
                    if isinstance(value, Symbol) and value.node.op not in ("leaf", "const") and not value.node.name:
                        value.node.name = name
            witness = self._witness(recorder, program, result)
            running = program.run(param, gradient, state, numbers, noise_key=key, shard=shard, witness=witness)
            outcome = self._answered(recorder, running, "")
        result.roots["p"] = recorder.node_of(outcome.param)
        for name, tensor in outcome.state.items():
            result.roots[f"slot {name}"] = recorder.node_of(tensor)
        for (name, reduction), tensor in outcome.recorded.items():
            if reduction == "total":
                result.roots[f"total {name}"] = recorder.node_of(tensor)
        return result

    def _program(self, param: torch.Tensor, role: str | None) -> Program:
        nameless: Any = Nameless()
        stages = tuple(addressed(self.chain.elements, lambda part: (part.branch(nameless, param, role),)))
        if not stages:
            raise ExportError("no stage of the chain acts on some parameters.")
        program = Program.of(stages, role)
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            _ = program.owners
        return program

    def _witness(self, recorder: Recorder, program: Program, result: Traced) -> Any:
        """Notes what each stage passes on, and names it."""
        following = dict(
            zip((at for at, _ in program.stages), (at for at, _ in (*program.stages[1:], ("write", None))))
        )

        ranks = {at: rank for rank, (at, _) in enumerate(program.stages, 1)}

        def witness(address: str, update: Update, slots: Mapping[str, torch.Tensor]) -> None:
            parts = {
                "update": update.value,
                "scale": update.scale,
                "decay": update.decay,
                "weight": update.decay_weight,
            }
            for name, tensor in {**parts, **slots}.items():
                if isinstance(tensor, torch.Tensor):
                    node = recorder.node_of(tensor)
                    result.marks[address, name] = node
                    if node.op != "leaf" and node.stage == address and (not node.name or name in slots):
                        node.name = name
            self.graph.stage, self.graph.rank = following[address], ranks[address] + 1

        return witness

    def _answered(self, recorder: Recorder, running: Any, stage: str) -> Any:
        """Run to the end; totals over more than one tensor become questions to the other parameters."""
        try:
            address, request = next(running)
            while True:
                totals = request.local_totals()
                if request.joint:
                    totals = self._question(recorder, address, request)
                address, request = running.send(totals)
        except StopIteration as stop:
            return stop.value

    def _question(self, recorder: Recorder, address: str, request: Any) -> Totals:
        graph = self.graph
        label = graph.const(request.label)
        target = (address, request.combine, tuple(request.partials))
        partials = [recorder.node_of(x) for x in request.partials.values()]
        asked = graph.make("request", target, (label, *partials), kind="tensor")
        answers: dict[str, torch.Tensor] = {}
        for place, (name, partial) in enumerate(request.partials.items()):
            with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
                answer = torch.empty_like(partial)
            item = graph.make("item", "[]", (asked, graph.const(place)), kind="tensor")
            answers[name] = recorder.keep(answer, item)
        return Totals(**answers)

    # Shared numbers.

    def share(self) -> Traced | None:
        """The shared numbers of the next step, from the totals; `None` if there are none."""
        return self.explore(self._share) if self.chain.bindings.shared else None

    def _share(self, recorder: Recorder) -> Traced:
        result = Traced()
        bindings = self.chain.bindings
        with recorder:
            group = self.group(recorder)
            for address, stage in self.chain.addressed:
                names = dict(bindings.shared_of(address))
                if not isinstance(stage, SharedNumbers):
                    continue
                self.graph.stage, self.graph.rank = address, 1
                fields = {b.field: b.pick(group) for b in bindings.of_stage(address)}
                fields |= {name: group[key] for name, key in names.items()}
                totals = _Asked(recorder, address)
                made = stage.bind(stage.resolve(fields, group)).share(totals)
                result.roots |= {f"shared {names[name]}": recorder.node_of(x) for name, x in made.items()}
        return result


class _Asked(dict[str, torch.Tensor]):
    """Totals of what parameters contributed; made when a stage takes them."""

    def __init__(self, recorder: Recorder, address: str) -> None:
        super().__init__()
        self.recorder, self.address = recorder, address

    def __missing__(self, name: str) -> torch.Tensor:
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            total = torch.empty((), dtype=torch.float64, device=META)
        self[name] = self.recorder.tensor(f"total {self.address}.{name}", total, name)
        return self[name]


def bounds(interval: Interval) -> tuple[float, float]:
    """The least and the largest number of an interval."""
    low = math.nextafter(interval.low, math.inf) if interval.low_open else interval.low
    return low, math.nextafter(interval.high, -math.inf) if interval.high_open else interval.high


def initial_keys(chain: Chain) -> dict[str, str]:
    """Entries that keep what another had when a group was added, with the name of that."""
    specs = (spec for _, stage in chain.addressed for spec in stage.live_fields().values())
    return {spec.key: spec.initial for spec in specs if spec.initial is not None and spec.key is not None}


def _local(key: str) -> str:
    """The variable for an entry of the state: `stage.slot` or `stage.slot.part`."""
    return "_".join(key.split("/")[-1].split(".")[1:])

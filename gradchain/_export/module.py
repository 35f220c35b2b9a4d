"""The text of the file: header, class, and the functions that a trace has become."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradchain._chain import shared
from gradchain._chain.chain import Chain
from gradchain._core.fields import DTYPES, Interval, Spec
from gradchain._export.emit import Body
from gradchain._export.graph import Graph, Node
from gradchain._export.leaves import HELPERS
from gradchain._export.printer import ATOM, CALL, DEFINED, Text, fitted, literal, quoted
from gradchain._export.trace import Traced, initial_keys

LAST = 1e9
"""When results are written: after all else."""


@dataclass
class Described:
    """What the file says about itself."""

    name: str
    title: str
    origin: str
    version: str


class Module:
    """Writes one file."""

    def __init__(
        self,
        chain: Chain,
        graph: Graph,
        steps: Sequence[tuple[Sequence[str], Traced]],
        share: Traced | None,
        unseen: Any,
        mixed: bool,
        by_role: bool,
    ) -> None:
        self.chain, self.graph, self.share = chain, graph, share
        self.steps = [("" if not at else f"_{names[0]}", names, traced) for at, (names, traced) in enumerate(steps)]
        self.roots = [node for _, _, traced in self.steps for node in traced.roots.values()]
        self.unseen, self.mixed, self.by_role = unseen, mixed, by_role
        self.sources = {at: stage.source for at, stage in chain.addressed}
        self.locals: dict[str, str] = {}
        self.helpers: set[str] = set()
        self.used: set[str] = set()
        self.sharing = False

    # Names.

    def local(self, text: str) -> str:
        """The variable of a hyperparameter."""
        if text not in self.locals:
            key = text.removeprefix("group ")
            entry = re.fullmatch(r"(.*)\[(\d+)\]", key)
            base = entry[1] if entry else key
            if entry:
                base = (base[:-1] if base.endswith("s") else base) + str(int(entry[2]) + 1)
            name = re.sub(r"\W", "_", base)
            while name in RESERVED or name in self.locals.values():
                name += "_"
            self.locals[text] = name
        return self.locals[text]

    def leaf(self, node: Node) -> Text:
        text: str = node.target
        if node.op == "present":
            return f"group.get({quoted(text)}) is not None", 7
        self.used.add(text)
        if text == "p.device" and self.sharing:
            return 'group["params"][0].device', CALL
        kind, _, key = text.partition(" ")
        if kind == "group":
            return self.local(text), ATOM
        if kind in ("state", "total"):
            return f"{'state' if kind == 'state' else 'totals'}[{quoted(key)}]", CALL
        return text, ATOM if text.isidentifier() else CALL

    def group_lines(self) -> list[str]:
        """Load the entries of the group that are used."""
        lines: list[str] = []
        single: list[tuple[str, str]] = []
        tuples: dict[str, dict[int, str]] = {}
        for text in [text for text in self.locals if text in self.used]:
            key = text.removeprefix("group ")
            entry = re.fullmatch(r"(.*)\[(\d+)\]", key)
            if entry:
                tuples.setdefault(entry[1], {})[int(entry[2])] = self.locals[text]
            elif key in ("initial_lr", "max_lr"):
                lines.append(f"{self.locals[text]} = group.get({quoted(key)})")
            else:
                single.append((self.locals[text], key))
        for key, names in tuples.items():
            size = len(self.chain.hyperparameters[key])
            if len(names) == size and size > 1:
                lines.append(f"{', '.join(names[i] for i in range(size))} = group[{quoted(key)}]")
            else:
                lines += [f"{name} = group[{quoted(key)}][{i}]" for i, name in sorted(names.items())]
        lines += _assigned(single)
        return lines

    # Functions.

    def body(self, roots: Sequence[tuple[Node, Callable[[str], str], float]], taken: Iterable[str]) -> list[str]:
        body = Body(self.graph, roots, self.leaf, [*taken, *RESERVED], self.sources, _is_state)
        for node in body.order:
            if node.op == "leaf" and str(node.target).startswith("group "):
                self.local(node.target)
        body.taken |= set(self.locals.values())
        lines = body.lines()
        for node in body.order:
            if node.op == "helper":
                self.helpers.add(node.target)
        self.helpers |= {name for name in HELPERS if any(name in line for line in lines)}
        return lines

    def update(self, suffix: str, traced: Traced) -> list[str]:
        self.used = set()
        roots: list[tuple[Node, Callable[[str], str], float]] = []
        for conditions, message in traced.guards.values():
            roots.append((_joined(self.graph, conditions), _raising(message, "ValueError"), -0.9))
        for node, outcome in self.unseen:
            node = node if not outcome else self.graph.make("not", "not", (node,), kind=node.kind)
            message = "the exported step was not traced for parameters of this shape."
            roots.append((node, _raising(message, "NotImplementedError"), -0.9))
        order = LAST
        roots.append((traced.roots["p"], lambda text: f"p.copy_({text})" if text != "p" else "", order))
        for name, node in traced.roots.items():
            kind, _, key = name.partition(" ")
            if kind == "slot" and node.target != f"state {key}":
                roots.append((node, _writing(key), order + 1))
        totals = {name.partition(" ")[2]: node for name, node in traced.roots.items() if name.startswith("total ")}
        for name, node in totals.items():
            roots.append((node, lambda text, name=name: f"totals[{quoted(name)}] = {text}", order + 2))
        lines = self.body(roots, ())
        if totals:
            lines = ["totals: dict[str, Tensor] = {}", *lines, "return totals"]
        prologue = self.group_lines()
        if "role" in self.used:
            prologue.append('role = group["role"]')
        if "step" in self.used or self.noisy:
            prologue.append('step = int(state["step"])')
        if "noise_key" in self.used:
            self.helpers.add("_noise_key")
            prologue.append("noise_key = _noise_key(step, index, p.device)")
        returned = "dict[str, Tensor]" if totals else "None"
        if self.asks:
            returned = f"Generator[Question, list[Tensor], {returned}]"
        index = ", index: int" if self.noisy else ""
        head = f"def _update{suffix}(p: Tensor, grad: Tensor, state: State, group: Group{index}) -> {returned}:"
        if len(head) > 120:
            given = ["p: Tensor", "grad: Tensor", "state: State", "group: Group", *(["index: int"] if index else [])]
            head = f"def _update{suffix}(\n    {', '.join(given)}\n) -> {returned}:"
        write = _first_write(lines)
        if 0 < write < len(lines):
            lines = [*lines[:write], "", *lines[write:]]
        return [head, '    """One step of one parameter."""', *_indented([*prologue, *lines])]

    @property
    def asks(self) -> bool:
        """Whether a step needs totals over several parameters."""
        return any(node.op == "request" for node in _all(self.roots))

    @property
    def noisy(self) -> bool:
        return any(node.op == "leaf" and node.target == "noise_key" for node in _all(self.roots))

    def new_state(self, suffix: str, traced: Traced) -> list[str]:
        self.used = set()
        roots: list[tuple[Node, Callable[[str], str], float]] = []
        for name, node in traced.roots.items():
            kind, _, key = name.partition(" ")
            if kind == "new":
                shown = ".clone()" if self._is_shared(node, traced) else ""
                roots.append((node, lambda text, key=key, shown=shown: f"state[{quoted(key)}] = {text}{shown}", LAST))
        lines = self.body(roots, ())
        return [
            f"def _new_state{suffix}(p: Tensor) -> State:",
            '    """The state of a parameter before its first step."""',
            '    state: State = {"step": torch.zeros((), dtype=torch.int64)}',
            *_indented(lines),
            "    return state",
        ]

    def _is_shared(self, node: Node, traced: Traced) -> bool:
        """Whether the memory of a new slot may be that of the parameter or of another slot."""
        mine = _memory(node)
        others = [x for name, x in traced.roots.items() if name.startswith("new ") and x is not node]
        others += [x for name, x in traced.roots.items() if name.startswith("new ") and x is node][1:]
        held = [x for other in others for x in _memory(other)]
        direct = node.stage == "state" and node.op in ("call", "method") and node.target in FRESH
        return any(x.op == "leaf" for x in mine) or (not direct and any(x is y for x in mine for y in held))

    def shared(self) -> list[str]:
        assert self.share is not None
        self.sharing = True
        self.used = set()
        roots: list[tuple[Node, Callable[[str], str], float]] = []
        for conditions, message in self.share.guards.values():
            roots.append((_joined(self.graph, conditions), _raising(message, "ValueError"), -0.9))
        for name, node in self.share.roots.items():
            key = name.partition(" ")[2]
            roots.append((node, lambda text, key=key: f"shared[{quoted(key)}] = {text}", LAST))
        lines = self.body(roots, ("shared", "totals"))
        return [
            "def _share(group: Group, totals: dict[str, Tensor]) -> dict[str, Tensor]:",
            '    """The numbers that all parameters share, after a step."""',
            *_indented([*self.group_lines(), "shared: dict[str, Tensor] = {}", *lines, "return shared"]),
        ]

    # The class.

    def check(self) -> list[str]:
        """Raise for hyperparameters out of range."""
        lines: list[str] = []
        seen: set[str] = set()
        self.used = set()
        for binding in self.chain.bindings.bindings:
            text = f"group {binding.key}" if binding.index is None else f"group {binding.key}[{binding.index}]"
            value = self.chain.hyperparameters.get(binding.key)
            value = value[binding.index] if isinstance(value, tuple) and binding.index is not None else value
            if binding.spec.follows or value is None or binding.spec.interval == Interval():
                continue
            name = self.local(text)
            condition = f"{_range(name, binding.spec)}"
            if condition in seen:
                continue
            seen.add(condition)
            self.used.add(text)
            shown = text.removeprefix("group ")
            lines += [
                f"if not {condition}:",
                f'    raise ValueError(f"{shown} = {{{name}}} is outside {binding.spec.interval}.")',
            ]
        if not lines:
            return []
        return [
            "def _check(group: Group) -> None:",
            '    """Raise for hyperparameters that are out of range."""',
            *_indented([*self.group_lines(), *lines]),
        ]

    def write(self, described: Described) -> str:
        functions = [made for suffix, _, traced in self.steps for made in self.of_dtype(suffix, traced)]
        check = self.check()
        functions += [check, self.shared() if self.share is not None else [], self.together() if self.asks else []]
        if len(self.steps) > 1:
            functions.append(self.table())
        parts = [self.class_of(described, bool(check))]
        parts += ["\n".join(lines) for lines in functions if lines]
        parts += [HELPERS[name].strip() for name in HELPERS if name in self.helpers]
        code = "\n\n\n".join(parts)
        code = "\n".join(part for line in code.split("\n") for part in fitted(line))
        return f"{self.header(described, code)}\n\n\n{code}\n"

    def of_dtype(self, suffix: str, traced: Traced) -> list[list[str]]:
        return [self.update(suffix, traced), self.new_state(suffix, traced)]

    def table(self) -> list[str]:
        """Which functions are for which dtypes."""
        rows = [
            f"    {DTYPES[name]}: (_update{suffix}, _new_state{suffix}),"
            for suffix, names, _ in self.steps
            for name in names
        ]
        return ["FUNCTIONS: dict[torch.dtype, Any] = {", *rows, "}"]

    def header(self, described: Described, code: str) -> str:
        uses = ["Callable", "Generator", "Iterable"] if self.asks else ["Callable", "Iterable"]
        types = ["State = dict[str, Any]", "Group = dict[str, Any]"]
        if self.asks:
            types.append("Question = tuple[str, str | None, list[Tensor]]")
        constants = [
            f"{name} = {text}" + (f"  # {remark}" if remark else "")
            for name, (text, remark) in DEFINED.items()
            if re.search(rf"\b{name}\b", code)
        ]
        stages = "\n".join(f"* {at}{f': {source}' if source else ''}" for at, source in self.sources.items())
        lines = [
            f"# Generated by gradchain {described.version} from {described.origin}.",
            "# SPDX-License-Identifier: Apache-2.0",
            f'"""{described.title}',
            "",
            "One file that needs torch and nothing else. Its step is the trace of these stages, in this order:",
            "",
            stages,
            "",
            "State has the names that it has in gradchain, so this optimizer loads a state dict of the same chain there.",
            '"""',
            "",
            "from __future__ import annotations",
            "",
            *(["import math"] if "math." in code else []),
            f"from collections.abc import {', '.join(uses)}",
            "from typing import Any",
            "",
            "import torch",
            "from torch import Tensor",
            "",
            *types,
            *([""] if constants else []),
            *constants,
        ]
        return "\n".join(lines)

    def class_of(self, described: Described, checks: bool) -> str:
        defaults = self.chain.hyperparameters
        given = {key: value for key, value in defaults.items() if value is not None}
        names = {key: self._argument(key) for key in given}
        parameters = [f"{names[key]}: {_annotation(value)} = {_default(value)}" for key, value in given.items()]
        entries = [f"{quoted(key)}: {names[key]}" for key in given]
        lines = [
            f"class {described.name}(torch.optim.Optimizer):",
            *_indented(self._docstring(described, names)),
            "",
            "    def __init__(",
            "        self,",
            "        params: Iterable[Any],",
            *(f"        {parameter}," for parameter in parameters),
            "    ) -> None:",
            *_indented(_dict("defaults: dict[str, Any]", entries), 2),
            "        super().__init__(params, defaults)",
            "",
            *_indented(self._add_group(checks)),
            "",
            *_indented(self._step()),
        ]
        if self.mixed:
            lines += ["", *_indented(LOADING)]
        return "\n".join(lines)

    def _argument(self, key: str) -> str:
        name = re.sub(r"\W", "_", key)
        return name if name not in ("params", "self") else f"{name}_"

    def _docstring(self, described: Described, names: Mapping[str, str]) -> list[str]:
        lines = [f'"""{described.title}', "", "Args:", "    params: parameters, or groups of them."]
        for key, name in names.items():
            bound = [b for b in self.chain.bindings.bindings if b.key == key and not b.spec.follows]
            owners = dict.fromkeys(f"`{b.field}` of {b.address}" for b in bound)
            lines += _filled(f"{name}: {', '.join(owners)}; in {_interval(bound[0].spec)}.")
        return [*lines, '"""']

    def _add_group(self, checks: bool) -> list[str]:
        initial = initial_keys(self.chain)
        numbers = shared.initial(self.chain, self.chain.hyperparameters, torch.device("cpu"))
        dtypes = [DTYPES[name] for _, names, _ in self.steps for name in names]
        only = f"torch.{str(dtypes[0])[6:]}" if len(dtypes) == 1 else f"({', '.join(map(str, dtypes))})"
        unfit = f"p.dtype != {only}" if len(dtypes) == 1 else f"p.dtype not in {only}"
        lines = [
            "def add_param_group(self, param_group: dict[str, Any]) -> None:",
            '    """Add parameters, at any time."""',
        ]
        lines += ["    _check({**self.defaults, **param_group})"] if checks else []
        if self.by_role:
            lines += [
                '    if param_group.get("role") is not None:',
                '        raise ValueError("parameters with roles are stepped otherwise, which this file does not do.")',
            ]
        lines += [
            "    super().add_param_group(param_group)",
            '    for p in self.param_groups[-1]["params"]:',
            f"        if {unfit}:",
            "            self.param_groups.pop()",
            '            raise ValueError(f"a parameter is {p.dtype}, for which this file was not made.")',
        ]
        if initial or numbers:
            lines.append("    group = self.param_groups[-1]")
        for key, other in initial.items():
            lines.append(f"    group.setdefault({quoted(key)}, group[{quoted(other)}])")
        if numbers:
            lines += [
                '    first, device = self.param_groups[0], group["params"][0].device',
                f"    for key, value in {_pairs(numbers)}:",
                "        known = first.get(key, group.get(key, value))",
                "        group[key] = torch.as_tensor(known, dtype=torch.float64, device=device)",
            ]
        return lines

    def _step(self) -> list[str]:
        lines = [
            "@torch.no_grad()",
            "def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]",
            '    """Step all parameters that have a gradient. Returns what the closure does."""',
            "    loss = None",
            "    if closure is not None:",
            "        with torch.enable_grad():",
            "            loss = closure()",
        ]
        lines += ["    index = -1  # of the parameter among all"] if self.noisy else []
        lines += ["    steps: list[Any] = []"] if self.asks else []
        lines += ["    made: list[dict[str, Tensor]] = []"] if self.share else []
        several = len(self.steps) > 1
        new = "new_state" if several else "_new_state"
        call = f"{'update' if several else '_update'}(p, p.grad, state, group{', index' if self.noisy else ''})"
        if self.asks:
            call = f"steps.append({call})"
        elif self.share:
            call = f"made.append({call})"
        lines += [
            "    for group in self.param_groups:",
            '        for p in group["params"]:',
            *(["            index += 1"] if self.noisy else []),
            "            if p.grad is None:",
            "                continue",
            *(["            update, new_state = FUNCTIONS[p.dtype]"] if several else []),
            "            state = self.state[p]",
            "            if not state:",
            f'                state.update({new}(p))',
            '            state["step"] += 1',
            "            if p.numel() > 0:",
            f"                {call}",
        ]
        if self.asks:
            lines.append("    made = _together(steps)" if self.share else "    _together(steps)")
        if self.share:
            lines += [
                "    if made:",
                "        totals = made[0]",
                "        for other in made[1:]:",
                "            totals = {name: total + other[name].to(total.device) for name, total in totals.items()}",
                "        shared = _share(self.param_groups[0], totals)",
                "        for group in self.param_groups:",
                "            group.update({key: value.to(group[key].device) for key, value in shared.items()})",
            ]
        return [*lines, "    return loss"]

    def together(self) -> list[str]:
        asking = {node.target for node in _all(self.roots) if node.op == "request"}
        stages = [at for at, _ in self.chain.addressed if any(target[0] == at for target in asking)]
        return TOGETHER.format(stages=", ".join(map(quoted, stages)) + ",").strip().split("\n")


RESERVED = (
    "p", "grad", "state", "group", "step", "index", "noise_key", "role", "totals", "shared", "torch", "math", "self", "Any",
    "Tensor", "params", "answer", "max", "min", "abs", "round", "int", "float", "tuple", "dict", "list", "range", "key",
)  # fmt: skip
"""Names that no variable gets."""

LOADING = '''
def load_state_dict(self, state_dict: dict[str, Any]) -> None:
    """Take over a state dict. Every entry keeps its dtype, where torch would cast to that of the parameter."""
    super().load_state_dict(state_dict)
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    params = [p for group in self.param_groups for p in group["params"]]
    for number, p in zip(numbers, params, strict=True):
        for key, value in state_dict["state"].get(number, {}).items():
            if key != "step" and isinstance(value, Tensor):
                self.state[p][key] = value.detach().to(p.device, copy=True)
'''.strip().split("\n")

TOGETHER = '''
def _together(steps: list[Any]) -> list[Any]:
    """Run the steps of all parameters, and add up what they ask about."""
    results: list[Any] = [None] * len(steps)
    waiting: dict[int, Question] = {{}}

    def resume(place: int, answer: list[Tensor] | None) -> None:
        try:
            waiting[place] = steps[place].send(answer)
        except StopIteration as stop:
            results[place] = stop.value

    for place in range(len(steps)):
        resume(place, None)
    for stage in ({stages}):
        while here := {{place: question for place, question in waiting.items() if question[0] == stage}}:
            totals: dict[str | None, list[Tensor]] = {{}}
            for place, (_, label, partials) in here.items():
                known = totals.get(label)
                added = partials if known is None else [a + b.to(a.device) for a, b in zip(known, partials, strict=True)]
                totals[label] = added
                del waiting[place]
            for place, (_, label, partials) in here.items():
                resume(place, [total.to(partial.device) for total, partial in zip(totals[label], partials, strict=True)])
    return results
'''


FRESH = ("full_like", "new_full", "new_zeros", "new_ones", "torch.full_like", "torch.zeros", "torch.ones", "torch.full")
"""Operations that make new memory where they are written."""

SAME = ("to", "view", "reshape", "detach", "flatten", "expand", "t", "contiguous")
"""Methods that may hand on the memory that they get."""


def _memory(node: Node) -> list[Node]:
    """Where the memory of a tensor may come from."""
    if node.op == "choice":
        return [x for arm in node.args[1:] for x in _memory(arm)]
    if node.op in ("item", "attribute") or (node.op == "method" and node.target in SAME and "copy" not in node.keywords):
        return _memory(node.args[0])
    return [] if node.op == "leaf" and node.target == "absent" else [node]


def _is_state(node: Node) -> bool:
    return str(node.target).startswith("state ")


def _all(roots: Iterable[Node]) -> list[Node]:
    found: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if id(node) not in found:
            found[id(node)] = node
            waiting += node.args
    return list(found.values())


def _writing(key: str) -> Callable[[str], str]:
    return lambda text: f"state[{quoted(key)}].copy_({text})"


def _raising(message: str, kind: str) -> Callable[[str], str]:
    def write(text: str) -> str:
        lines = [f"if {text}:", f"    raise {kind}("]
        for part in textwrap.wrap(" ".join(message.split()), 90, drop_whitespace=False):
            lines.append(f"        {quoted(part)}")
        one = f"    raise {kind}({lines[2].strip()})"
        return "\n".join([lines[0], one] if len(lines) == 3 and len(one) < 110 else [*lines, "    )"])

    return write


def _joined(graph: Graph, conditions: Sequence[tuple[Node, bool]]) -> Node:
    """All of these together."""
    parts = [node if wanted else graph.make("not", "not", (node,), kind=node.kind) for node, wanted in conditions]
    result = parts[0]
    for part in parts[1:]:
        result = graph.make("binary", "and", (result, part), kind="number", order=max(result.order, part.order))
    return result


def _first_write(lines: Sequence[str]) -> int:
    """Where writing begins."""
    place = len(lines)
    starts = ("p.copy_", 'state["', "totals[", "return totals")
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        if not line.strip().startswith(starts) and not line.startswith(("if ", "else:", "elif ")):
            break
        if not line.startswith(" "):
            place = number
    return place


def _indented(lines: Sequence[str], times: int = 1) -> list[str]:
    while lines and not lines[0]:
        lines = lines[1:]
    flat = [part for line in lines for part in line.split("\n")]
    return ["    " * times + line if line else "" for line in flat]


def _assigned(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Load several entries, a few on each line."""
    lines: list[str] = []
    waiting = list(pairs)
    while waiting:
        count = len(waiting)
        while count > 1 and len(_one(waiting[:count])) > 110:
            count -= 1
        lines.append(_one(waiting[:count]))
        waiting = waiting[count:]
    return lines


def _one(pairs: Sequence[tuple[str, str]]) -> str:
    return f"{', '.join(name for name, _ in pairs)} = {', '.join(f'group[{quoted(key)}]' for _, key in pairs)}"


def _range(name: str, spec: Spec) -> str:
    """Whether a number is in range, as a condition that NaN fails."""
    interval = spec.interval
    low = f"{literal(interval.low)[0]} {'<' if interval.low_open or interval.low == -torch.inf else '<='} "
    infinite = interval.high == torch.inf and spec.infinite
    high = f" {'<=' if infinite or not (interval.high_open or interval.high == torch.inf) else '<'} "
    return f"{low.replace('.0 ', ' ')}{name}{high}{literal(interval.high)[0].removesuffix('.0')}"


def _interval(spec: Spec) -> str:
    return str(spec.interval)


def _annotation(value: Any) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join('float' if x is not None else 'None' for x in value)}]"
    return "float"


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        inside = ", ".join(_default(x) for x in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return literal(value)[0]


def _dict(target: str, entries: Sequence[str]) -> list[str]:
    one = f"{target} = {{{', '.join(entries)}}}"
    if len(one) <= 104:
        return [one]
    return [f"{target} = {{", *(f"    {entry}," for entry in entries), "}"]


def _pairs(numbers: Mapping[str, torch.Tensor]) -> str:
    return f"({', '.join(f'({quoted(key)}, {literal(float(value))[0]})' for key, value in numbers.items())})"


def _filled(text: str) -> list[str]:
    lines = textwrap.wrap(text, 104, break_long_words=False)
    return [f"    {lines[0]}", *(f"        {line}" for line in lines[1:])]

"""The functions of a file: what a trace has become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._core.fields import DTYPES, Interval
from gradchain._export.emit import Body
from gradchain._export.graph import Graph, Node
from gradchain._export.leaves import HELPERS
from gradchain._export.printer import ATOM, CALL, Text, quoted
from gradchain._export.text import (
    FRESH,
    RESERVED,
    all_nodes,
    assigned,
    first_write,
    indented,
    is_state,
    joined,
    memory,
    raising,
    range_of,
    writing,
)
from gradchain._export.trace import Traced

LAST = 1e9
"""When results are written: after all else."""


class Functions:
    """Writes the functions of one file."""

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
        lines += assigned(single)
        return lines

    # Functions.

    def body(self, roots: Sequence[tuple[Node, Callable[[str], str], float]], taken: Iterable[str]) -> list[str]:
        body = Body(self.graph, roots, self.leaf, [*taken, *RESERVED], self.sources, is_state)
        for node in body.order:
            if node.op == "leaf" and str(node.target).startswith("group "):
                self.local(node.target)
        body.taken |= set(self.locals.values())
        lines = body.lines()
        for node in body.order:
            if node.op == "helper":
                self.helpers.add(node.target)
        self.helpers |= {name for name in HELPERS if any(name in line for line in lines)}
        self.helpers |= {name for name in HELPERS if any(name in HELPERS[used] for used in self.helpers)}
        return lines

    def update(self, suffix: str, traced: Traced) -> list[str]:
        self.used = set()
        roots: list[tuple[Node, Callable[[str], str], float]] = []
        for conditions, message in traced.guards.values():
            roots.append((joined(self.graph, conditions), raising(message, "ValueError"), -0.9))
        for node, outcome in self.unseen:
            node = node if not outcome else self.graph.make("not", "not", (node,), kind=node.kind)
            message = "the exported step was not traced for parameters of this shape."
            roots.append((node, raising(message, "NotImplementedError"), -0.9))
        order = LAST
        roots.append((traced.roots["p"], lambda text: f"p.copy_({text})" if text != "p" else "", order))
        for name, node in traced.roots.items():
            kind, _, key = name.partition(" ")
            if kind == "slot" and node.target != f"state {key}":
                roots.append((node, writing(key), order + 1))
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
        write = first_write(lines)
        if 0 < write < len(lines):
            lines = [*lines[:write], "", *lines[write:]]
        return [head, '    """One step of one parameter."""', *indented([*prologue, *lines])]

    @property
    def asks(self) -> bool:
        """Whether a step needs totals over several parameters."""
        return any(node.op == "request" for node in all_nodes(self.roots))

    @property
    def noisy(self) -> bool:
        return any(node.op == "leaf" and node.target == "noise_key" for node in all_nodes(self.roots))

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
            *indented(lines),
            "    return state",
        ]

    def _is_shared(self, node: Node, traced: Traced) -> bool:
        """Whether the memory of a new slot may be that of the parameter or of another slot."""
        mine = memory(node)
        others = [x for name, x in traced.roots.items() if name.startswith("new ") and x is not node]
        others += [x for name, x in traced.roots.items() if name.startswith("new ") and x is node][1:]
        held = [x for other in others for x in memory(other)]
        direct = node.stage == "state" and node.op in ("call", "method") and node.target in FRESH
        return any(x.op == "leaf" for x in mine) or (not direct and any(x is y for x in mine for y in held))

    def shared(self) -> list[str]:
        assert self.share is not None
        self.sharing = True
        self.used = set()
        roots: list[tuple[Node, Callable[[str], str], float]] = []
        for conditions, message in self.share.guards.values():
            roots.append((joined(self.graph, conditions), raising(message, "ValueError"), -0.9))
        for name, node in self.share.roots.items():
            key = name.partition(" ")[2]
            roots.append((node, lambda text, key=key: f"shared[{quoted(key)}] = {text}", LAST))
        lines = self.body(roots, ("shared", "totals"))
        return [
            "def _share(group: Group, totals: dict[str, Tensor]) -> dict[str, Tensor]:",
            '    """The numbers that all parameters share, after a step."""',
            *indented([*self.group_lines(), "shared: dict[str, Tensor] = {}", *lines, "return shared"]),
        ]

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
            condition = f"{range_of(name, binding.spec)}"
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
            *indented([*self.group_lines(), *lines]),
        ]

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

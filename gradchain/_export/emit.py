"""Straight-line code from a graph: what gets a variable, in which order, under which conditions, by which name."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping, Sequence

from gradchain._export.graph import Graph, Node
from gradchain._export.printer import ATOM, CALL, Text, expression, tight
from gradchain._export.schedule import Path, Statement, ends, in_order, is_absent, places
from gradchain._export.words import hint_of

LONG, WIDE = 72, 84
"""Characters of an expression that has no variable, and of a line without its indentation."""

MAKERS = (
    "full_like",
    "new_full",
    "new_zeros",
    "new_ones",
    "torch.full_like",
    "torch.zeros",
    "torch.ones",
    "torch.full",
    "detach",
    "to",
)
"""Operations that make the tensors of a state."""

ATOMS = ("leaf", "const", "tuple")


class Body:
    """The statements of one function.

    `roots` are what it is for: for each the expression, what to make of its source, and when: the smaller, the earlier.
    """

    def __init__(
        self,
        graph: Graph,
        roots: Sequence[tuple[Node, Callable[[str], str], float]],
        leaf: Callable[[Node], Text],
        taken: Mapping[str, str] | Sequence[str],
        sources: Mapping[str, str],
        loads: Callable[[Node], bool] = lambda node: False,
    ) -> None:
        self.graph, self.leaf, self.sources, self.loads = graph, leaf, sources, loads
        self.taken = set(taken)
        self.clean: dict[int, Node] = {}
        self.roots = [(self._cleaned(node), write, order) for node, write, order in roots]
        self.split: set[int] = set()
        """Choices between writing a result and leaving it away."""
        for node, _, _ in self.roots:
            self._find_split(node)
        self.order = self._reachable()
        self.users: dict[int, int] = {}
        self.paths: dict[int, list[Path]] = {}
        self._find_paths()
        self.arms = {id(arm): node for node in self.order if node.op == "choice" for arm in node.args[1:]}
        """What is chosen from, and the last choice that it is for."""
        self.named: dict[int, Node] = {}
        self._choose_named()
        self.names: dict[int, str] = {}
        self.told: set[str] = set()

    # What there is.

    def _cleaned(self, node: Node) -> Node:
        """Without casts that change nothing and divisions by one."""
        if id(node) in self.clean:
            return self.clean[id(node)]
        args = [self._cleaned(arg) for arg in node.args]
        if _is_idle(node, args):
            made = args[0]
        elif node.op == "choice":
            made = self.graph.choice(*args)
        else:
            made = self.graph.rebuilt(node, args)
        self.clean[id(node)] = made
        return made

    def _reachable(self) -> list[Node]:
        """All nodes, arguments first."""
        found: dict[int, Node] = {}

        def visit(node: Node) -> None:
            if id(node) not in found:
                for arg in node.args:
                    visit(arg)
                found[id(node)] = node

        for node, _, _ in self.roots:
            visit(node)
        return list(found.values())

    def _find_split(self, node: Node) -> None:
        if node.op == "choice" and any(map(is_absent, ends(node))):
            self.split.add(id(node))
            for arm in node.args[1:]:
                self._find_split(arm)

    def _find_paths(self) -> None:
        """Where each node is needed: under which conditions, and nowhere else, as it may make sense there only."""
        needed: dict[int, list[Path]] = {}

        def use(node: Node, path: Path) -> None:
            self.users[id(node)] = self.users.get(id(node), 0) + 1
            held = needed.setdefault(id(node), [])
            if path not in held:
                held.append(path)

        for node, _, _ in self.roots:
            use(node, ())
        for node in reversed(self.order):
            paths = self.paths[id(node)] = places(needed[id(node)])
            for number, path in enumerate(paths):
                before = dict(self.users)
                if node.op == "choice":
                    condition, yes, no = node.args
                    use(condition, path)
                    use(yes, (*path, (condition, True)))
                    use(no, (*path, (condition, False)))
                else:
                    for arg in node.args:
                        use(arg, path)
                if number:
                    self.users = before

    # What gets a variable.

    def _choose_named(self) -> None:
        length: dict[int, int] = {}
        roots = {id(node) for node, _, _ in self.roots}
        for node in self.order:
            size = 0 if id(node) in self.split else self._length(node, length)
            if self._is_named(node, size, id(node) in roots):
                self.named[id(node)] = node
                size = 12
            elif size > WIDE:
                for arg in sorted(node.args, key=lambda arg: -length[id(arg)]):
                    if size <= WIDE:
                        break
                    if arg.kind == "tensor" and arg.op not in ATOMS and length[id(arg)] > 20:
                        self.named[id(arg)] = arg
                        size -= length[id(arg)] - 12
                        length[id(arg)] = 12
            length[id(node)] = size

    def _length(self, node: Node, length: Mapping[int, int]) -> int:
        def of(arg: Node) -> Text:
            return "x" * length[id(arg)], CALL

        return len(expression(node, of, self.leaf)[0])

    def _is_named(self, node: Node, size: int, is_root: bool) -> bool:
        uses, op = self.users[id(node)], node.op
        if id(node) in self.split or (id(node) in self.arms and uses == 1 and op != "choice"):
            return False
        if op in ("const", "fixed", "tuple", "slice", "present", "slice_of") or (op == "leaf" and not self.loads(node)):
            return False
        if op in ("leaf", "request"):
            return True
        if node.stage == "state" and node.target in MAKERS:
            return False  # each slot has memory of its own
        if op == "item" and node.args[0].op in ("request", "call", "helper"):
            return False
        if op == "choice":
            return node.kind == "tensor" or size > 60 or uses > 1 or self._inner(node)
        if node.kind == "shape":
            return uses > 1 and size > 45
        if node.kind == "number":
            return size > LONG or (uses > 1 and size > 22)
        if is_root and uses == 1:
            return False
        return uses > 1 or size > LONG or (bool(node.name) and op != "attribute")

    def _inner(self, node: Node) -> bool:
        """Whether an arm of a choice has variables of its own."""
        seen = list(node.args[1:])
        while seen:
            arg = seen.pop()
            if id(arg) in self.named and max(map(len, self.paths[id(arg)])) > min(map(len, self.paths[id(node)])):
                return True
            if id(arg) not in self.named:
                seen += arg.args
        return False

    # In which order.

    def _parts(self, node: Node) -> list[Node]:
        """The variables in the expression of a node."""
        found: list[Node] = []
        waiting = list(node.args)
        while waiting:
            arg = waiting.pop()
            if id(arg) in self.named:
                found.append(arg)
            else:
                waiting += arg.args
        return found

    def _uses(self, node: Node) -> list[Node]:
        return [node] if id(node) in self.named else self._parts(node)

    def statements(self) -> list[Statement]:
        """In an order in which everything is there when it is needed."""
        groups: list[tuple[float, list[Statement]]] = []
        ready: dict[int, list[int]] = {}
        for node in self.named.values():
            for path in self.paths[id(node)]:
                made = [Statement(node, path, uses=self._parts(node))]
                if node.op == "choice":
                    condition, *arms = node.args
                    asked = self._uses(condition)
                    made = [
                        Statement(arm, (*path, (condition, way)), target=node, uses=self._uses(arm) + asked)
                        for arm, way in zip(arms, (True, False))
                    ]
                for statement in made:
                    statement.uses = [*statement.uses, *(x for c, _ in path for x in self._uses(c))]
                ready.setdefault(id(node), []).append(len(groups))
                groups.append((node.order, made))
        for node, write, order in self.roots:
            groups.append((order, self._written(node, (), write)))
        return in_order(groups, ready)

    def _written(self, node: Node, path: Path, write: Callable[[str], str]) -> list[Statement]:
        """The statements that write a root; on some paths there may be none to write."""
        if node.op == "leaf" and node.target == "absent":
            return []
        if id(node) in self.split:
            condition, yes, no = node.args
            both = self._written(yes, (*path, (condition, True)), write)
            return both + self._written(no, (*path, (condition, False)), write)
        conditions = [x for c, _ in path for x in self._uses(c)]
        return [Statement(node, path, write, uses=self._uses(node) + conditions)]

    # By which name.

    def _name_all(self, statements: Sequence[Statement]) -> None:
        last: dict[int, int] = {}
        first: dict[int, int] = {}
        for place, statement in enumerate(statements):
            for use in statement.uses:
                last[id(use)] = place
            made = statement.target or (statement.node if statement.write is None else None)
            if made is not None:
                first.setdefault(id(made), place)
                last[id(made)] = max(last.get(id(made), place), place)
        holders: dict[str, list[int]] = {}
        for node_id, place in sorted(first.items(), key=lambda item: item[1]):
            node = self._outermost(self.named[node_id])
            if id(node) not in self.names:
                arms = 1 if node.op == "choice" else 0
                self.names[id(node)] = self._free(node, place + arms, holders, last)
                holders.setdefault(self.names[id(node)], []).append(id(node))
            self.names[node_id] = self.names[id(node)]

    def _outermost(self, node: Node) -> Node:
        """The choice that a choice is an arm of, and of nothing else: they share a variable."""
        while node.op == "choice" and self.users[id(node)] == 1 and id(self.arms.get(id(node))) in self.named:
            node = self.arms[id(node)]
        return node

    def _free(self, node: Node, place: int, holders: Mapping[str, Sequence[int]], last: Mapping[int, int]) -> str:
        """A name that nobody needs any longer."""

        def free(name: str) -> bool:
            return name not in self.taken and all(last[held] <= place for held in holders.get(name, ()))

        hints = [self.names[id(arm)] for arm in node.args[1:] if node.op == "choice" and id(arm) in self.names]
        hints.append(hint_of(node))
        for hint in hints:
            if free(hint) and not keyword.iskeyword(hint):
                return hint
        number = 2
        while not free(f"{hints[-1]}_{number}"):
            number += 1
        return f"{hints[-1]}_{number}"

    # Source.

    def text(self, node: Node, whole: bool = False) -> Text:
        if id(node) in self.names and not whole:
            return self.names[id(node)], ATOM
        return expression(node, self.text, self.leaf)

    def lines(self) -> list[str]:
        statements = self.statements()
        self._name_all(statements)
        return self._block(statements, 0, [""])

    def _block(self, statements: Sequence[Statement], depth: int, stage: list[str]) -> list[str]:
        """The lines of statements that have their first `depth` conditions in common."""
        lines: list[str] = []
        place = 0
        while place < len(statements):
            statement = statements[place]
            if len(statement.path) == depth:
                lines += self._comment(statement, stage, depth)
                lines += self._line(statement)
                place += 1
                continue
            condition = statement.path[depth][0]
            end = place
            while end < len(statements) and statements[end].path[depth : depth + 1]:
                if statements[end].path[depth][0] is not condition:
                    break
                end += 1
            run = statements[place:end]
            lines += self._comment(statement, stage, depth)
            lines += self._branch(condition, run, depth, stage)
            place = end
        return lines

    def _branch(self, condition: Node, run: Sequence[Statement], depth: int, stage: list[str]) -> list[str]:
        yes = self._block([s for s in run if s.path[depth][1]], depth + 1, list(stage))
        no = self._block([s for s in run if not s.path[depth][1]], depth + 1, list(stage))
        text = self.text(condition)
        if not yes and not no:
            return []
        if not yes:
            return [f"if {self._negated(condition)}:", *_indented(no)]
        lines = [f"if {text[0]}:", *_indented(yes)]
        if no and no[0].startswith("if ") and all(line.startswith((" ", "el")) for line in no[1:]):
            return [*lines, f"el{no[0]}", *no[1:]]
        return [*lines, "else:", *_indented(no)] if no else lines

    def _negated(self, condition: Node) -> str:
        """The opposite of a condition; hyperparameters are no NaNs."""
        if condition.op == "not":
            return self.text(condition.args[0])[0]
        if condition.op == "binary" and condition.target in OPPOSITE and id(condition) not in self.names:
            left, right = map(self.text, condition.args)
            return f"{tight(left, 8)} {OPPOSITE[condition.target]} {tight(right, 8)}"
        return f"not {_wrapped(self.text(condition))}"

    def _comment(self, statement: Statement, stage: list[str], depth: int) -> list[str]:
        made = statement.target or statement.node
        own = "write" if statement.write is not None else made.stage
        if own == stage[0] or not own or own == "state" or (own == "write" and statement.write is None):
            return []
        if depth and own in self.told:
            return []
        self.told.add(own)
        stage[0] = own
        if own == "write":
            return []
        source = self.sources.get(own)
        return ["", f"# {own}: {source}" if source else f"# {own}"]

    def _line(self, statement: Statement) -> list[str]:
        if statement.write is not None:
            text = statement.write(self.text(statement.node)[0])
            return text.split("\n") if text else []
        target = statement.target or statement.node
        name = self.names[id(target)]
        if statement.target is not None:
            text = self.text(statement.node)[0]
        elif statement.node.op == "leaf":
            text = self.leaf(statement.node)[0]
        else:
            text = self.text(statement.node, whole=True)[0]
        return [] if text == name else [f"{name} = {text}"]


OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def _wrapped(text: Text) -> str:
    return text[0] if text[1] >= 6 else f"({text[0]})"


def _indented(lines: Sequence[str]) -> list[str]:
    while lines and not lines[0]:
        lines = lines[1:]
    return [f"    {line}" if line else "" for line in lines]


def _is_idle(node: Node, args: Sequence[Node]) -> bool:
    """Whether this is a cast that never changes anything, or a division by one."""
    if node.op == "method":
        return node.target in ("to", "float", "double") and not node.changes and not node.keywords
    return node.op == "binary" and node.target == "/" and args[1].op == "const" and args[1].target in (1, 1.0)

"""An ordered list of named stages: the recipe of an optimizer as a value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, cast

import torch

from gradchain._chain import config, functional
from gradchain._chain.bindings import bind_keys
from gradchain._chain.check import check
from gradchain._chain.cost import ChainCost, cost_of
from gradchain._chain.edit_strings import apply_edits
from gradchain._chain.elements import Composed, Element, Partition, elements_of
from gradchain._chain.functional import ChainState, Tree
from gradchain._chain.show import chain_table
from gradchain._chain.stage import Stage
from gradchain._chain.targets import resolve, targets
from gradchain._chain.trace import Trace
from gradchain._chain.trace import trace as tracing_of
from gradchain._core.fields import as_tuple
from gradchain.errors import ChainError, shown
from gradchain.roles import Rule

Stages: TypeAlias = "Stage | Chain | Sequence[Stage]"
Edit: TypeAlias = "Callable[[Stage], tuple[Element, ...]]"


@dataclasses.dataclass(frozen=True, repr=False)
class Chain(Composed):
    """A sequence of stages, checked when it is built. Frozen, hashable, comparable; every edit gives a new chain.

    Build one with `chain(...)` or `gradchain.recipe(name)`. `print(chain)` shows it as a table.

    >>> adam = gradchain.recipe("adamw")
    >>> adam.replace("divide", atan2_scale()).without("decoupled_decay").names
    ('first_moment', 'second_moment', 'atan2_scale', 'scale_by_learning_rate')
    """

    def __post_init__(self) -> None:
        _check_elements(self.elements)
        check(self.elements)
        bind_keys(self.addressed)

    # Looking at it.

    def __getitem__(self, name: str) -> Stage:
        return dict(self.addressed)[resolve(self.names, name)]

    def __contains__(self, name: object) -> bool:
        return any(name in (address, address.rpartition("/")[2]) for address in self.names)

    def __iter__(self) -> Iterator[Stage]:
        return (stage for _, stage in self.addressed)

    def __len__(self) -> int:
        return len(self.addressed)

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.elements))})"

    def __str__(self) -> str:
        return chain_table(self)

    # Editing it.

    def _edit(self, edits: Iterable[tuple[str, Edit]]) -> Chain:
        return Chain(_edited(self.elements, {resolve(self.names, name): edit for name, edit in edits}))

    def without(self, *names: str) -> Chain:
        """Leave stages out. Returns: the new chain.

        Raises: UnknownOptionError: no such stage; ChainError: the other stages do not fit together.
        """
        return self._edit((name, lambda stage: ()) for name in names)

    def replace(self, name: str, stage: Stages) -> Chain:
        """Put another stage, a list of stages or a chain in the place of a stage. Returns: the new chain.

        Raises: UnknownOptionError: no such stage; ChainError: the stages do not fit together.
        """
        return self._edit([(name, lambda old: elements_of(stage))])

    def insert_before(self, name: str, stage: Stages) -> Chain:
        """Insert a stage, a list of stages or a chain before a stage. Returns: the new chain.

        Raises: UnknownOptionError: no such stage; ChainError: the stages do not fit together.
        """
        return self._edit([(name, lambda old: (*elements_of(stage), old))])

    def insert_after(self, name: str, stage: Stages) -> Chain:
        """Insert a stage, a list of stages or a chain after a stage. Returns: the new chain.

        Raises: UnknownOptionError: no such stage; ChainError: the stages do not fit together.
        """
        return self._edit([(name, lambda old: (old, *elements_of(stage)))])

    def with_options(self, **options: Any) -> Chain:
        """Set options, named as in `param_groups` (`lr`, `betas`), by field, or as `stage.field`.

        Returns: the new chain.
        Raises: UnknownOptionError: an unknown or ambiguous name; OptionError: a value out of range.

        >>> gradchain.recipe("adamw").with_options(lr=3e-4, betas=(0.9, 0.95), **{"divide.eps": 1e-6}).hyperparameters
        {'betas': (0.9, 0.95), 'eps': 1e-06, 'weight_decay': 0.01, 'lr': 0.0003}
        """
        changes: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            for address, field, picked in targets(self, name, as_tuple(value)):
                changes.setdefault(address, {})[field] = picked
        return self._edit(
            (address, lambda stage, fields=fields: (dataclasses.replace(stage, **fields),))
            for address, fields in changes.items()
        )

    def edit(self, *edits: str) -> Chain:
        """Apply edits that are written as text; several in one text are separated by `; `. Checked when all are applied.

        | text | meaning |
        |---|---|
        | `-centralize` | leave a stage out |
        | `+clip_by_norm(1.0) before divide` | put in; also `after divide`, `in matrix/` (a branch); or at the end |
        | `divide -> atan2_scale(a=1.27)` | another stage in its place |
        | `sign <-> centralize` | exchange the places of two stages |
        | `sign before centralize` | move a stage; also `after centralize`, or `last` |
        | `lr = 0.1`, `divide.eps = 1e-6` | set an option, named as for `with_options` |

        A stage is written as `repr` shows it; no code is run.

        Returns: the new chain.
        Raises: UnknownOptionError, UnknownNameError: there is no such stage or option; OptionError: the text is no edit,
            or a value is out of range; ChainError: the stages do not fit together.

        >>> gradchain.recipe("adamw").edit("divide -> atan2_scale(a=1.27); -decoupled_decay", "lr = 0.01")
        chain(first_moment(), second_moment(), atan2_scale(a=1.27), scale_by_learning_rate(lr=0.01))
        """
        elements = apply_edits(self.elements, edits)
        try:
            return Chain(elements)
        except ChainError as error:
            raise ChainError(f"edit {shown('; '.join(edits))}: {error}", stage=error.stage) from None

    def dependents(self, name: str) -> tuple[str, ...]:
        """List the stages that cannot stay without `name`.

        Returns: their names, each found by removing those before it.
        Raises: UnknownOptionError: no such stage; ChainError: no sound chain is left without it.

        >>> gradchain.recipe("rose").dependents("range_normalize")
        ('cv_trust_gate', 'divide')
        """
        gone = [resolve(self.names, name)]
        while True:
            try:
                self.without(*gone)
                return tuple(gone[1:])
            except ChainError as error:
                if error.stage is None or error.stage in gone:
                    raise
                gone.append(error.stage)

    # Running it.

    def init(self, params: Tree) -> ChainState:
        """Make the state before the first step of a tensor, or of any nest of dicts, lists and tuples of tensors.

        Returns: `{"step": ..., "slots": ..., "shared": ...}`, the first two by the names of the tensors in the nest.
        Raises: GradientError: a leaf is no dense floating tensor; ChainError: no stage acts on a tensor.
        """
        return functional.init(self, params)

    def update(self, grads: Tree, state: ChainState, params: Tree, **hyperparameters: Any) -> tuple[Tree, ChainState]:
        """Take one step as a pure function, differentiable and usable under `torch.func`.

        `hyperparameters` override the chain's (`lr=...`); they may be tensors that require gradients.

        Returns: `(updates, state)`: `updates` are nested and shaped like `params`; `apply_updates` adds them.
        Raises: GradientError, OptionError, StateError: gradients, hyperparameters or a state that do not fit.
        """
        return functional.update(self, grads, state, params, hyperparameters)

    def evaluated(self, params: Tree, state: ChainState, **hyperparameters: Any) -> Tree:
        """Compute where tensors are to be seen outside training, as `Optimizer.eval` does; `params` if no stage says.

        Returns: a nest like `params`; `params` themselves stay what training goes on from.
        Raises: OptionError, StateError: hyperparameters or a state that do not fit.

        >>> chain = gradchain.chain(gradchain.scale_by_learning_rate(1.0), gradchain.average_weights(0.5))
        >>> params = torch.zeros(())
        >>> state = chain.init(params)
        >>> for _ in range(2):
        ...     updates, state = chain.update(torch.tensor(-1.0), state, params)
        ...     params = gradchain.apply_updates(params, updates)
        >>> chain.evaluated(params, state)
        tensor(1.5000)
        """
        return functional.evaluated(self, params, state, hyperparameters)

    def trace(
        self, grad: torch.Tensor, param: torch.Tensor, state: ChainState | None = None, **hyperparameters: Any
    ) -> Trace:
        """Follow one gradient to the change of its parameter, stage by stage. Pure: nothing is changed.

        `state` is of `init(param)`, or what `update` returned; by default the step is the first. `hyperparameters` are as
        for `update`. For a parameter of an optimizer, call `optimizer.explain(name)`.

        Returns: the trace, to be printed, plotted, or read row by row.
        Raises: OptionError, GradientError, StateError: gradient, parameter or state do not fit.

        >>> chain = gradchain.chain(gradchain.sign(), gradchain.scale_by_learning_rate(0.1))
        >>> print(chain.trace(torch.tensor([2.0, -2.0]), torch.zeros(2)))
        parameter, 2, float32, step 1
        <BLANKLINE>
        stage                   rms  moved  cosine  flips  recorded
        ----------------------  ---  -----  ------  -----  --------
        gradient                2           1.000
        sign                    1    0.500  1.000   0.000
        scale_by_learning_rate  0.1  0.900  1.000   0.000
        parameter               0.1  0.000  1.000   0.000
        """
        return tracing_of(self, grad, param, state, hyperparameters)

    def state_bytes(self, params: Any, role: Rule = None) -> int:
        """Count the state of a module, an iterable or a nest of tensors without allocating it: meta tensors will do.

        Step counters and frozen parameters of a module do not count. `role` is as for `Optimizer`.

        Returns: bytes, of all shards together.
        """
        return functional.state_bytes(self, params, role)

    def cost(self, params: Any, role: Rule = None) -> ChainCost:
        """Count what each stage keeps and moves in a step, before anything is allocated; meta tensors will do.

        `params` and `role` are as for `state_bytes`. The bytes of state are those that are allocated. The bytes moved are an
        estimate for a step in which all is fused: gradient and parameter are read once and the parameter is written; each
        slot is read once, and written if it changes; and each total over a tensor reads the gradient once more.

        Returns: a row for each stage, to be printed.

        >>> print(gradchain.recipe("lion").cost(torch.nn.Linear(1024, 1024, device="meta")))
        stage                   parameters  state bytes  bytes moved  reductions
        ----------------------  ----------  -----------  -----------  ----------
        parameter and gradient  2           0            12,595,200   0
        lion_interpolate        2           4,198,400    8,396,800    0
        sign                    2           0            0            0
        decoupled_decay         2           0            0            0
        scale_by_learning_rate  2           0            0            0
        total                   2           4,198,400    20,992,000   0
        """
        return cost_of(self, params, role)

    # Keeping it.

    def to_config(self) -> dict[str, Any]:
        """Describe the chain as a plain dict of strings, numbers and lists. Returns: what `from_config` reads.

        Raises: ConfigError: a label function is not registered, or an option is no plain value.
        """
        return config.to_config(self.elements)

    def to_json(self) -> str:
        """Write the config as JSON. Returns: the text."""
        return json.dumps(self.to_config(), indent=2) + "\n"

    def to_toml(self) -> str:
        """Write the config as TOML, one `[[stages]]` table a stage. Returns: the text."""
        return config.to_toml(self.to_config())

    @staticmethod
    def from_config(source: Any) -> Chain:
        """Build a chain from a dict made by `to_config`, or from the path of a `.json` or `.toml` file. Executes no code.

        Returns: the chain.
        Raises: ConfigError: it cannot be read or names no known stages; ChainError: the stages do not fit together.
        """
        return Chain(config.from_config(source))

    def __reduce__(self) -> tuple[Callable[..., Chain], tuple[tuple[Element, ...]]]:
        return _restored, (self.elements,)


def _restored(elements: tuple[Element, ...]) -> Chain:
    """A chain that was checked when it was built."""
    chain = object.__new__(Chain)
    object.__setattr__(chain, "elements", elements)
    return chain


def _check_elements(elements: object) -> None:
    if not isinstance(elements, tuple) or not all(
        isinstance(element, (Stage, Partition)) for element in cast("tuple[object, ...]", elements)
    ):
        raise ChainError(f"Chain({shown(elements)}): pass a tuple of stages and partitions, or use chain(...).")


def _edited(elements: Sequence[Element], edits: dict[str, Edit], prefix: str = "") -> tuple[Element, ...]:
    """The elements with the stages at some addresses replaced."""
    edited: list[Element] = []
    for element in elements:
        if isinstance(element, Partition):
            branches = [
                (label, Composed(_edited(branch.elements, edits, f"{prefix}{label}/")))
                for label, branch in element.branches
            ]
            edited.append(dataclasses.replace(element, branches=tuple(branches)))
        else:
            edit = edits.get(prefix + element.address)
            edited.extend((element,) if edit is None else edit(element))
    return tuple(edited)


def chain(*stages: Stages | Partition | type[Stage] | Literal[False] | None) -> Chain:
    """Put stages in a row. Chains and lists are flattened; stages without options may be given as classes.

    `None` and `False` are left out, so that a recipe can say `stabilize and cv_trust_gate()`.

    Returns: the chain, checked.
    Raises: ChainError: the stages do not fit together: a scale is missing or never resolved, a slot that a stage reads is
        missing or has two owners, or two stages have one name.

    >>> gradchain.chain(range_normalize(), cv_trust_gate(), divide(), scale_by_learning_rate(0.1))
    chain(range_normalize(), cv_trust_gate(), divide(), scale_by_learning_rate(lr=0.1))
    """
    return Chain(elements_of(stages))

"""A stage: one named transform, written as algebra on one tensor."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
from typing_extensions import Self, dataclass_transform

from gradchain._chain import registry
from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, check_slots, small_parameters
from gradchain._chain.former import check_names
from gradchain._core.fields import (
    KEY,
    Spec,
    as_number,
    check_number,
    check_static,
    follow,
    hyper,
    spec_of,
    static,
)
from gradchain._core.reduce import Request
from gradchain._core.update import Update
from gradchain.errors import ChainError, GradchainError, OptionError, UnknownOptionError, nearest, shown
from gradchain.storage import STORAGES

Slots: TypeAlias = Mapping[str, torch.Tensor]
Result: TypeAlias = "Update | tuple[Update, Slots]"
Yields: TypeAlias = "Generator[Request, Any, Result]"
ScaleRule = Literal["resolved", "any", "sets", "edits", "resolves"]

NAME = re.compile(r"[\w-]{1,100}")
"""Names of stages, and of branches of a partition."""

RESERVED = frozenset({"params", "param_names", "role", "disable", "maximize", "telemetry"})
"""Entries of a parameter group that are no hyperparameters: a field of such a name goes by `stage.field`."""

Number: TypeAlias = float
"""A dynamic hyperparameter: a Python float when eager, a 0-d tensor when compiled or traced."""


@dataclass_transform(frozen_default=True, field_specifiers=(hyper, static, follow))
class _FrozenFields:
    """Makes every subclass a frozen dataclass, and tells type checkers so."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, repr=False)(cls)


class Stage(_FrozenFields):
    """Base of all transforms. A subclass becomes a frozen dataclass whose fields are its hyperparameters.

    Write `update` for one tensor; add `slots` for state. While it runs, `self.beta` is the current value (from the
    parameter group, or a schedule), so a method reads like its equation. Fields annotated `float` are dynamic: never
    branch on them. Methods are pure: they write to nothing that is passed in.

    >>> class sign_momentum(gradchain.Stage):
    ...     beta: float = gradchain.hyper(default=0.9, ge=0, lt=1)
    ...     def slots(self, p):
    ...         return {"exp_avg": gradchain.Slot()}
    ...     def update(self, update, ctx):
    ...         m = self.beta * ctx.read("exp_avg") + (1 - self.beta) * update.value
    ...         return update.average(m.sign()), {"exp_avg": m}

    Class attributes state the contract, which is checked when a chain is built:

    * `scale`: `"resolved"` (default: no denominator may be pending), `"any"`, `"sets"`, `"edits"` or `"resolves"`;
    * `reads`: slots of other stages that it reads, such as `(gradchain.earlier("exp_avg"),)`;
    * `source`: paper or repository.

    Raises: OptionError: a value or a class attribute out of range; UnknownOptionError: no such field.
    """

    name: str = static(default="", kw_only=True)
    keys: tuple[tuple[str, str], ...] = static(default=(), kw_only=True)

    scale: ClassVar[ScaleRule] = "resolved"
    reads: ClassVar[tuple[Read, ...]] = ()
    source: ClassVar[str] = ""
    turn: ClassVar[Any] = 0
    """The place of the parameter among all, while `scalars` of a stage with a static option `spread` runs."""
    slots_only: ClassVar[Any] = True
    """Whether an option `storage` says how slots are kept, and nothing else."""

    def __init_subclass__(cls, register: bool = True, **kwargs: Any) -> None:
        annotations = inspect.get_annotations(cls)
        taken = [name for name, kind in annotations.items() if hasattr(Stage, name) and "ClassVar" not in str(kind)]
        if taken:
            raise OptionError(
                f"{cls.__name__}: a hyperparameter cannot be called {taken[0]!r}, which stages use themselves."
            )
        _check_attributes(cls)
        if register:
            check_names(cls, annotations)
        try:
            super().__init_subclass__(**kwargs)
        except (TypeError, ValueError) as error:  # dataclasses' own
            raise OptionError(
                f"{cls.__name__} cannot be a stage: {error}. Annotate each field, as in `beta: float = hyper(...)`, "
                "and give it a default that cannot be changed."
            ) from None
        cls.__init__ = _explain_unknown_keywords(cls)  # type: ignore[method-assign]
        _check_conditions(cls)
        if register:
            registry.add_stage(cls)

    def __post_init__(self) -> None:
        if isinstance(self.name, str) and self.name and not NAME.fullmatch(self.name):
            where = f"{type(self).__name__}.name"
            raise OptionError(f"{where} = {shown(self.name)}: use up to 100 letters, digits, '_', '-'.")
        for field in self.fields():
            where = f"{type(self).__name__}.{field.name}"
            value, spec = getattr(self, field.name), spec_of(field)
            if spec.follows:
                continue
            if spec.dynamic:
                check_number(where, value, spec, field.default)
                object.__setattr__(self, field.name, as_number(value))
            elif field.name == "keys":
                object.__setattr__(self, field.name, self._checked_keys(value))
            else:
                value = check_static(where, value, spec, field.type, field.default)
                object.__setattr__(self, field.name, value)
        for field in self.fields():
            value, spec = getattr(self, field.name), spec_of(field)
            if spec.follows or field.default is dataclasses.MISSING or value == field.default:
                continue
            if unused := self._unused(spec):
                raise OptionError(
                    f"{self.address}.{field.name} = {shown(value)} has no effect {unused}, or leave {field.name} out."
                )

    # What an author writes.

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        """Declare what to keep for a parameter; `p.warn(text)` warns about it. Returns: slots by name; `{}` for none."""
        return {}

    def scalars(self, step: Number) -> dict[str, Number]:
        """Compute numbers from the step (from 1) and hyperparameters, in double precision, for `ctx["name"]` in `update`.

        Returns: floats, or 0-d tensors, by name.
        """
        return {}

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        """Derive values of dynamic fields from those in the group. Returns: the current value of each field by name."""
        return values

    def update(self, update: Update, ctx: Context) -> Result | Yields:
        """Transform the update of one tensor, in compute precision. A generator may yield requests for totals.

        Returns: a new `Update`, or that and the new value of each slot that changed, in the slot's shape.
        """
        return update

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        """Check the stages before and after this one; each knows its `address`.

        Raises: ChainError: they are not what this stage needs.
        """

    # What others ask of it.

    @classmethod
    def fields(cls) -> tuple[dataclasses.Field[Any], ...]:
        """List the dataclass fields. Returns: all of them, dynamic and static."""
        return dataclasses.fields(cls)  # type: ignore[arg-type]

    @classmethod
    def dynamic_fields(cls) -> dict[str, Spec]:
        """Look up the dynamic fields. Returns: their specs by name."""
        return {field.name: spec for field in cls.fields() if (spec := spec_of(field)).dynamic}

    @classmethod
    def static_fields(cls) -> tuple[str, ...]:
        """List the static fields. Returns: their names."""
        return tuple(field.name for field in cls.fields() if not spec_of(field).dynamic)

    @functools.cached_property
    def kinds(self) -> tuple[type, ...]:
        """The types of the static options."""
        return tuple(type(getattr(self, name)) for name in self.static_fields())

    def live_fields(self) -> dict[str, Spec]:
        """Look up the dynamic fields that are in use with the other options. Returns: their specs by name."""
        renamed = dict(self.keys)
        return {
            name: spec
            for name, spec in self.dynamic_fields().items()
            if not self._unused(spec) and (not spec.follows or spec.key is not None or name in renamed)
        }

    def _unused(self, spec: Spec) -> str:
        """With which other option a field has no effect, and what to pass instead; empty if it has one."""
        for condition, wanted in ((spec.when, True), (spec.unless, False)):
            option, _, choice = (condition or "").partition("=")
            value = getattr(self, option) if option else None
            on = str(value) == choice if choice else value is not None and value is not False
            if option and on != wanted:
                instead = repr(choice) if choice else "True" if wanted else "None"
                return f"with {option} = {shown(value)}. Pass {option}={instead}"
        return ""

    def initial_entries(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Fix the fields that follow an `initial` value. Returns: entries that a new parameter group gets."""
        return {
            self.key_of(name): group[spec.initial]
            for name, spec in self.live_fields().items()
            if spec.initial is not None
        }

    @property
    def address(self) -> str:
        """The name of the stage in its chain: `name=` if given, else the transform's."""
        return self.name or type(self).__name__

    def key_of(self, field: str) -> str:
        """Find the name of a dynamic field in `param_groups`. Returns: the key, such as `"betas[0]"`."""
        renamed = dict(self.keys).get(field)
        return renamed or self.dynamic_fields()[field].key or field

    def rename(self, **keys: str) -> Self:
        """Rename dynamic fields in `param_groups`. Returns: a copy of the stage.

        Raises: UnknownOptionError: no such dynamic field; OptionError: a name that is no identifier.

        >>> first_moment(0.9).rename(beta="momentum").key_of("beta")
        'momentum'
        """
        return dataclasses.replace(self, keys=tuple(sorted({**dict(self.keys), **keys}.items())))

    def _checked_keys(self, keys: Any) -> tuple[tuple[str, str], ...]:
        """The pairs of a dynamic field and its name, checked."""
        pairs = tuple(keys.items()) if isinstance(keys, Mapping) else keys
        if not isinstance(pairs, (tuple, list)) or any(
            not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs
        ):
            raise OptionError(
                f"{self.address}.keys = {shown(keys)}: pass pairs of a field and a name, such as (('beta', 'momentum'),)."
            )
        for field, key in pairs:
            if not isinstance(field, str) or field not in self.dynamic_fields():
                known = nearest(str(field), self.dynamic_fields())
                raise UnknownOptionError(f"{self.address} has no dynamic field {shown(field)}. {known}")
            if not isinstance(key, str) or not KEY.fullmatch(key):
                raise OptionError(
                    f"{self.address}: {field} cannot go by {shown(key)}; pass a name such as 'momentum' or 'betas[0]'."
                )
        if len(dict(pairs)) < len(pairs):
            raise OptionError(f"{self.address}.keys = {shown(keys)} names a field twice. Give each field one name.")
        return tuple((field, key) for field, key in pairs)

    def bind(self, values: Mapping[str, Any]) -> Self:
        """Set the values of this step, which are checked already. Returns: a copy that holds them."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__dict__.update(values)
        return bound

    def slots_of(self, p: ParamInfo) -> dict[str, Slot]:
        """Call `slots` and check what it declares. Returns: slots by name."""
        slots = self.slots(p)
        check_slots(self.address, slots, p)
        return slots

    @functools.cached_property
    def known_slots(self) -> dict[str, Slot]:
        """Every slot that this stage may own, found by asking for small parameters of all kinds."""
        known: dict[str, Slot] = {}
        failures: list[Exception] = []
        asked = 0
        for p in small_parameters():
            asked += 1
            try:  # a stage may know parameters of some kinds only
                known = {**self.slots_of(p), **known}
            except Exception as error:
                failures.append(error)
        if len(failures) == asked:
            error = failures[-1]
            if isinstance(error, GradchainError):
                raise error
            raise ChainError(
                f"{self.address}: its `slots` raised {type(error).__name__}: {error}; for all small parameters that it was "
                "asked about. Return {} for those that it keeps nothing for.",
                stage=self.address,
            ) from error
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "known_slots"}  # fills may be lambdas

    def options(self) -> dict[str, Any]:
        """Collect the fields that differ from their defaults. Returns: values by name."""
        return {field.name: value for field in self.fields() if (value := getattr(self, field.name)) != field.default}

    def __repr__(self) -> str:
        shown = {key: value for key, value in self.options().items() if key != "keys"}
        positional = [repr(shown.pop(f.name)) for f in self.fields() if f.default is dataclasses.MISSING]
        arguments = positional + [f"{key}={value!r}" for key, value in shown.items()]
        exposed = ", ".join(f"{field}={key!r}" for field, key in self.keys)
        return f"{type(self).__name__}({', '.join(arguments)})" + (f".rename({exposed})" if exposed else "")


def _check_attributes(cls: type[Stage]) -> None:
    """Raise for an invalid class attribute. Properties are checked when they are read."""
    scale, reads = cls.__dict__.get("scale", "any"), cls.__dict__.get("reads", ())
    rules = get_args(ScaleRule)
    if not isinstance(scale, property) and scale not in rules:
        raise OptionError(f"{cls.__name__}.scale = {shown(scale)} is not one of {', '.join(map(repr, rules))}.")
    if isinstance(reads, property):
        return
    if not isinstance(reads, (tuple, list)) or not all(isinstance(read, Read) for read in cast("Any", reads)):
        raise OptionError(
            f"{cls.__name__}.reads = {shown(reads)}: list what it reads in a tuple, such as "
            "(gradchain.earlier('exp_avg'),)."
        )


def _check_conditions(cls: type[Stage]) -> None:
    """Raise for a field whose `when` or `unless` names no field."""
    names = {field.name for field in cls.fields()}
    for name, spec in {field.name: spec_of(field) for field in cls.fields()}.items():
        for other in filter(None, (spec.when, spec.unless)):
            if other.partition("=")[0] not in names:
                raise OptionError(f"{cls.__name__}.{name} goes by the field {shown(other)}. {nearest(other, names)}")


def _explain_unknown_keywords(cls: type[Stage]) -> Callable[..., None]:
    """The dataclass's `__init__`, with errors that name the stage and the nearest known fields."""
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Stage, /, *args: Any, **kwargs: Any) -> None:
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        for name in kwargs:
            if name not in known:
                raise UnknownOptionError(f"{cls.__name__} has no field {shown(name)}. {nearest(name, known)}")
        try:
            original(self, *args, **kwargs)
        except TypeError as error:
            raise UnknownOptionError(f"{cls.__name__}: {error}") from None

    return __init__


def storage_field() -> Any:
    """The `storage` option of a stateful stage."""
    return static(default="param", choices=tuple(STORAGES))


def stateless(function: Callable[..., torch.Tensor]) -> type[Stage]:
    """Make a transform of a function of the direction. Keyword parameters become hyperparameters.

    Returns: a stage class.
    Raises: OptionError: it is no function of one positional parameter and keyword-only ones.

    >>> @gradchain.stateless
    ... def power(value, *, exponent: float = 0.5):
    ...     return value.sign() * value.abs() ** exponent
    >>> gradchain.chain(power(exponent=0.25), gradchain.scale_by_learning_rate(0.1))
    chain(power(exponent=0.25), scale_by_learning_rate(lr=0.1))
    """
    if not inspect.isfunction(function):
        raise OptionError(
            f"@gradchain.stateless takes a function of the direction, written with def or lambda; got {shown(function)}."
        )
    parameters = list(inspect.signature(function, eval_str=False).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    if not kinds or kinds[0] not in positional or set(kinds[1:]) - {inspect.Parameter.KEYWORD_ONLY}:
        raise OptionError(
            f"{function.__name__}{inspect.signature(function)} cannot become a stage: take the direction as the one "
            "positional parameter and hyperparameters after a `*`."
        )
    names = [parameter.name for parameter in parameters[1:]]

    def update(self: Stage, update: Update, ctx: Context) -> Update:
        return update.replace(value=function(update.value, **{name: getattr(self, name) for name in names}))

    namespace: dict[str, Any] = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__annotations__": {
            p.name: p.annotation if p.annotation is not p.empty else type(p.default).__name__ for p in parameters[1:]
        },
        "update": update,
        **{p.name: p.default for p in parameters[1:] if p.default is not p.empty},
    }
    return type(function.__name__, (Stage,), namespace)

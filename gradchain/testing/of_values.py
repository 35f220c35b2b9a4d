"""Laws of transforms about being values: printed, compared, copied, saved in a config; and about their fields."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import pickle
import sys
from collections.abc import Iterator
from typing import Any

from gradchain import transforms
from gradchain._chain.chain import Chain
from gradchain._chain.stage import Stage
from gradchain._core.fields import Interval, spec_of
from gradchain.audit import check
from gradchain.errors import GradchainError, OptionError
from gradchain.testing.law import OF_TRANSFORMS, Broken, NotApplicable
from gradchain.testing.stages import Bench

law = OF_TRANSFORMS.law


@law(
    "Use fields of plain values (numbers, strings, dtypes by name, tuples of these), and define the class in a module."
)
def config(bench: Bench) -> None:
    """A run cannot be repeated from its file: the chain that is read is not the one that was written."""
    parser: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    for kind, read in (("JSON", json.loads), ("TOML", parser.loads)):
        text = bench.chain.to_json() if kind == "JSON" else bench.chain.to_toml()
        if (back := Chain.from_config(read(text))) != bench.chain:
            raise Broken(f"from {kind} comes another chain: {back}, not {bench.chain}")


@law("Leave __repr__ to Stage.")
def printed(bench: Bench) -> None:
    """What is printed in a log or a notebook cannot be pasted back, or hides an option."""
    text = repr(bench.stage)
    names = {**vars(transforms), type(bench.stage).__name__: type(bench.stage), "inf": float("inf")}
    try:
        back = eval(text, names)
    except Exception as error:
        raise Broken(f"its repr is {text!r}, which raises {type(error).__name__} where it is evaluated") from None
    if back != bench.stage:
        raise Broken(f"its repr is {text!r}, which is another stage")


@law("Leave __eq__ and __hash__ to Stage, keep nothing but fields, and define the class at the top of a module.")
def value(bench: Bench) -> None:
    """The stage cannot be sent to another process, or its kernels are compiled again and again."""
    stage = bench.stage
    try:
        copies = {
            "a copy by pickle": pickle.loads(pickle.dumps(stage)),
            "a deep copy": copy.deepcopy(stage),
            "dataclasses.replace(stage)": dataclasses.replace(stage),
        }
    except Exception as error:
        raise Broken(f"copying raised {type(error).__name__}: {error}") from error
    for what, twin in copies.items():
        if twin != stage or hash(twin) != hash(stage):
            raise Broken(f"{what} is not equal to the stage, or has another hash")
    kept = {name for name in vars(stage) if name not in ("kinds", "known_slots")}
    if extra := kept - {field.name for field in stage.fields()}:
        raise Broken(f"it keeps {', '.join(sorted(extra))} beside its fields")


def _wrong(stage: Stage) -> Iterator[tuple[str, Any]]:
    """Values that no field of the kind takes."""
    for field in stage.fields():
        spec = spec_of(field)
        if spec.follows or not field.init or field.name in ("name", "keys"):
            continue
        if spec.dynamic:
            yield field.name, float("nan")
            yield field.name, "half"
            if spec.interval != Interval():
                yield field.name, _outside(spec.interval)
        elif spec.choices:
            yield field.name, "no such choice"


def _outside(interval: Interval) -> float:
    return interval.low - 1 if interval.low > float("-inf") else interval.high + 1


@law("Declare bounds with gradchain.hyper and choices with gradchain.static; call super().__post_init__().")
def errors(bench: Bench) -> str | None:
    """A typo in an option trains a wrong model, or fails hours later with an error about something else."""
    tried = 0
    for name, wrong in _wrong(bench.stage):
        tried += 1
        try:
            dataclasses.replace(bench.stage, **{name: wrong})
        except GradchainError as error:
            if name not in str(error):
                raise Broken(f"{name} = {wrong!r} raises an error that does not name the field: {error}") from None
        except Exception as error:
            raise Broken(f"{name} = {wrong!r} raises {type(error).__name__}, not OptionError: {error}") from None
        else:
            raise Broken(f"{name} = {wrong!r} is accepted")
    if not tried:
        raise NotApplicable("it has no fields with a range or choices")
    make: Any = type(bench.stage)
    try:
        make(no_such_field=1)
    except OptionError:
        return None
    raise Broken("a field that there is not is accepted")


@law("Use the field, or remove it; `inert=` declares why one changes nothing.")
def options_act(bench: Bench) -> str | None:
    """An option is set, searched over, published, and has no effect."""
    if bench.refusal:
        raise NotApplicable("no optimizer takes the stage; see the law accepted")
    if not [field for field in bench.stage.fields() if field.init and field.name not in ("name", "keys")]:
        raise NotApplicable("it has no options")
    own = {(binding.key, binding.index) for binding in bench.chain.bindings.of_stage(bench.address)}
    keys = {key if index is None else f"{key}[{index}]" for key, index in own}
    try:
        findings = check(bench.chain).bad
    except OptionError as error:  # it refuses some of the parameters that options are tried on
        raise NotApplicable(f"not all parameters can be stepped: {error}") from None
    for finding in findings:
        field, _, address = finding.name.partition(" of ")
        if (finding.kind == "field" and address == bench.address) or (
            finding.kind == "hyperparameter" and finding.name in keys
        ):
            raise Broken(f"{field}: {finding.verdict}, {finding.because}")
    return None

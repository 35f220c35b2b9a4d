"""What the docstring of every public callable says: what it returns, and what it raises for a caller's mistake."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import gradchain
from gradchain import transforms
from gradchain._core.fields import spec_of
from tests.test_layers import PUBLIC

MODULES = sorted(PUBLIC - {"cli"})
"""The public modules but `cli`, whose docstrings are its help texts and whose errors become exit codes."""

CONTRACT = ("scale", "reads", "source", "slots", "resolve", "scalars", "update", "check")


def offered(module: Any) -> Iterator[Any]:
    """The classes and functions that a public module offers: those in `__all__`, or else its public names."""
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            within = (
                "gradchain" if module is gradchain or module.__name__ == "gradchain.distributed" else module.__name__
            )
            if value.__module__.startswith(within):
                yield value


def public() -> dict[str, Any]:
    modules = [gradchain, *(importlib.import_module(f"gradchain.{name}") for name in MODULES)]
    return {f"{value.__module__}.{value.__qualname__}": value for module in modules for value in offered(module)}


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods of a class but for those that its bases document."""
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        inherited = any(name in vars(base) for base in cls.__mro__[1:])
        if inspect.isfunction(function) and not name.startswith("_") and not inherited:
            yield f"{cls.__module__}.{cls.__qualname__}.{name}", function


CLASSES = {name: value for name, value in public().items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in public().items() if not inspect.isclass(value)} | {
    name: method for cls in CLASSES.values() for name, method in methods(cls)
}


def section(doc: str, name: str) -> str | None:
    """What follows `Returns:` or `Raises:`, which begins a line or a sentence."""
    found = re.search(rf"(?:^|[.!?] ){name}:\s+(.+?)(?=\n\n|\n\w+:|\Z)", doc, flags=re.S | re.M)
    return found[1] if found else None


def raised(tree: ast.AST) -> set[str]:
    """The errors that code raises by name."""
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def source(item: Any) -> Any:
    """The code of a function or a class."""
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(item)))).body[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_returns_and_raises(name: str) -> None:
    tree, doc = source(FUNCTIONS[name]), inspect.getdoc(FUNCTIONS[name])
    assert doc
    if tree.returns is not None and ast.unparse(tree.returns) not in ("None", "Never", "NoReturn"):
        assert section(doc, "Returns"), f"{name} returns {ast.unparse(tree.returns)}; say so under Returns:"
    if errors := raised(tree):
        said = section(doc, "Raises") or ""
        assert all(error in said for error in errors), f"{name} raises {', '.join(errors)}; say so under Raises:"


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_has_a_docstring_and_says_what_its_constructor_raises(name: str) -> None:
    cls, doc = CLASSES[name], inspect.getdoc(CLASSES[name])
    assert doc
    assert not doc.startswith(f"{cls.__name__}("), "that is the signature"
    if cls.__module__ == "gradchain.optim":  # made when it was asked for, or shown from there
        made = [source(cls.__init__)]
    else:
        made = [node for node in source(cls).body if getattr(node, "name", "") in ("__init__", "__post_init__")]
    errors = {error for method in made for error in raised(method)}
    said = section(doc, "Raises") or ""
    assert all(error in said for error in errors), f"{name} raises {', '.join(errors)}; say so under Raises:"


@pytest.mark.parametrize("name", transforms.__all__)
def test_a_transform_says_what_it_raises(name: str) -> None:
    stage = getattr(transforms, name)
    said = section(inspect.getdoc(stage) or "", "Raises") or ""
    own = [field for field in stage.fields() if field.init and field.name not in ("name", "keys")]
    if [field for field in own if not spec_of(field).follows]:
        assert "OptionError" in said, f"{name} has options; say under Raises: which values it refuses"
    needs = not isinstance(stage.reads, property) and any(not read.optional for read in stage.reads)
    if needs or stage.scale in ("edits", "resolves") or stage.check is not gradchain.Stage.check:
        assert "ChainError" in said, f"{name} does not fit everywhere; say under Raises: where it does"


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_of_a_stage_is_documented(name: str) -> None:
    stated = getattr(gradchain.Stage, name)
    assert stated.__doc__ if callable(stated) else f"`{name}`" in (gradchain.Stage.__doc__ or ""), name

"""The index of public names: what each is, and where on the site it is described."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradchain
from gradchain import optim

DOCS = Path(__file__).parents[1]
NO_API = {
    "cli",
    "errors",
    "transforms",
    "recipes",
}  # a command; its classes are in `gradchain`, as are these; in `optim`

_DIRECTIVE = re.compile(r"^::: (gradchain[\w.]*)$", flags=re.M)
_ALGORITHM = re.compile(r"^<!-- algorithm: (\S+) -->$", flags=re.M)


def slug(heading: str) -> str:
    """The id that mkdocs gives a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-")


@dataclass(frozen=True)
class Name:
    """A public name, its first line of documentation, and its place: a page of the site and an anchor in it."""

    module: str
    name: str
    summary: str
    place: str | None


def found(path: str) -> Any:
    """What a dotted path names: a module, or a member of one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(found(module), name)


def places() -> dict[int, str]:
    """Where objects are described, by their ids: `page.md#anchor`."""
    known: dict[int, str] = {}
    for page in sorted(DOCS.rglob("*.md")):
        text, file = page.read_text(encoding="utf-8"), page.relative_to(DOCS).as_posix()
        for path in _DIRECTIVE.findall(text):
            described = found(path)
            anchor = path.rpartition(".")[2] if file.startswith("transforms/") else path
            known.setdefault(id(described), f"{file}#{anchor}")
            if inspect.ismodule(described):
                members = [x for x in vars(described).values() if getattr(x, "__module__", None) == path]
                known.update({id(x): f"{file}#{path}.{x.__name__}" for x in members})
        for recipe in _ALGORITHM.findall(text):
            known[id(optim.optimizer_class(recipe))] = f"{file}#{slug(recipe)}"
    return known


def modules() -> list[str]:
    """The public modules, `gradchain` first."""
    inner = [info.name for info in pkgutil.iter_modules(gradchain.__path__) if info.name not in NO_API]
    return ["gradchain", *(f"gradchain.{name}" for name in sorted(inner) if not name.startswith("_"))]


def members(module: str) -> Iterator[tuple[str, Any]]:
    """The public names of a module: `__all__`, or whatever classes and functions of gradchain it offers."""
    held = importlib.import_module(module)
    names = getattr(held, "__all__", None) or [name for name in sorted(vars(held)) if not name.startswith("_")]
    for name in names:
        value = getattr(held, name)
        ours = str(getattr(value, "__module__", "gradchain")).startswith("gradchain")
        if not inspect.ismodule(value) and ours and not isinstance(value, bool):
            yield name, value


def index() -> list[Name]:
    """Every public name once, under the first module that offers it."""
    known, seen, listed = places(), set[int](), list[Name]()
    for module in modules():
        for name, value in members(module):
            if id(value) not in seen:
                seen.add(id(value))
                listed.append(Name(module, name, summary(value), known.get(id(value))))
    return listed


def summary(value: Any) -> str:
    """The first line of documentation of a class or a function; nothing for a constant."""
    described = inspect.isclass(value) or inspect.isroutine(value)
    return (inspect.getdoc(value) or "").split("\n", 1)[0] if described else ""


def table() -> str:
    """The index as Markdown: a table for each module."""
    written: list[str] = []
    for module in modules():
        rows = [name for name in index() if name.module == module]
        if rows:
            written += [f"### {module}", "", "| name | what it is |", "|---|---|"]
            written += [f"| [`{row.name}`]({row.place}) | {row.summary.replace('|', '&#124;')} |" for row in rows]
            written.append("")
    return "\n".join(written)

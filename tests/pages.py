"""Runs the code of a documentation page, and compares what it prints with what the page shows.

A page is run from top to bottom in one namespace. Two kinds of HTML comment tie a ```text block to the code:

* `<!-- print(...) -->` before it: the block is what this statement prints at this place of the page;
* `<!-- output -->` before it: the block is what the last ```python block printed.

A ```py block is only compiled. A page that begins with `<!-- needs: a, b -->` is run where these packages are installed.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import gradchain
from gradchain._chain import recipes, registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = ("python", "py", "text", "sh", "console", "toml", "json", "bibtex")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of its first line, and the HTML comment right before it."""

    language: str
    text: str
    line: int
    comment: str


_COMMENT = re.compile(r"<!-- (.*) -->")
_NEEDS = re.compile(r"<!-- needs: (.*) -->\n")


def needs(page: Path) -> list[str]:
    """The packages that the code of a page imports, beyond gradchain's own."""
    found = _NEEDS.match(page.read_text(encoding="utf-8"))
    return found[1].split(", ") if found else []


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    comment, start, language = "", 0, None
    for number, line in enumerate(lines, start=1):
        if line.startswith("```"):
            if language is None:
                language, start = line[3:].strip(), number
            else:
                yield Block(language, "\n".join(lines[start : number - 1]), start + 1, comment)
                comment, language = "", None
        elif language is None and line.strip():
            found = _COMMENT.fullmatch(line.strip())
            comment = found[1] if found else ""
    assert language is None, f"{page_id(page)}:{start}: the block is not closed"


def execute(code: str, page: Path, line: int, namespace: dict[str, Any]) -> str:
    """Run code as if it stood at its line of the page; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        # Without this module's `from __future__` flags, as a reader would run it.
        exec(compile("\n" * (line - 1) + code, page_id(page), "exec", dont_inherit=True), namespace)
    return printed.getvalue()


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page from top to bottom."""
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    namespace, printed = vars(module), ""
    for block in blocks(page):
        where = f"{page_id(page)}:{block.line}"
        if block.language == "python":
            printed = execute(block.text, page, block.line, namespace)
        elif block.language == "py":
            compile(block.text, page_id(page), "exec")
        elif block.language == "text" and block.comment == "output":
            assert trimmed(block.text) == trimmed(printed), f"{where}: not what the code above prints"
        elif block.language == "text" and block.comment.startswith("print("):
            shown = execute(block.comment, page, block.line, namespace)
            assert trimmed(block.text) == trimmed(shown), f"{where}: not what {block.comment} prints"
        else:
            assert block.language in LANGUAGES, f"{where}: {block.language!r}?"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty directory, a fixed seed, and registries that forget what a page registers."""
    gradchain.recipes()
    for module, name in ((registry, "_stages"), (registry, "_labels"), (recipes, "_recipes")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield

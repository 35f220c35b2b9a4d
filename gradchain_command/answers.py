"""Answers that need no torch: the names, and the chains of our own recipes with their own options.

`answers.json` is written by `python -m tests.answers` and belongs to the sources that it was made from; if these are
others, nothing is answered from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).parent / "answers.json"
PLUGINS = ("gradchain.recipes", "gradchain.transforms")
SOURCES = ("recipes", "transforms", "storage")
"""The folders that say what a recipe's chain is."""


def answer(arguments: Sequence[str]) -> bool:
    """Print what is asked for, if it is known. Returns whether it was."""
    if list(arguments) == ["--version"]:
        print(version("gradchain"))
        return True
    command, *others = arguments or [""]
    words, flags = [a for a in others if a[:1] != "-"], [a for a in others if a[:1] == "-"]
    if command == "list" and not words and flags in ([], ["--json"]):
        return _list(*flags)
    if command == "show" and len(words) == 1 and flags in ([], ["--toml"], ["--json"]):
        return _show(*words, *flags)
    return False


def _list(flag: str = "") -> bool:
    known = _known()
    if known is None:
        return False
    if flag:
        print(json.dumps(known["names"], indent=2, ensure_ascii=False))
        return True
    if (pages := _pages()) is not None:
        pages.print_names(known["names"])
    return pages is not None


def _show(name: str, flag: str = "") -> bool:
    known = _known()
    if known is None or name not in known["recipes"]:
        return False
    page = known["recipes"][name]
    if flag:
        print(page[flag.removeprefix("--")], end="")
        return True
    if (pages := _pages()) is not None:
        pages.print_recipe(name, page)
    return pages is not None


def _pages() -> Any:
    """What prints tables, if rich is installed; who is asked next says how to get it. JSON and TOML need none."""
    try:
        from gradchain_command import pages
    except ModuleNotFoundError:
        return None
    return pages


def _known() -> Any:
    """What was written for the sources that are installed, unless other packages add to it."""
    if any(entry_points(group=group) for group in PLUGINS):
        return None
    try:
        known = json.loads(ANSWERS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if known["sources"] == sources() else None


def sources() -> str:
    """What the sources of recipes are recognised by. Finds them without importing them."""
    spec = find_spec("gradchain")
    if spec is None or spec.origin is None:
        return ""
    root, digest = Path(spec.origin).parent, hashlib.sha256()
    for name in SOURCES:
        folder = root / name if (root / name).is_dir() else root.parent / name  # as installed, or in a checkout
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()

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

FLAGS = ("--toml", "--json")


def answer(arguments: Sequence[str]) -> bool:
    """Print what is asked for, if it is known. Returns whether it was."""
    if list(arguments) == ["--version"]:
        print(version("gradchain"))
        return True
    command, names, flags = _parsed(arguments)
    if (command, len(names), len(flags)) not in (("list", 0, 0), ("list", 0, 1), ("show", 1, 0), ("show", 1, 1)):
        return False
    if flags - {"--json"} and command == "list":
        return False
    known = _known()
    if known is None or any(entry_points(group=group) for group in PLUGINS):
        return False
    if command == "list":
        return _print_names(known["names"], bool(flags))
    return names[0] in known["recipes"] and _print_recipe(names[0], known["recipes"][names[0]], flags)


def _parsed(arguments: Sequence[str]) -> tuple[str, list[str], set[str]]:
    """The command, its arguments, and its flags. What has other options is no command that is known here."""
    command, *others = [*arguments, ""][: len(arguments) or 1]
    names = [each for each in others if not each.startswith("-")]
    flags = [each for each in others if each.startswith("-")]
    return command if len(set(flags)) == len(flags) and set(flags) <= set(FLAGS) else "", names, set(flags)


def _print_names(names: Any, as_json: bool) -> bool:
    if as_json:
        print(json.dumps(names, indent=2, ensure_ascii=False))
        return True
    try:
        from gradchain_command.pages import print_names  # here: JSON needs no rich
    except ModuleNotFoundError:
        return False
    print_names(names)
    return True


def _print_recipe(name: str, page: Any, flags: set[str]) -> bool:
    for flag in flags:
        print(page[flag.removeprefix("--")], end="")
        return True
    try:
        from gradchain_command.pages import print_recipe
    except ModuleNotFoundError:
        return False
    print_recipe(name, page)
    return True


def _known() -> Any:
    """What was written for the sources that are installed."""
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

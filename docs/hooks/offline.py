"""Fails the build if a page, a style or a script of the site loads anything from another host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LOADED = (
    re.compile(
        r"<(?:script|img|iframe|source|video|embed|object)\b[^>]*?\s(?:src|srcset|data)=[\"']?(?:https?:)?//[^>]*>"
    ),
    re.compile(r"<link\b(?![^>]*rel=[\"']?canonical)[^>]*?\shref=[\"']?(?:https?:)?//[^>]*>"),
    re.compile(r"@import\s+(?:url\()?[\"']?(?:https?:)?//[^;]*;"),
    re.compile(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)"),
)
# The theme's script names a host for diagrams that no page has: it is asked where a page holds this class.
_ASKED_FOR = re.compile(r"<\w+[^>]*class=[\"'][^\"']*\bmermaid\b")


def loaded_from_elsewhere(site: Path) -> Iterator[str]:
    """What the files of a built site load from another host, with the file's name."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css", ".svg"):
            text = path.read_text(encoding="utf-8")
            for pattern in (*_LOADED, _ASKED_FOR):
                yield from (f"{path.relative_to(site)}: {found[0][:200]}" for found in pattern.finditer(text))


def on_post_build(config: Any, **_: Any) -> None:
    found = [*loaded_from_elsewhere(Path(config["site_dir"]))]
    if found:
        raise SystemExit("the site must not load anything from another host:\n" + "\n".join(found))

"""Lets mkdocstrings show docstrings as ours are written: one-line sections, `>>>` examples as code, papers as links."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", flags=re.M)
_SECTION = re.compile(r"(?:\n*^|(?<=[.!?]) )(Returns|Raises): (.+(?:\n    .+)*)\n?", flags=re.M)
_ARXIV = re.compile(r"(?<![\w/\[])arXiv:(\d{4}\.\d{5})")
_ENTRY = re.compile(r"; (?=\w+Error: )")


def expanded(text: str) -> str:
    """Sections of one line, such as `Raises: A: why; B: why.`, as Google style has them; a fence around each example."""

    def section(found: re.Match[str]) -> str:
        entries = _ENTRY.sub("\n    ", found[2].replace("\n    ", " "))
        return f"\n\n{found[1]}:\n    {entries}\n\n"

    text = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", _SECTION.sub(section, text))
    return _EXAMPLE.sub(r"```pycon\n\g<0>\n```", text).strip()


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = expanded(obj.docstring.value)

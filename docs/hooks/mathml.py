"""Writes the formulas of a page as MathML when the site is built, so that no reader needs JavaScript for them."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.S)
_WORD = re.compile(r"<mo>([a-zA-Z]{2,})</mo>(?=(\s*<mo stretchy=\"false\">&#x00028;)?)")
_SPACE = '<mspace width="0.1667em"></mspace>'


def formula(latex: str, block: bool) -> str:
    """A formula as MathML, in which bars are around their terms, and names of functions are names."""
    for bar in ("lVert", "lvert", "rVert", "rvert"):
        side = "left" if bar[0] == "l" else "right"
        latex = re.sub(rf"(?<!\\{side})\\{bar}(?![a-zA-Z])", rf"\\{side}\\{bar} ", latex)
    latex = re.sub(r"\\operatorname\{(\w*\d\w*)\}", r"\\,\\text{\1}", latex)  # such as atan2
    written = convert(latex, display="block" if block else "inline")
    written = re.sub(r"<mspace ([^>]*?) ?/>", r"<mspace \1></mspace>", written)
    written = re.sub(r"<mo>(&#x0221E;|&#x022A4;)</mo>", r"<mi>\1</mi>", written)
    written = re.sub(
        r'<mo stretchy="true"( fence="true" form="\w+">(?:&#x02016;|&#x0007C;)<)', r'<mo stretchy="false"\1', written
    )
    written = written.replace("<mo>&#x0002F;</mo>", '<mo lspace="0.1em" rspace="0.1em">&#x0002F;</mo>')
    return _WORD.sub(lambda name: f"<mi>{name[1]}</mi>" + ("" if name[2] else _SPACE), written)


def with_formulas(page: str) -> str:
    """A page whose formulas are MathML."""

    def written(found: re.Match[str]) -> str:
        block = found[1] == "div"
        shown = formula(html.unescape(found[2]), block)
        return f'<div class="formula">{shown}</div>' if block else shown

    return _FORMULA.sub(written, page)


def on_page_content(content: str, **_: Any) -> str:
    return with_formulas(content)

"""The study as a table for a paper."""

from __future__ import annotations

from gradchain.ablation.reports.numbers import numbers_of
from gradchain.ablation.reports.text import legend, verdict_text
from gradchain.ablation.reports.text import metric_columns, p_column
from gradchain.ablation.results import Results

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}

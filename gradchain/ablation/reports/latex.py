"""The study as a table for a paper."""

from __future__ import annotations

import re

from gradchain.ablation.reports.columns import Column, effect_columns, judged_columns, metric_columns
from gradchain.ablation.reports.findings import legend
from gradchain.ablation.reports.numbers import numbers_of
from gradchain.ablation.results import Results

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?)(?:e([-+]\d+))?")


def to_latex(study: Results) -> str:
    r"""Write the table of a study in LaTeX, and one of its effects if it has any; they need `\usepackage{booktabs}`.

    Returns: the text.

    >>> to_latex(ablate("rose", seeds=3, epochs=2)).splitlines()[2]
    '\\begin{table}'
    """
    numbers = numbers_of(study)
    others = [column for metric in study.metrics[1:] for column in metric_columns(numbers, metric)]
    said = f"Ablation of {study.name} on {study.settings.training.name}. {legend(numbers)}"
    tables = [_table("arm", [row.label for row in numbers.rows], [*judged_columns(numbers), *others], said, study.name)]
    if numbers.effects:
        said = f"Effects of {study.name} on {study.settings.training.name}."
        labels = [effect.label for effect in numbers.effects]
        tables.append(_table("effect", labels, effect_columns(numbers), said, f"{study.name}-effects"))
    return "% Needs \\usepackage{booktabs}.\n\n" + "\n".join(tables)


def _table(first: str, labels: list[str], columns: list[Column], caption: str, name: str) -> str:
    titles = [first, *(title for title, _ in columns)]
    lines = [[escaped(label), *(_cell(cells[place]) for _, cells in columns)] for place, label in enumerate(labels)]
    form = "".join("l" if title in ("arm", "effect", "verdict") else "r" for title in titles)
    body = "\n".join(f"    {' & '.join(line)} \\\\" for line in lines)
    return (
        "\\begin{table}\n"
        "  \\centering\n"
        f"  \\caption{{{escaped(caption)}}}\n"
        f"  \\label{{tab:ablation-{re.sub('[^A-Za-z0-9-]', '-', name)}}}\n"
        f"  \\begin{{tabular}}{{{form}}}\n"
        "    \\toprule\n"
        f"    {' & '.join(map(escaped, titles))} \\\\\n"
        "    \\midrule\n"
        f"{body}\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}\n"
    )


def escaped(text: str) -> str:
    """Text with the characters that LaTeX reads as commands written out."""
    return "".join(_SPECIAL.get(character, " " if character.isspace() else character) for character in text)


def _cell(text: str) -> str:
    """Numbers in mathematics, so that minus is a minus; the rest as text."""
    if not _NUMBER.search(text):
        return "--" if text == "-" else escaped(text)
    parts: list[str] = []
    place = 0
    for found in _NUMBER.finditer(text):
        power = "" if found[2] is None else rf" \times 10^{{{int(found[2])}}}"
        parts += [escaped(text[place : found.start()]), f"${found[1]}{power}$"]
        place = found.end()
    return "".join([*parts, escaped(text[place:])])

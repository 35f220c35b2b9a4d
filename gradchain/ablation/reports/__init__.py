"""Reports of studies."""

from gradchain.ablation.analysis import rows
from gradchain.ablation.results import Results


def report_text(study: Results) -> str:
    return "\n".join(map(repr, rows(study)))

"""Reports of studies: text, pictures, a page, and tables for other programs."""

from gradchain.ablation.reports.text import report as report
from gradchain.ablation.reports.text import report_text as report_text
from gradchain.ablation.reports.verdict import headline as headline

"""Reports of studies: text, pictures, a page, and tables for other programs."""

from gradchain.ablation.reports.data import to_csv as to_csv
from gradchain.ablation.reports.data import to_json as to_json
from gradchain.ablation.reports.html import to_html as to_html
from gradchain.ablation.reports.html import write_html as write_html
from gradchain.ablation.reports.latex import to_latex as to_latex
from gradchain.ablation.reports.plot import plot as plot
from gradchain.ablation.reports.text import report as report
from gradchain.ablation.reports.text import report_text as report_text
from gradchain.ablation.reports.verdict import headline as headline

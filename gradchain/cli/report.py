"""`gradchain report`: a study that has been run, once more, in the form that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradchain.cli.app import app
from gradchain.cli.helpers import one_line_errors
from gradchain.errors import OptionError
from gradchain_command.pages import console


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a study's results.")],
    html: Annotated[bool, typer.Option("--html", help="One page with everything, which loads nothing.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A line for each run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, runs and curves too.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="The table, for a paper.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it here [default: print it; --html: DIR/report.html].")
    ] = None,
) -> None:
    """Report a study from its directory, as text, or as a page, CSV, JSON or LaTeX. Nothing is run."""
    with one_line_errors():
        from gradchain.ablation import reports, study  # here, because matplotlib takes a while to import

        asked = [name for name, given in (("html", html), ("csv", csv), ("json", json), ("latex", latex)) if given]
        if len(asked) > 1:
            raise OptionError(f"{' and '.join('--' + name for name in asked)} exclude each other; pass one.")
        found = study.load_study(folder)
        if html:
            typer.echo(reports.write_html(found, out or folder / "report.html"))
            return
        if not asked and out is None:
            console().print(reports.report(found))
            return
        write = {"csv": reports.to_csv, "json": reports.to_json, "latex": reports.to_latex}
        text = write[asked[0]](found) if asked else reports.report_text(found)
        if out is None:
            typer.echo(text.rstrip("\n"))
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        typer.echo(out)

"""`gradchain reproduce`: published claims beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradchain.cli.app import app
from gradchain.cli.helpers import one_line_errors
from gradchain_command.pages import add, console, table


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="What to reproduce; nothing lists what there is.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each kind, instead of its own number.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result to this file.")] = None,
) -> None:
    """Do again, at a small scale, what was published, and print both side by side. Differences are explained."""
    with one_line_errors():
        from gradchain import ablation  # here, because torch takes a while to import

        if name is None:
            listed = table("name", "claim")
            for each, summary in ablation.reproductions().items():
                add(listed, each, summary)
            console().print(listed)
            return
        done = ablation.reproduce(name, seeds=seeds, watch=lambda text: typer.echo(f"{name}: {text} ...", err=True))
        typer.echo(f"{done}\n{done.seconds:.0f} s")
        if out is not None:
            out.write_text(f"{done}\n", encoding="utf-8")

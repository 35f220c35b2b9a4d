"""`gradchain export`. The annotations of the command are read by typer, which is there for the command line only."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from gradchain._export.export import export
from gradchain.errors import OptionError


def add_export(
    app: Any, options: Callable[[Any], dict[str, Any]], errors: Callable[[], AbstractContextManager[None]]
) -> None:
    """Add the command. `options` reads `KEY=VALUE` pairs, and `errors` makes one line of an error."""
    import typer

    @app.command("export")
    def export_command(  # pyright: ignore[reportUnusedFunction]
        recipe: Annotated[str, typer.Argument(help="Name of a recipe, module:name, or path to a .toml or .json.")],
        out: Annotated[Path | None, typer.Option(help="The file to write [default: print it].")] = None,
        name: Annotated[str | None, typer.Option(help="Name of the class [default: the recipe's].")] = None,
        dtype: Annotated[
            list[str] | None, typer.Option(help="Of the parameters: fp32, fp64, bf16, fp16; repeatable.")
        ] = None,
        option: Annotated[
            list[str] | None,
            typer.Option("--option", "-o", metavar="KEY=VALUE", help="Option of the recipe; repeatable."),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
    ) -> None:
        """Write a recipe as one file that needs torch and nothing else."""
        with errors():
            if out is not None and out.exists() and not force:
                raise OptionError(f"{out} is there already. Pass --force to overwrite it, or another --out.")
            text = export(recipe, name=name, **({"dtypes": tuple(dtype)} if dtype else {}), **options(option))
            if out is None:
                typer.echo(text, nl=False)
                return
            out.write_text(text, encoding="utf-8")
            found = next(line for line in text.splitlines() if line.startswith("class "))
            typer.echo(f"{out}: {found[6:].partition('(')[0]}, {len(text.splitlines())} lines")

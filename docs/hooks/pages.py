"""Fills in what pages get from the code: algorithms of recipes, signatures of transforms, and the index of names.

* `<!-- algorithm: rose -->` becomes the recipe's stages with their equations, linked to where they are described;
* `::: gradchain.centralize`, on a page of transforms, gets the signature and the picture in front;
* `<!-- gallery -->` becomes all pictures;
* `<!-- names -->` becomes the index.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gradchain
from gradchain import transforms
from gradchain._chain.show import stage_row

_HERE = Path(__file__).parent
_TRANSFORMS = _HERE.parent / "transforms"
_ALGORITHM = re.compile(r"^<!-- algorithm: (\S+) -->$", flags=re.M)
_TRANSFORM = re.compile(r"^::: gradchain\.(\w+)$", flags=re.M)

OPTIONS = """
    options:
      show_root_heading: false
      show_root_toc_entry: false
      show_bases: false
      members: false"""
"""A transform's heading is that of the page; how it is called by a chain is the same for all."""


def beside(name: str) -> ModuleType:
    """A module of the documentation, which is no package: `names`, or `../pictures/effects`."""
    spec = importlib.util.spec_from_file_location(f"docs_{Path(name).name}", _HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def pages_of_transforms() -> dict[str, str]:
    """Where each transform is described, within the site."""
    return {
        name: f"transforms/{page.stem}.md#{name}"
        for page in sorted(_TRANSFORMS.glob("*.md"))
        for name in _TRANSFORM.findall(page.read_text(encoding="utf-8"))
    }


def algorithm(recipe: str, root: str = "../") -> str:
    """The stages of a recipe, with default options, as a list in a box."""
    lines = [
        '<div class="algorithm" markdown>',
        "",
        "**Algorithm**, with default options, for each parameter $\\theta$ with gradient $g$ at step $t$. It starts with "
        "$u \\leftarrow g$.",
        "",
        *_steps(recipe, root),
        "",
        "</div>",
    ]
    return "\n".join(lines)


def _steps(recipe: str, root: str) -> Iterator[str]:
    chain, where = gradchain.recipe(recipe), pages_of_transforms()
    for address, stage in chain.addressed:
        doc = inspect.getdoc(type(stage)) or ""
        summary, equation = doc.split("\n", 1)[0], doc.partition("$$")[2].partition("$$")[0]
        _, options, slots, storage = stage_row(address, stage)
        page = where.get(type(stage).__name__)
        title = f"[`{address}`]({root}{page})" if page else f"`{address}`"
        numbers = f" <small>`{options}`</small>" if options else ""
        kept = (
            f" <small>keeps `{slots}`{'' if storage in ('plain', 'param') else f' in `{storage}`'}</small>"
            if slots
            else ""
        )
        yield f"1.  {title}{numbers}{kept}<br>{summary}"
        if equation:
            yield from ("", f"    $${' '.join(equation.split())}$$", "")
    yield from ("1.  Write the parameter.", "", "    $$\\theta \\leftarrow \\theta - \\text{decay} - u$$", "")


def signature(name: str, width: int = 80) -> str:
    """How a transform is called, as code that fits the column."""
    parameters = inspect.signature(getattr(transforms, name)).parameters.values()
    shown = [_parameter(p) for p in parameters if p.name not in ("name", "keys")]
    line = f"{name}({', '.join(shown)})"
    if len(line) > width:
        line = "\n".join([f"{name}(", *(f"    {p}," for p in shown), ")"])
    return f"```python\n{line}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {parameter.annotation}"
    if parameter.default is not parameter.empty:
        text += f" = {parameter.default!r}"
    return text


def effect(name: str) -> str:
    """The picture of a transform, and what to see in it."""
    says = beside("../pictures/effects").EFFECTS[name].says
    return f"![{name}: {says}](../assets/gallery/{name}.png){{ width=240 height=200 loading=lazy }}\n{says}"


def gallery() -> str:
    """All pictures, with links, by page."""
    written, pages = [], pages_of_transforms()
    titles = {page.stem: page.read_text(encoding="utf-8").partition("\n")[0][2:] for page in _TRANSFORMS.glob("*.md")}
    for stem in sorted({Path(page.partition("#")[0]).stem for page in pages.values()}, key=titles.__getitem__):
        written += [f"## {titles[stem]}", "", '<div class="gallery" markdown>', ""]
        for name, page in pages.items():
            if page.startswith(f"transforms/{stem}.md") and name in beside("../pictures/effects").EFFECTS:
                link = page.removeprefix("transforms/")
                written += ["<div markdown>", "", f"[`{name}`]({link})", "", effect(name), "", "</div>", ""]
        written += ["</div>", ""]
    return "\n".join(written)


def filled(text: str, file: str) -> str:
    """A page with what the code says."""
    if file.startswith("transforms/"):

        def described(found: re.Match[str]) -> str:
            if not inspect.isclass(getattr(transforms, found[1], None)):
                return found[0]
            picture = f'<div class="effect" markdown>\n\n{effect(found[1])}\n\n</div>'
            return f"{signature(found[1])}\n\n{picture}\n\n{found[0]}{OPTIONS}"

        return _TRANSFORM.sub(described, text).replace("<!-- gallery -->", gallery())
    text = _ALGORITHM.sub(lambda found: algorithm(found[1]), text)
    return text.replace("<!-- names -->", beside("names").table())


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return filled(markdown, page.file.src_uri)


_TEXT = re.compile(r'<div class="language-text highlight">(<pre>.*?</pre>)</div>', flags=re.S)


def on_page_content(content: str, **_: Any) -> str:
    """Lets printed prose wrap: text without columns, which are two spaces or more."""

    def marked(found: re.Match[str]) -> str:
        columns = "  " in found[1]
        return (
            found[0] if columns else found[0].replace("language-text highlight", "language-text wrapped highlight", 1)
        )

    return _TEXT.sub(marked, content)

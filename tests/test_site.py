"""The hooks that build the site: formulas are MathML, no other host is asked, and no name or picture is missing."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gradchain
from gradchain import optim, transforms

HOOKS = Path(__file__).parents[1] / "docs" / "hooks"


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{Path(name).name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look
    spec.loader.exec_module(module)
    return module


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="pip install gradchain[docs]")
    page = r'a <span class="arithmatex">\(\lVert g\rVert &lt; \max u\)</span>, <div class="arithmatex">\[\frac{1}{2}\]</div>'
    written = hook("mathml").with_formulas(page)
    assert "arithmatex" not in written
    assert written.count("<math ") == 2
    assert "<mi>max</mi>" in written
    assert '<mo stretchy="false" fence="true" form="prefix">&#x02016;</mo>' in written
    assert '<div class="formula"><math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in written


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("page.html", '<script src="https://cdn.example/a.js"></script>', True),
        ("page.html", '<link rel="stylesheet" href="//cdn.example/a.css">', True),
        ("page.html", '<img alt="x" src="http://cdn.example/a.png">', True),
        ("style.css", 'a { background: url("https://cdn.example/a.woff2") }', True),
        ("style.css", "@import 'https://cdn.example/a.css';", True),
        ("page.html", '<pre class="mermaid">graph</pre>', True),
        ("page.html", '<a href="https://example.org">elsewhere</a> <script src="../assets/a.js"></script>', False),
        ("style.css", "a { background: url(data:image/svg+xml;base64,AA) }", False),
    ],
)
def test_what_is_loaded_from_another_host_is_found(name: str, text: str, found: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert bool([*hook("offline").loaded_from_elsewhere(tmp_path)]) is found


def test_every_public_name_is_in_the_index_with_its_place() -> None:
    index = hook("names").index()
    assert [f"{name.module}.{name.name}" for name in index if name.place is None] == [], "describe these on a page"
    listed = {name.name for name in index}
    public = {
        name for name, value in vars(gradchain).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public - listed == {"TYPE_CHECKING"}
    assert {*optim.__all__, *transforms.__all__} <= listed


@pytest.mark.parametrize("name", transforms.__all__)
def test_every_transform_has_a_picture_and_a_sentence(name: str) -> None:
    effect = hook("../pictures/effects").EFFECTS[name]
    assert effect.says.endswith(".")
    picture = HOOKS.parent / "assets" / "gallery" / f"{name}.png"
    assert 1_000 < picture.stat().st_size < 40_000


def test_the_algorithm_of_a_recipe_links_its_stages() -> None:
    written = hook("pages").algorithm("gyro-adam")
    assert "[`momentum_project`](../transforms/project.md#momentum_project)" in written
    assert written.count("\n1.  ") == len(gradchain.recipe("gyro-adam")) + 1

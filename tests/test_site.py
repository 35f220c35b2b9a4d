"""The hooks that build the site: formulas are MathML, and nothing is loaded from another host."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HOOKS = Path(__file__).parents[1] / "docs" / "hooks"


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
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

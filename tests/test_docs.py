"""The documentation is true: its code runs, its output is what is printed, its links resolve, and nothing is left out.

`tests/pages.py` says how a page is run.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import gradchain
from gradchain import transforms
from gradchain._chain import recipes
from tests.pages import DOCS, PAGES, ROOT, blocks, needs, page_id, run
from tests.pages import sandbox as sandbox

TRANSFORM_PAGES = sorted((DOCS / "transforms").glob("*.md"))

# Transforms that change no number of the step, only how it is computed or kept: they have no equation to show.
WITHOUT_EQUATION = {"master_weights", "promote", "stochastic_round"}

# Docstring examples that are fragments of a generator: `yield` does not run outside of one.
FRAGMENTS = {"gradchain._core.reduce.whole_tensor"}

# Modules that need the optional packages of the command line.
OPTIONAL = ("gradchain.ablation", "gradchain.cli", "gradchain.__main__")


# Pages.


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that need a trainer's package are run by `make integrations`; here their code is compiled."""
    if not needs(page):
        run(page, monkeypatch)
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, page_id(page), "exec")


WIDE = {"README.md", "docs/benchmarks.md"}  # not on the site; written by `make bench`


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_fits_the_column(page: Path) -> None:
    """80 characters, which a page has room for beside its two menus; more in tables; prose is wrapped."""
    for block in blocks(page):
        limit = 80 if block.language != "text" else 130 if "  " in block.text else 1000
        long = [line for line in block.text.splitlines() if len(line) > limit]
        assert page_id(page) in WIDE or not long, f"{page_id(page)}:{block.line}: {long[0]!r}"


# Links.

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def anchors(page: Path) -> set[str]:
    """The ids that mkdocs and GitHub give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_resolve(page: Path) -> None:
    for target in _LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page_id(page)} links to {target}"
        if anchor:
            assert anchor in anchors(other), f"{page_id(page)} links to {target}, which has no such heading"
        if page != PAGES[0]:
            assert DOCS in other.parents, f"{page_id(page)} links to {target}, which is not part of the site"


# What must be there.


@pytest.mark.parametrize("page", PAGES[1:], ids=page_id)
def test_every_page_is_in_the_navigation(page: Path) -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert page.relative_to(DOCS).as_posix() in listed


@pytest.mark.parametrize("name", transforms.__all__)
def test_every_transform_has_its_place_and_its_equation(name: str) -> None:
    documented = [page for page in TRANSFORM_PAGES if f"::: gradchain.{name}\n" in page.read_text(encoding="utf-8")]
    assert len(documented) == 1, f"{name} is described on {len(documented)} pages"
    doc = inspect.getdoc(getattr(transforms, name)) or ""
    assert ("$" in doc) is (name not in WITHOUT_EQUATION)
    assert "\n>>> " in doc, f"{name} has no example"


@pytest.mark.parametrize("name", gradchain.recipes())
def test_every_recipe_is_described_with_its_options(name: str) -> None:
    heading = re.compile(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", flags=re.S | re.M)
    pages = (page.read_text(encoding="utf-8") for page in (DOCS / "recipes").glob("*.md"))
    (section,) = [found[1] for text in pages if (found := heading.search(text))]
    assert f"<!-- algorithm: {name} -->" in section
    assert re.search(rf'== gradchain\.recipe\(\s*"{re.escape(name)}"\s*\)', section), "the chain, spelled out"
    for parameter in recipes.find_recipe(name).parameters:
        row = re.search(rf"^\| `{parameter.name}` \| `(.*?)` \|", section, flags=re.M)
        assert row is not None, f"option {parameter.name} is not in the table"
        assert row[1] == repr(parameter.default).replace("'", '"')


@pytest.mark.parametrize("recipe", ["rose", "rose-1.0.2", "gyro-adam", "gyro-sgd", "adams"])
def test_the_golden_cases_are_counted(recipe: str) -> None:
    prefix = {"rose": "rose-1.0", "rose-1.0.2": "rose-1.1"}.get(recipe, recipe)
    count = len(list((ROOT / "tests" / "golden").glob(f"{prefix}_*.pt")))
    row = re.search(rf"^\| `{re.escape(recipe)}` \|.*$", PAGES[0].read_text(encoding="utf-8"), flags=re.M)
    assert row is not None
    assert f"{count} golden" in row[0]


def public() -> dict[str, Any]:
    """The names that `import gradchain` offers: no modules but the package of recipes."""
    names = {name: value for name, value in vars(gradchain).items() if not name.startswith("_")}
    return {name: value for name, value in names.items() if not inspect.ismodule(value) or name == "recipes"}


@pytest.mark.parametrize("name", sorted(public()))
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = public()[name]
    if isinstance(value, (str, bool)):
        return
    assert (value.__doc__ or "").strip()
    # Python gives a dataclass without a docstring its signature.
    assert not (value.__doc__ or "").startswith(f"{name}(")


@pytest.mark.parametrize("name", ["Chain", "Context", "Optimizer", "Stage", "Update"])
def test_every_public_method_has_a_docstring(name: str) -> None:
    members = vars(getattr(gradchain, name)).items()
    methods = {key: value for key, value in members if callable(value) and not key.startswith("_")}
    assert [key for key, value in methods.items() if not (inspect.getdoc(value) or "").strip()] == []


# Docstrings.


def examples() -> list[doctest.DocTest]:
    """The `>>>` examples of all modules; what an example may take for granted is in its namespace."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found: list[doctest.DocTest] = []
    for info in pkgutil.walk_packages(gradchain.__path__, "gradchain."):
        if not info.name.startswith(OPTIONAL):
            found += finder.find(importlib.import_module(info.name), info.name)
    return [test for test in found if test.examples and test.name not in FRAGMENTS]


def assumed() -> dict[str, Any]:
    """The namespace of docstring examples: the public names, `nearest`, and a model with a loss."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    loss = model(torch.ones(2, 4)).square().mean()
    errors = importlib.import_module("gradchain.errors")
    return {**public(), "gradchain": gradchain, "torch": torch, "nearest": errors.nearest, "model": model, "loss": loss}


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_the_example_of_a_docstring_runs(example: doctest.DocTest) -> None:
    example.globs = {**assumed(), "__name__": "example"}
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    results = runner.run(example, out=report.write)
    assert results.failed == 0, report.getvalue()

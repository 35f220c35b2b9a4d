"""The rooms of the house: what may import what, and that nothing goes in circles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

from gradchain import Stage
from tests.test_release import PROJECT

ROOT = Path(__file__).parent.parent

LAYERS = (
    ("errors", "_angle"),
    ("ops",),
    ("_core",),
    ("storage", "roles"),
    ("_chain",),
    ("transforms", "_dist", "_engine"),
    ("recipes", "_optim"),
    ("distributed", "optim"),
    ("_export",),
    ("gradchain",),
    ("audit", "ablation"),
    ("testing",),
    ("gradchain_command",),
    ("cli",),
)
"""Each room imports from itself and from the rows above it; `gradchain` is the public face, `__init__.py`."""

PUBLIC = {
    "ablation",
    "audit",
    "cli",
    "distributed",
    "errors",
    "ops",
    "optim",
    "recipes",
    "roles",
    "storage",
    "testing",
    "transforms",
}


def modules() -> dict[str, Path]:
    folders = ("gradchain/**/*.py", "recipes/*.py", "gradchain_command/*.py")
    files = {path: path.relative_to(ROOT) for folder in folders for path in ROOT.glob(folder)}
    files = {path: short for path, short in files.items() if path.name != "__main__.py"}  # another way into the cli
    names = {path: ".".join(short.with_suffix("").parts).removesuffix(".__init__") for path, short in files.items()}
    return {f"gradchain.{name}" if name.startswith("recipes") else name: path for path, name in names.items()}


MODULES = modules()


def imports(name: str) -> set[str]:
    """The modules of gradchain that one imports, wherever the import stands."""
    found: set[str] = set()
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [package.rsplit(".", node.level - 1)[0], node.module]))
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return (found & MODULES.keys()) - {name}


def room(module: str) -> str:
    first, *others = module.split(".")
    return others[0] if others and first == "gradchain" else first


def test_there_are_no_circles() -> None:
    list(TopologicalSorter({name: imports(name) for name in MODULES}).static_order())


def test_imports_go_one_way() -> None:
    floor = {name: number for number, row in enumerate(LAYERS) for name in row}
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        for other in imports(name)
        if room(name) != room(other) and floor[room(other)] >= floor[room(name)]
    ]
    assert wrong == []


def test_nothing_hides_an_import_in_a_function_of_the_core() -> None:
    """A deferred import is how circles are dodged. Others are for what takes long to load or may be missing."""
    hidden = [
        f"{name}: {ast.unparse(inner)}"
        for name in MODULES
        if room(name) not in ("cli", "gradchain", "gradchain_command")
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.If)) and "version_info" not in ast.unparse(node)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom)) and "gradchain" in ast.unparse(inner)
    ]
    assert hidden == []


def test_public_modules_are_few_and_named_after_nothing_else() -> None:
    public = {room(name) for name in MODULES if name.startswith("gradchain.") and not room(name).startswith("_")}
    assert public == PUBLIC


def test_all_packages_are_installed() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_the_picture_in_the_docs_is_true() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    picture = page.split("```text\n")[1].split("```")[0]
    rows = [set(line[:32].split()) for line in picture.splitlines()]
    assert rows == [set(row) for row in reversed(LAYERS)]


CORE = ("_core", "_chain", "transforms", "storage", "_dist", "_engine", "_optim")
"""Rooms whose functions fit on a screen."""

LINES, BODY, STAGE = 400, 40, 150


def _bodies(module: str) -> dict[str, int]:
    """The functions of a module and the lines of their bodies: no decorators, no signature, no docstring."""
    lengths: dict[str, int] = {}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lengths[f"{module}.{node.name}"] = body[-1].end_lineno - body[0].lineno + 1 if body else 0
    return lengths


def test_files_and_functions_are_short() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > LINES} == {}
    bodies = {name: count for module in MODULES if room(module) in CORE for name, count in _bodies(module).items()}
    assert {name: count for name, count in bodies.items() if count > BODY} == {}


def _defines_a_stage(module: str) -> bool:
    held = vars(import_module(module)).values()
    return any(isinstance(x, type) and issubclass(x, Stage) and x.__module__ == module for x in held)


def test_a_file_of_stages_is_read_at_a_glance() -> None:
    stages = [name for name in MODULES if room(name) == "transforms" and _defines_a_stage(name)]
    lines = {name: len(MODULES[name].read_text(encoding="utf-8").splitlines()) for name in stages}
    assert {name: count for name, count in lines.items() if count > STAGE} == {}

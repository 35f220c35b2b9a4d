"""What is published says the same everywhere."""

from __future__ import annotations

import importlib
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import gradchain

ROOT = Path(__file__).parents[1]
toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT: dict[str, Any] = toml.loads(text("pyproject.toml"))


def test_the_version_stands_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gradchain.__version__"}
    assert text("gradchain/__init__.py").count(f'__version__ = "{gradchain.__version__}"\n') == 1  # read, not imported
    assert metadata.version("gradchain") == gradchain.__version__
    assert re.search(r"^(version|date-released):", text("CITATION.cff"), flags=re.M) is None


def test_the_pythons_that_we_name_are_tested_before_a_release() -> None:
    named = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["project"]["classifiers"]
    ]
    versions = [found[1] for found in named if found]
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"
    matrix = re.search(r"python: \[(.*)\]", text(".github/workflows/release.yml"))
    assert matrix is not None
    assert re.findall(r'"([\d.]+)"', matrix[1]) == versions


def test_the_oldest_torch_that_we_name_is_tested_before_a_release() -> None:
    (oldest,) = [
        re.sub(r"torch>=", "", need) for need in PROJECT["project"]["dependencies"] if need.startswith("torch")
    ]
    assert f"torch: torch=={oldest}.0" in text(".github/workflows/release.yml")


def test_the_addresses_are_those_of_one_repository() -> None:
    address = PROJECT["project"]["urls"]["Homepage"]
    assert all(url.startswith(address) for url in PROJECT["project"]["urls"].values())
    assert f"repository-code: {address}\n" in text("CITATION.cff")

"""Importing gradchain costs no more than importing torch."""

from __future__ import annotations

from tests.processes import python

CODE = """
import sys, torch
before = set(sys.modules)
import gradchain
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
print(*[name for name in ("torch._dynamo", "torch._inductor") if name in set(sys.modules) - before])
"""


def test_nothing_heavy_is_imported_beyond_torch() -> None:
    done = python(CODE)
    assert done.returncode == 0, done.stderr
    packages, compiler = done.stdout.split("\n")[:2]
    assert packages.split() == ["gradchain"]
    assert compiler == ""

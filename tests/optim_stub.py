"""What type checkers and editors see of `gradchain.optim`, whose classes are made when they are asked for.

`python -m tests.optim_stub` writes `gradchain/optim.pyi` anew, after a recipe or an option has been added.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

from gradchain import optim

STUB = Path(__file__).parent.parent / "gradchain" / "optim.pyi"

HEADER = '''"""A class for each recipe. Written by `python -m tests.optim_stub`; do not edit."""

import collections.abc
import typing

import torch

import gradchain
from gradchain._optim.edited import FromRecipe as FromRecipe

CLASSES: dict[str, str]

def optimizer_class(recipe: str) -> type[gradchain.Optimizer]: ...
def class_name(recipe: str) -> str: ...
'''


def written(annotation: Any) -> str:
    """An annotation as source code."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        qualified = f"{annotation.__module__}.{annotation.__qualname__}"
        return qualified.removeprefix("builtins.").replace("torch.nn.modules.module", "torch.nn")
    text = str(annotation).replace("torch.nn.modules.module", "torch.nn").replace("NoneType", "None")
    return text.replace("gradchain._chain.chain.Chain", "gradchain.Chain")


def parameter(p: inspect.Parameter) -> str:
    default = "" if p.default is p.empty else f" = {p.default!r}".replace("inf", 'float("inf")')
    return f"{p.name}: {written(p.annotation)}{default}"


def class_of(name: str, recipe: str) -> str:
    cls = optim.optimizer_class(recipe)
    held = list(inspect.signature(cls.__init__).parameters.values())[1:]
    places = [parameter(p) for p in held if p.kind is not p.KEYWORD_ONLY]
    named = [parameter(p) for p in held if p.kind is p.KEYWORD_ONLY]
    lines = ["self", *places, "*", *named]
    summary = (cls.__doc__ or "").split("\n", 1)[0]
    body = "".join(f"        {line},\n" for line in lines)
    return f'\nclass {name}(gradchain.Optimizer):\n    """{summary}"""\n\n    def __init__(\n{body}    ) -> None: ...\n'


def stub() -> str:
    text = HEADER + "".join(class_of(name, recipe) for name, recipe in optim.CLASSES.items())
    for command in (["check", "--fix-only", "--quiet"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")

"""`gradchain new-transform`: the files of a new transform and of its tests, which pass as they are written."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path

from gradchain._chain import registry
from gradchain.errors import OptionError, shown

STAGE = '''"""{name}: a running average of the gradient, with a bound. Write here what yours does."""

import gradchain


class {name}(gradchain.Stage):
    r"""Average the gradient, and bound each element by 1.

    $$m_t = \\beta m_{{t-1}} + (1-\\beta) g_t, \\qquad u_t = m_t / (1 + |m_t|)$$

    Shapes: any; output[i] depends on input[i] alone. Keeps one tensor of the parameter's shape.
    """

    source = "your paper or repository"
    beta: float = gradchain.hyper(default=0.9, ge=0, lt=1)

    def slots(self, p):
        return {{"{name}_average": gradchain.Slot()}}

    def update(self, update, ctx):
        m = self.beta * ctx.read("{name}_average") + (1 - self.beta) * update.value
        return update.average(m / (1 + m.abs())), {{"{name}_average": m}}
'''

TEST = '''"""{name} does what its equation says, and keeps the laws of transforms."""

import gradchain
import torch
from gradchain.testing import transform_laws

from {name} import {name}

test_laws = transform_laws({name}())


def test_the_equation():
    chain = gradchain.chain({name}(beta=0.5))
    param, gradient = torch.zeros(2), torch.tensor([2.0, -6.0])
    update, _ = chain.update(gradient, chain.init(param), param)
    torch.testing.assert_close(update, torch.tensor([-0.5, 0.75]))  # what is added to the parameter
'''


def write_transform(name: str, folder: Path) -> tuple[Path, Path]:
    """Write the files of a new transform; if it raises, it has written nothing.

    Returns:
        The paths of the transform and of its test.

    Raises:
        OptionError: the name cannot be that of a transform, or a file exists.
    """
    _check_name(name)
    stage, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (stage, test):
        if path.exists():
            raise OptionError(f"{path} exists, and nothing was written. Remove it, or pass another name or --out.")
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out {folder} is a file. Pass a folder.")
    if importlib.util.find_spec(name) is not None:
        raise OptionError(
            f"there is a module {shown(name)} already, which `import {name}` would find. Choose another name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    stage.write_text(STAGE.format(name=name), encoding="utf-8")
    test.write_text(TEST.format(name=name), encoding="utf-8")
    return stage, test


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name) or len(name) > 60:
        better = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name).strip("_")[:60]
        good = better.isidentifier() and not keyword.iskeyword(better)
        hint = f", such as {better}" if good else ", such as sign_momentum"
        raise OptionError(
            f"{shown(name)} cannot be the name of a transform, which is that of its class and module: use up to 60 "
            f"letters, digits and _{hint}."
        )
    if name.startswith(("_", "test_")):
        raise OptionError(
            f"{shown(name)} begins with _ or test_, and pytest would take it for something else. Leave it out."
        )
    if name in registry.stages():
        raise OptionError(
            f"there is a transform {shown(name)} already; `gradchain list` shows all. Choose another name."
        )

"""The table of the field has every recipe and every transform, and what it says is what they do."""

from __future__ import annotations

import re

import pytest
import torch

import gradchain
from gradchain import transforms
from tests.test_site import hook

FIELD = hook("field")
TEXT = FIELD.PAGE.read_text(encoding="utf-8")
WRITE = "write it anew: python docs/hooks/field.py"


def rows(name: str) -> dict[str, list[str]]:
    """The cells of a table by the names in its first column."""
    table = TEXT.partition(f"<!-- field: {name} -->")[2].partition("<!-- end -->")[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {row[0].split("`")[1]: row[1:] for row in cells}


def test_no_recipe_and_no_transform_is_missing() -> None:
    ours = [name for name in gradchain.recipes() if name in FIELD.our_recipes()]
    assert list(rows("recipes")) == ours, WRITE
    assert list(rows("transforms")) == list(transforms.__all__), WRITE


@pytest.mark.parametrize("name", FIELD.our_recipes())
def test_the_evidence_of_a_recipe_is_a_test(name: str) -> None:
    assert name in FIELD.EVIDENCE, "say in docs/hooks/evidence.py what its steps were compared with, and in which test"
    text, test = FIELD.EVIDENCE[name]
    assert text
    assert (FIELD.ROOT / test).is_file()


def test_a_recipe_without_evidence_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FIELD.EVIDENCE, "lion")
    with pytest.raises(SystemExit, match=r"'lion' has no evidence.*docs/hooks/evidence\.py"):
        FIELD.recipe_row("lion", torch.nn.Linear(2, 2, device="meta"))


@pytest.mark.slow
def test_the_page_is_as_it_is_written() -> None:
    assert FIELD.written() == TEXT, WRITE


def test_what_the_costs_are() -> None:
    """A few that one can say by heart."""
    recipes, stages = rows("recipes"), rows("transforms")
    assert [recipes[name][-3] for name in ("adamw", "lion", "sgd", "rose")] == ["8", "4", "0", "0"]
    assert [recipes[name][-1] for name in ("adamw", "lion", "sgd")] == ["none", "none", "none"]
    assert (recipes["adamw"][1], recipes["sgd"][1]) == ("decay", "elementwise")
    assert stages["clip_by_global_norm"][0] == "totals of several tensors"
    assert stages["prodigy"][0] == "shared numbers"
    assert stages["sign"][-1] == "1"


def watched(*stages: gradchain.Stage, shape: tuple[int, ...] = (64, 32)) -> dict[str, float]:
    program = gradchain.chain(*stages).route("", torch.empty(shape, device="meta"))
    return {at: seen.operations for at, seen in FIELD.watched(program, torch.Size(shape)).items()}


class powers(gradchain.Stage, register=False):
    """Two products, a sum over rows, a root, a QR."""

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Update:
        x = update.value
        y = x @ (x.mT @ x)
        _ = torch.linalg.qr(x)
        return update.replace(value=y * y.sum(0).sqrt())


def test_operations_are_counted() -> None:
    counted = watched(powers(), gradchain.scale_by_learning_rate(0.1))
    m, n = 64, 32
    assert counted["powers"] == 2 * (2 * m * n * n) + 4 * m * n * n + m * n + n + m * n
    assert counted["scale_by_learning_rate"] == m * n
    assert counted[""] == m * n  # the parameter is written


def test_numbers_are_short() -> None:
    assert [FIELD.number(x) for x in (0, 0.12345, 8.0, 14.25, 123456.7)] == ["0", "0.123", "8", "14.2", "123,457"]
    assert [FIELD.size(x) for x in (28, 2910, 1.86e6, 3.2e9)] == ["28 B", "2.91 KB", "1.86 MB", "3.2 GB"]
    assert re.fullmatch(r"shared numbers", FIELD.words("SharedNumbers"))

"""`gradchain new-transform`: what it refuses it explains. test_kit.py runs what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gradchain.cli import app
from gradchain.testing.new_transform import STAGE


def test_it_is_short() -> None:
    code = STAGE.split('"""\n\n    source')[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my-average", "such as my_average."),
        ("2nd", "such as sign_momentum."),
        ("class", "such as sign_momentum."),
        ("größe", "letters, digits and _"),
        ("../up", "such as up."),
        ("_mine", "begins with _ or test_"),
        ("test_mine", "begins with _ or test_"),
        ("first_moment", "there is a transform 'first_moment' already"),
        ("random", "there is a module 'random' already"),
        ("", "cannot be the name of a transform"),
        ("taken", "taken.py exists, and nothing was written"),
        ("tested", "test_tested.py exists, and nothing was written"),
    ],
)
def test_what_it_refuses(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "taken.py").write_text("mine")
    (tmp_path / "test_tested.py").write_text("mine")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    result = CliRunner().invoke(app, ["new-transform", "--out", str(tmp_path), "--", name])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(app, ["new-transform", "my_average", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "is a file. Pass a folder." in " ".join(result.stderr.split())

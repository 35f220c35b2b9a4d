"""The pages on trainers: their code runs with the real packages, and prints what they show."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from tests.pages import PAGES, needs, page_id, run
from tests.pages import sandbox as sandbox

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("page", [page for page in PAGES if needs(page)], ids=page_id)
def test_a_page_runs_with_the_real_packages(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in needs(page):
        pytest.importorskip(package, reason="pip install gradchain[integrations]")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # these packages warn of each other
        monkeypatch.setattr("sys.argv", ["train.py"])
        run(page, monkeypatch)

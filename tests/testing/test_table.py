"""The table in the docs is what is measured: of torch's optimizers, and of peers where they are installed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import distributed as dist

from gradchain.testing import check_optimizer
from gradchain.testing.law import OF_OPTIMIZERS
from tests.testing.peers import OURS, PEERS, TORCH, Peer
from tests.testing.table import ALL, PAGE, RESULTS, named, written
from tests.testing.test_own import AS_PUBLISHED

FOUND: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
LONG = ("compiled", "compiled_outside")
QUICK = ("AdamW", "Muon", "SGD")


def test_the_page_shows_what_was_found() -> None:
    """`python -m tests.testing.table` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, FOUND) == page


def test_everyone_was_measured_by_all_laws() -> None:
    measured = {(package, name) for package, found in FOUND.items() for name in found["optimizers"]}
    assert measured == {(peer.package, peer.name) for peer in ALL}
    named_laws = {law for found in FOUND.values() for laws in found["optimizers"].values() for law in laws}
    assert named_laws <= {*OF_OPTIMIZERS}


def test_ours_break_none() -> None:
    said = {name: laws for name, laws in FOUND["gradchain.optim"]["optimizers"].items() if laws}
    assert {peer.name for peer in OURS} == {*FOUND["gradchain.optim"]["optimizers"]}
    broken = {name: tuple(law for law, why in laws.items() if "broken" in why) for name, laws in said.items()}
    assert {name: laws for name, laws in broken.items() if laws} == {
        name: laws for name, laws in AS_PUBLISHED.items() if name in said
    }


def broken(peer: Peer) -> set[str]:
    laws = FOUND[peer.package]["optimizers"][peer.name]
    return {law for law, said in laws.items() if said.startswith("broken")} - {*LONG}


@pytest.fixture(autouse=True)
def no_group_left() -> Any:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # as they are imported
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(
            peer, id=str(peer), marks=() if peer.package == "torch.optim" and peer.name in QUICK else pytest.mark.slow
        )
        for peer in (*TORCH, *PEERS)
    ],
)
def test_an_optimizer_of_others(peer: Peer) -> None:
    pytest.importorskip(
        {"adams_torch": "adams"}.get(peer.package, peer.package), reason="pip install gradchain[parity]"
    )
    if named(peer.package) != FOUND[peer.package]["name"]:
        pytest.skip(f"measured was {FOUND[peer.package]['name']}")
    report = check_optimizer(peer, cross_parameter=peer.cross_parameter, skip=LONG, strict=False)
    assert {*report.failed} == broken(peer)

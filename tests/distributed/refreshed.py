"""What runs in each process: chains that compute something dear every second step, saved after the third and resumed."""

from __future__ import annotations

from tests.distributed import checkpoints
from tests.laws.cases import CASES

NAMES = ["soap", "soap/one_side", "shampoo", "full_rank", "low_rank", "low_rank/long"]
checkpoints.CHAINS |= {name: CASES[name].chain for name in NAMES}


def save(folder: str, mode: str) -> None:
    """After the third step, in which bases and roots were due."""
    checkpoints.save(folder, mode, NAMES)


def resume(folder: str, mode: str) -> list[str]:
    """With the fourth step, in which they are not."""
    return checkpoints.resume(folder, mode, NAMES)

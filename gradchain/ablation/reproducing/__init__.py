"""Published claims beside ours, at a scale that a laptop can do.

>>> from gradchain.ablation import reproduce
>>> print(reproduce("gyro-synthetic"))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from gradchain.ablation.errors import StudyError
from gradchain.ablation.reproducing import gyro_charlm as gyro_charlm
from gradchain.ablation.reproducing import gyro_synthetic as gyro_synthetic
from gradchain.ablation.reproducing import secret_sauce as secret_sauce
from gradchain.ablation.reproducing.results import Claim as Claim
from gradchain.ablation.reproducing.results import Reproduction as Reproduction
from gradchain.ablation.reproducing.results import find_registered
from gradchain.ablation.reproducing.results import reproductions as reproductions
from gradchain.errors import shown


def reproduce(name: str, *, seeds: int | None = None, watch: Callable[[str], None] | None = None) -> Reproduction:
    """Do again, at a small scale, what was published, and put the results side by side.

    Args:
        name: one of `reproductions()`.
        seeds: runs of each kind, if not its own number of them.
        watch: told what is being run.

    Returns: the claims with our figures, to be printed.
    Raises:
        UnknownNameError: no such reproduction.
        StudyError: no seeds.

    >>> print(reproduce("gyro-synthetic"))
    """
    found = find_registered(name)
    if seeds is not None and (not isinstance(seeds, int) or isinstance(seeds, bool) or not 1 <= seeds <= 1000):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StudyError(f"seeds = {shown(seeds)}: pass an integer from 1 to 1000.")
    start = time.perf_counter()
    done = found.attempt(seeds or found.seeds, watch or (lambda _: None))
    return replace(done, seconds=time.perf_counter() - start)

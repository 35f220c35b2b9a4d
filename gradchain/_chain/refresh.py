"""What is computed anew every so many steps."""

from __future__ import annotations

from typing import Any

import torch


def refresh_due(step: Any, every: int, turn: Any = None) -> Any:
    """Tell, in `scalars`, whether something dear is to be computed anew in this step: in the first, and every so many.

    In `update`, `ctx["due"] is None` decides it without a sync: there is one compiled graph for steps with the work, and one
    for steps without. Where only the device counts (`capturable=True`), it is computed in every step, and
    `gradchain.ops.where(ctx["due"] != 0, new, old)` decides whether it counts; write that, and both are right.

    Args:
        step: the step that `scalars` is called with, from 1.
        every: how many steps it lasts, 1 or more.
        turn: `None` (default): all parameters in the same steps; or `self.turn`, the place of the parameter among all: each
            in the first step, and then in steps of its own, so that they take turns. The stage has a static option
            `spread`, and passes it where that is true.

    Returns: 1.0 or `None`; for a tensor a 0-d tensor of 1 or 0.

    >>> [gradchain.refresh_due(step, 3) for step in (1, 2, 3, 4)]
    [1.0, None, None, 1.0]
    >>> [gradchain.refresh_due(step, 3, turn=1) for step in (1, 2, 3, 4, 5)]
    [1.0, 1.0, None, None, 1.0]
    """
    late = 0 if turn is None else (turn + turn // every) % every  # each round begins one later, where layers recur
    due = (step - 1) % every == late
    if isinstance(due, torch.Tensor):
        return (due | (step == 1)).to(torch.float64 if due.device.type != "mps" else torch.float32)
    return 1.0 if due or step == 1 else None

"""What is computed anew every so many steps."""

from __future__ import annotations

from typing import Any

import torch


def refresh_due(step: Any, every: int) -> Any:
    """Tell, in `scalars`, whether something dear is to be computed anew in this step: in the first, and every so many.

    In `update`, `ctx["due"] is None` decides it without a sync: there is one compiled graph for steps with the work, and one
    for steps without. Where only the device counts (`capturable=True`), it is computed in every step, and
    `gradchain.ops.where(ctx["due"] != 0, new, old)` decides whether it counts; write that, and both are right.

    Args:
        step: the step that `scalars` is called with, from 1.
        every: how many steps it lasts, 1 or more.

    Returns: 1.0 or `None`; for a tensor a 0-d tensor of 1 or 0.

    >>> [gradchain.refresh_due(step, 3) for step in (1, 2, 3, 4)]
    [1.0, None, None, 1.0]
    """
    if isinstance(step, torch.Tensor):
        return ((step - 1) % every == 0).to(torch.float64 if step.device.type != "mps" else torch.float32)
    return 1.0 if (step - 1) % every == 0 else None

"""A new start for the effective gradient."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.transforms.direction import averages


class as_gradient(Stage):
    r"""Take the direction as it is here for the effective gradient $g$ of the stages that follow.

    $$g \leftarrow u$$

    After a first moment, `second_moment` and others look at the gradient that was averaged. After this stage they look at
    the direction itself, with all that was done to it: AdaMuon squares the orthogonal direction, not the gradient.

    Raises: ChainError: no stage before it averages, so that the direction is the gradient already.
    Source: AdaMuon, arXiv:2507.11005, where the second moment is one of the orthogonalized direction.

    >>> gradchain.chain(
    ...     gradchain.first_moment(0.95),
    ...     gradchain.sign(),
    ...     gradchain.as_gradient(),
    ...     gradchain.second_moment(0.95),
    ...     gradchain.divide(1e-8),
    ... ).names
    ('first_moment', 'sign', 'as_gradient', 'second_moment', 'divide')
    """

    scale = "any"
    source = "AdaMuon, arXiv:2507.11005"

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        if not any(averages(stage) for stage in before):
            raise ChainError(
                f"{self.address} has no effect: no stage before it averages, so the direction is the gradient already. Put "
                f"first_moment(...), or another stage with a slot 'exp_avg' or 'momentum_buffer', before {self.address}, or "
                f"remove {self.address}."
            )

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(averaged=None)

"""A new start for the effective gradient."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage
from gradchain._core.update import Update


class as_gradient(Stage):
    r"""Take the direction as it is here for the effective gradient $g$ of the stages that follow.

    $$g \leftarrow u$$

    After a first moment, `second_moment` and others look at the gradient that was averaged. After this stage they look at
    the direction itself, with all that was done to it: AdaMuon squares the orthogonal direction, not the gradient.

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

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(averaged=None)

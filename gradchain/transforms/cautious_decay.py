"""Weight decay where it agrees with the update."""

from __future__ import annotations

from collections.abc import Sequence

from gradchain._chain.context import Context
from gradchain._chain.mixins import needs_decay
from gradchain._chain.stage import Stage
from gradchain._core.update import Update


class cautious_decay(Stage):
    r"""The decays after this stage act only where they agree in sign with the update so far.

    $$\tau_i \leftarrow \tau_i\,[u_i\tau_i \ge 0]$$

    for each decay term $\tau$, element by element; the rest is not scaled up. Put this stage after all that change the
    update and before the decays.

    Raises: ChainError: no decay follows.
    Source: adv_optm, `cautious_wd`, after Chen et al. (2025), Cautious Weight Decay, arXiv:2510.12402.

    >>> gradchain.chain(
    ...     gradchain.sign(), gradchain.scale_by_learning_rate(1e-4),
    ...     gradchain.cautious_decay(), gradchain.decoupled_decay(0.1),
    ... ).names[2:]
    ('cautious_decay', 'decoupled_decay')
    """

    scale = "any"
    source = "Cautious Weight Decay, arXiv:2510.12402"

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        needs_decay(self, after)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(cautious=True)

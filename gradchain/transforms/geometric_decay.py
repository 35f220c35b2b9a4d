"""Weight decay that shrinks all elements by the same amount, or rows and columns by their norms."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import Read, earlier
from gradchain._chain.stage import Yields
from gradchain._core.fields import static
from gradchain._core.update import Update
from gradchain.transforms.decay_targets import even_decay, line_strengths
from gradchain.transforms.decoupled_decay import decoupled_decay
from gradchain.transforms.lines import BY, is_matrix


class geometric_decay(decoupled_decay):
    r"""Shrink all elements of the parameter by the same amount, with the norm of an ordinary decay.

    $$\theta \leftarrow \theta - \kappa\lambda\,\tau(\theta), \qquad
    \tau(y) = \operatorname{sign}(y)\,\frac{\lVert y\rVert}{\sqrt{N}}$$

    or, with `snr`, which decays more where the momentum $m$ (before this step) has a steady sign:

    $$\tau(y) = w\,\frac{\lVert y\rVert}{\max(\lVert w\rVert,\, 1/\sqrt{N})}, \qquad
    w = \operatorname{atan2}\bigl(\operatorname{sign} y,\; \sqrt{\max(1 - m^2,\, 10^{-30})}\bigr)$$

    Norms are over the whole tensor of $N$ elements; $\kappa$ and $\lambda$ are those of `decoupled_decay`, whose options it
    shares. An element of 0 stays.

    With `by="row_column"`, matrices (first axis by all others, $m \times n$) decay in proportion, but with a strength by row
    and column, whose mean is 1:

    $$\tau_{ij} = \frac{\rho_i\chi_j}{\operatorname{mean}\rho\chi}\,\theta_{ij}, \qquad
    \rho_i^2 = \max(\lVert\theta_{i:}\rVert,\, 1/\sqrt n), \quad \chi_j^2 = \max(\lVert\theta_{:j}\rVert,\, 1/\sqrt m)$$

    and with `snr` $\operatorname{atan2}(\rho_i, \sqrt{R_i})$ and $\operatorname{atan2}(\chi_j, \sqrt{C_j})$ in their place,
    where $R$ and $C$ are those of `snr_precondition`. Vectors (less than two axes, or role `vector` or `dora_scale`) stay
    with the formulas above.

    Args:
        weight_decay: $\lambda \ge 0$, default 1e-2.
        snr: weigh by the momentum, which should be an average of signs. It needs slot `exp_avg` of an earlier stage.
        by: `"element"` (default) or `"row_column"`.

    Raises: OptionError: a value out of range; ChainError: `snr`, and no earlier stage owns `exp_avg`.
    Source: adv_optm 2.5, SignSGD_adv, whose stochastic signs are left out of the target; by rows and columns, SinkSGD_adv.

    >>> gradchain.chain(
    ...     gradchain.sign(), gradchain.scale_by_learning_rate(1e-4), gradchain.geometric_decay(0.1)
    ... ).hyperparameters
    {'lr': 0.0001, 'weight_decay': 0.1}
    """

    source = "adv_optm 2.5"

    snr: bool = static(default=False)
    by: str = static(default="element", choices=BY)

    @property
    def reads(self) -> tuple[Read, ...]:  # type: ignore[override]
        """The momentum, with `snr`."""
        return (earlier("exp_avg"),) if self.snr else ()

    def update(self, update: Update, ctx: Context) -> Yields:
        if self.by == "row_column" and is_matrix(ctx.shape, ctx.role):
            target = ctx.param * (yield from line_strengths(ctx, self.snr))
        else:
            target = yield from even_decay(ctx.param, ctx, self.snr)
        return update.add_decay(self.factor(ctx) * target)

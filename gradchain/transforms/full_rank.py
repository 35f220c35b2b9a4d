"""What brings directions back that `low_rank` has made smaller."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Yields
from gradchain._chain.subspace import LeaveSubspace
from gradchain._core.fields import static
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide


class full_rank(LeaveSubspace):
    r"""Project a direction back to the shape of the parameter.

    $$u \leftarrow P\, N \qquad \text{or} \qquad u \leftarrow N P^\top$$

    $N$ is what the stages since `low_rank` have made of the projected gradient, and $P$ its projection. The step stays
    in the span of $P$: with singular vectors, in that of the strongest directions of one gradient.

    Raises: ChainError: no `low_rank` before it.
    Source: Zhao et al. (2024), GaLore, arXiv:2403.03507.

    >>> gradchain.chain(gradchain.low_rank(4), gradchain.sign(), gradchain.full_rank()).names
    ('low_rank', 'sign', 'full_rank')
    """

    source = "GaLore, arXiv:2403.03507"

    def update(self, update: Update, ctx: Context) -> Update:
        assert update.outside is not None
        return returned(update, update.outside.lifted(update.value))


class scale_by_low_rank(LeaveSubspace):
    r"""Scale the whole gradient by what the stages since `low_rank` have done to the size of the projected one.

    $$u \leftarrow G \operatorname{diag}(s), \qquad s_j = \frac{\lVert N_{\cdot j}\rVert}{\lVert R_{\cdot j}\rVert}$$

    $R$ is the projected gradient and $N$ what these stages made of it. Each line that was not combined has its own factor:
    columns if $R$ has all columns, rows if it has all rows. A line that is 0 stays 0.

    Args:
        per: `"channel"` (default), as above; `"tensor"`: one factor for all, $\lVert N\rVert / \lVert R\rVert$.

    Raises: OptionError: a value out of range; ChainError: no `low_rank` before it.
    Source: Zhu et al. (2024), APOLLO, arXiv:2412.05270; its code adds 1e-8 to the norm of $R$.

    >>> stages = [gradchain.low_rank(1), gradchain.multiply(3.0), gradchain.scale_by_low_rank()]
    >>> chain = gradchain.chain(*stages, gradchain.scale_by_learning_rate(1.0))
    >>> updates, _ = chain.update(torch.ones(2, 2), chain.init(torch.zeros(2, 2)), torch.zeros(2, 2))
    >>> updates
    tensor([[-3., -3.],
            [-3., -3.]])
    """

    source = "APOLLO, arXiv:2412.05270"

    per: str = static(default="channel", choices=("channel", "tensor"))

    def update(self, update: Update, ctx: Context) -> Yields:
        assert update.outside is not None
        outside = update.outside
        squares = {"made": wide(update.value).square(), "given": wide(outside.projected).square()}
        if self.per == "channel":
            made, given = (x.sum(0 if outside.left else 1, keepdim=True) for x in squares.values())
        elif outside.left:  # all processes have all of it
            made, given = (x.sum() for x in squares.values())
        else:
            t = yield whole_tensor(**squares)
            made, given = t.made, t.given
        factor = root(made) / nonzero(root(given))
        ctx.observe("factor", lambda: factor)
        g = outside.update.value
        return returned(update, (wide(g).flatten(1) * factor).view(g.shape).to(ctx.dtype))


def returned(update: Update, value: torch.Tensor) -> Update:
    """The update before the projection, with another direction: a moment of its gradient, if one has been taken."""
    assert update.outside is not None
    before = update.outside.update.replace(skip_mask=update.skip_mask)
    return before.replace(value=value) if update.averaged is None else before.average(value)

"""StableAdamW's clipping: shorter steps where gradients outgrow the scale that is to divide them."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import follow, hyper
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide


class clip_by_scale(Stage):
    r"""Scale a tensor's step down, decay included, if its gradient is large for the pending scale.

    $$r = \sqrt{\operatorname{mean} \frac{g^2}{\max(D^2,\, \epsilon^2)}}, \qquad
    u \leftarrow \frac{u}{\max(1,\, r/c)}, \quad \text{and the decays that follow likewise}$$

    $g$ is the effective gradient. $D$ lags behind when gradients suddenly grow, and the step would be too long: $r$ is
    near 1 in quiet times. The mean is over the whole tensor.

    Args:
        max_rms: $c > 0$, default 1.

    $\epsilon$ is the one that `divide` takes; 0 without one.

    Raises: OptionError: a value out of range; ChainError: no scale is pending.
    Source: Wortsman et al. (2023), Stable and Low-Precision Training, arXiv:2304.13013, algorithm 2.

    >>> gradchain.recipe("adamw").insert_before("divide", gradchain.clip_by_scale()).names[1:4]
    ('second_moment', 'clip_by_scale', 'divide')
    """

    scale = "edits"
    source = "StableAdamW, arXiv:2304.13013"

    max_rms: float = hyper(default=1.0, gt=0)
    eps: float | None = follow("eps", optional=True)

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"least": 0.0 if self.eps is None else self.eps}

    def update(self, update: Update, ctx: Context) -> Yields:
        assert update.scale is not None
        ratio = wide(update.gradient) / nonzero(wide(update.scale).clamp(min=ctx["least"]))
        t = yield whole_tensor(squares=ratio.square())
        r = root(t.squares / max(ctx.numel, 1))
        factor = 1 / (r / self.max_rms).clamp(min=1)
        ctx.observe("factor", lambda: factor)
        return update.replace(value=factor * update.value).weigh_decay(factor)

"""Bounds on the direction: of all parameters together, of each tensor, of each element."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper
from gradchain._core.reduce import all_parameters, whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide


class clip_by_global_norm(Stage):
    r"""Scale all gradients down together if their joint norm is too large.

    $$g \leftarrow g \cdot \min\!\Big(1,\; \frac{c}{\sqrt{\sum_p \lVert g_p\rVert^2}}\Big)$$

    The sum is over all parameters of the optimizer that pass through this stage and have a gradient. Unlike
    `torch.nn.utils.clip_grad_norm_` there is no 1e-6 in the divisor, and `p.grad` stays as it is.

    Args:
        max_norm: $c > 0$, default 1.

    Raises: OptionError: a value out of range.
    Source: Pascanu et al. (2013), arXiv:1211.5063.

    >>> gradchain.recipe("adamw").insert_before("first_moment", gradchain.clip_by_global_norm(1.0)).names[0]
    'clip_by_global_norm'
    """

    source = "Pascanu et al., arXiv:1211.5063"

    max_norm: float = hyper(default=1.0, gt=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        g = wide(update.value)
        t = yield all_parameters(gg=g * g)
        factor = (self.max_norm / nonzero(root(t.gg))).clamp(max=1)
        ctx.observe("factor", lambda: factor)
        return update.replace(value=g * factor)


class clip_by_norm(Stage):
    r"""Scale a tensor's gradient down if its norm is too large.

    $$g \leftarrow g \cdot \min\!\Big(1,\; \frac{c}{\lVert g\rVert}\Big)$$

    Args:
        max_norm: $c > 0$, default 1.

    Raises: OptionError: a value out of range.
    Source: as `clip_by_global_norm`, for each tensor.

    >>> gradchain.chain(gradchain.clip_by_norm(0.5)).hyperparameters
    {'max_norm': 0.5}
    """

    source = "Pascanu et al., arXiv:1211.5063"

    max_norm: float = hyper(default=1.0, gt=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        g = wide(update.value)
        t = yield whole_tensor(gg=g * g)
        factor = (self.max_norm / nonzero(root(t.gg))).clamp(max=1)
        ctx.observe("factor", lambda: factor)
        return update.replace(value=g * factor)


class clip_by_rms(Stage):
    r"""Scale a tensor's direction down if its root mean square is too large.

    $$u \leftarrow \frac{u}{\max(1,\; \mathrm{RMS}(u)/d)}, \qquad \mathrm{RMS}(u) = \frac{\lVert u\rVert}{\sqrt N}$$

    Unlike a bound on the norm it means the same for tensors of any size.

    Args:
        max_rms: $d > 0$, default 1.

    Raises: OptionError: a value out of range.
    Source: Shazeer & Stern (2018), Adafactor, arXiv:1804.04235; `optax.clip_by_block_rms`.

    >>> gradchain.recipe("adamw").insert_after("divide", gradchain.clip_by_rms()).names[2:4]
    ('divide', 'clip_by_rms')
    """

    source = "Adafactor, arXiv:1804.04235"

    max_rms: float = hyper(default=1.0, gt=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        u = wide(update.value)
        t = yield whole_tensor(uu=u * u)
        rms = root(t.uu / max(ctx.numel, 1))
        ctx.observe("factor", lambda: (self.max_rms / nonzero(rms)).clamp(max=1))
        return update.replace(value=u / (rms / self.max_rms).clamp(min=1))


class clip_by_value(Stage):
    r"""Cut each element off at a bound.

    $$g \leftarrow \min(\max(g, -c), c)$$

    Args:
        max_value: $c > 0$, default 1.

    Raises: OptionError: a value out of range.

    >>> gradchain.chain(gradchain.clip_by_value(0.1)).hyperparameters
    {'max_value': 0.1}
    """

    max_value: float = hyper(default=1.0, gt=0)

    def update(self, update: Update, ctx: Context) -> Update:
        g = update.value
        bound = g.new_ones(()) * self.max_value
        ctx.observe("clipped", lambda: g.abs() > bound)
        return update.replace(value=g.minimum(bound).maximum(-bound))

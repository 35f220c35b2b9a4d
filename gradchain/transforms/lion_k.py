"""Lion-K's last step: between signs and steps of one length."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import nonzero, root, wide

_TINY = 1e-12


class lion_k(Stage):
    r"""Lion-K's last step: the gradient of a power of an $\ell_\kappa$ norm, at the length of a sign vector.

    $$y = \operatorname{sign}(u)\,\lvert u\rvert^{\kappa-1}, \qquad
    u \leftarrow \begin{cases} \operatorname{sign}(u) & \kappa = 1 \\
    \sqrt{N}\; y \,/ \max(\lVert y\rVert_2,\, 10^{-12}) & \text{otherwise} \end{cases}$$

    $N$ is the number of elements, $\operatorname{sign}(0) = 0$. $\kappa = 1$ is Lion, $\kappa = 2$ the direction at RMS 1.

    Args:
        kappa: $\kappa \ge 1$, default 1. It chooses a formula, so it is fixed when the chain is built.
        auto: $\kappa = 2$ for tensors of four axes or more (convolutions), 1 for all others, whatever `kappa` says.

    Raises: OptionError: a value out of range.
    Source: Chen et al. (2023), Lion Secretly Solves Constrained Optimization, arXiv:2310.05898; adv_optm.

    >>> gradchain.recipe("lion").replace("sign", gradchain.lion_k(1.5)).names[:2]
    ('lion_interpolate', 'lion_k')
    """

    source = "Lion-K, arXiv:2310.05898"

    kappa: float = static(default=1.0, ge=1)
    auto: bool = static(default=False)

    def update(self, update: Update, ctx: Context) -> Yields:
        kappa = (2.0 if len(ctx.shape) >= 4 else 1.0) if self.auto else self.kappa
        u = wide(update.value)
        if kappa == 1:
            return update.replace(value=u.sign())
        y = u if kappa == 2 else u.sign() * nonzero(u.abs()) ** (kappa - 1)  # zeros have no slope, but sign 0
        t = yield whole_tensor(yy=y * y)
        return update.replace(value=y * (ctx.numel**0.5 / root(t.yy).clamp(min=_TINY)))

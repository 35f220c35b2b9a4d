"""Sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Generator

import torch

from gradchain._chain.context import Context
from gradchain._chain.extra_evaluation import ExtraEvaluation
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals, all_parameters
from gradchain.ops import root, wide


class sam(ExtraEvaluation):
    r"""Take the gradient where the loss is highest nearby, to first order, and step by it from where the parameter is.

    $$g \leftarrow \nabla L\Bigl(\theta + \rho\,\frac{T^2 g_0}{\lVert T g_0\rVert + 10^{-12}}\Bigr), \qquad
    g_0 = \nabla L(\theta), \qquad T = \begin{cases} |\theta| & \text{adaptive} \\ 1 & \text{otherwise} \end{cases}$$

    The norm is over all parameters. Each step evaluates the loss twice, so it needs
    [`optimizer.step(closure)`](../optimizer.md#closures).

    Args:
        rho: $\rho \ge 0$, default 0.05: how far away. With `adaptive`, some 10 times as much.
        adaptive: measure distances relative to the elements of the parameter (ASAM).

    Raises: OptionError: a value out of range; a step without a closure.
    Source: Foret et al. (2020), arXiv:2010.01412; `adaptive` from Kwon et al. (2021), ASAM, arXiv:2102.11600.

    >>> gradchain.chain(gradchain.sam(0.05), gradchain.recipe("sgd", lr=0.1, momentum=0.9)).names[:2]
    ('sam', 'add_decayed_weights')
    """

    source = "SAM, arXiv:2010.01412; ASAM, arXiv:2102.11600"
    scale = "any"

    rho: float = hyper(default=0.05, ge=0)
    adaptive: bool = static(default=False)

    def displacement(self, gradient: torch.Tensor, ctx: Context) -> Generator[Request, Totals, torch.Tensor]:
        size = wide(ctx.param).abs() if self.adaptive else 1.0
        scaled = size * wide(gradient)
        t = yield all_parameters(square=scaled.square())
        return size * scaled * (self.rho / (root(t.square) + 1e-12))

"""Scale a direction by the shape of its matrix, or to a given size."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import whole_tensor
from gradchain._core.update import Update
from gradchain.ops import root, wide


def sides(shape: torch.Size, role: str | None) -> tuple[int, int]:
    """The rows and columns of the matrix that a parameter is, or of each that it holds.

    Returns: rows and columns, at least 1.
    """
    inner = shape[1:] if role == "experts" else shape
    rows, columns = inner[0] if len(inner) else 1, inner[1:].numel()
    return max(rows // (3 if role == "qkv" else 1), 1), max(columns // (3 if role == "qkv_columns" else 1), 1)


class scale_by_shape(Stage):
    r"""Multiply the direction by a number that depends on the $m$ rows and $n$ columns of its matrix.

    | rule | factor | for |
    |---|---|---|
    | `"spectral"` | $\sqrt{\max(1, m/n)}$ | Muon as published: the change of a layer's output keeps its size |
    | `"rms"` | $0.2\sqrt{\max(m, n)}$ | the root mean square of an orthogonal direction becomes that of Adam's steps |
    | `"unit"` | $\sqrt{m/n}$ | Scion: a unit step in the norm between RMS norms |
    | `"columns"` | $1/n$ | Scion: signs, whose sum over the inputs of a neuron is then at most 1 |

    A matrix is the first axis against the rest; with roles `qkv` and `qkv_columns` three such, with role `experts` a slice
    of the first axis.

    Args:
        rule: the rule.

    Raises: OptionError: there is no such rule.
    Source: Jordan et al. (2024), Muon; Liu et al. (2025), arXiv:2502.16982; Pethick et al. (2025), Scion, arXiv:2502.07529.

    >>> chain = gradchain.chain(gradchain.scale_by_shape("unit"), gradchain.scale_by_learning_rate(1.0))
    >>> chain.update(torch.ones(4, 1), chain.init(torch.ones(4, 1)), torch.ones(4, 1))[0].flatten()
    tensor([-2., -2., -2., -2.])
    """

    scale = "any"
    source = "Muon, kellerjordan.github.io/posts/muon; arXiv:2502.16982"

    rule: str = static(default="spectral", choices=("spectral", "rms", "unit", "columns"))

    def update(self, update: Update, ctx: Context) -> Update:
        m, n = sides(ctx.shape, ctx.role)
        factors = {
            "spectral": max(1.0, m / n) ** 0.5,
            "rms": 0.2 * max(m, n) ** 0.5,
            "unit": (m / n) ** 0.5,
            "columns": 1 / n,
        }
        return update.replace(value=factors[self.rule] * update.value)


class normalize_rms(Stage):
    r"""Scale the direction to a given root mean square.

    $$u \leftarrow \frac{\rho \sqrt N}{\max(\lVert u\rVert, 10^{-8})}\, u$$

    Args:
        rms: $\rho > 0$, default 0.2, that of Adam's steps.

    Raises: OptionError: a value out of range.
    Source: adv_optm 2.5.16 (`rms_rescaling`); Liu et al. (2025), arXiv:2502.16982.

    >>> chain = gradchain.chain(gradchain.normalize_rms(1.0), gradchain.scale_by_learning_rate(1.0))
    >>> chain.update(torch.tensor([3.0, 3.0]), chain.init(torch.zeros(2)), torch.zeros(2))[0]
    tensor([-1., -1.])
    """

    source = "adv_optm 2.5.16; arXiv:2502.16982"

    rms: float = hyper(default=0.2, gt=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        t = yield whole_tensor(square=wide(update.value).square())
        norm = root(t.square).clamp(min=1e-8)
        return update.replace(value=update.value * (self.rms * max(ctx.numel, 1) ** 0.5 / norm))

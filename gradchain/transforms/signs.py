"""Sign-based directions: Lion-K, stochastic signs, freezing, one size for all signs, damping by noise."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, earlier
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import hyper, static
from gradchain._core.reduce import Request, Totals, tensor_partials, tensor_partials_max, whole_tensor
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import arctangent, finite, nonzero, root, where, wide
from gradchain.storage.signs import pack, pack_vector, unpack, unpack_vector, words_of
from gradchain.transforms.lines import BY, is_matrix, spreads

ADV_OPTM = "adv_optm, pypi.org/project/adv-optm"
_TINY = 1e-12
MOMENTA = ("exp_avg", "momentum_buffer")


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


class stochastic_sign(Stage):
    r"""Take random signs whose mean is the direction, with rows and columns scaled to a maximum of 1.

    With $u$ as a matrix (first axis by all others):

    $$y_{ij} = \frac{u_{ij}}{\max_j \lvert u_{ij}\rvert}, \qquad y_{ij} \leftarrow \frac{y_{ij}}{\max_i \lvert y_{ij}\rvert},
    \qquad u \leftarrow \operatorname{sign}(y + \xi), \quad \xi \sim \mathcal{U}[-1, 1)$$

    Each maximum is at least $10^{-12}$. An element of exactly 0 stays 0. Tensors of rank 0 and 1, and parameters with the
    role `dora_scale` or `vector`, get plain signs.

    Args:
        seed: an integer, default 0. The noise is a hash of seed, step, parameter and element.

    Raises: OptionError: a value out of range.
    Source: adv_optm, where an element of 0 gets a sign at random.

    >>> gradchain.recipe("lion").replace("sign", gradchain.stochastic_sign()).names[:2]
    ('lion_interpolate', 'stochastic_sign')
    """

    source = ADV_OPTM

    seed: int = static(default=0)

    def update(self, update: Update, ctx: Context) -> Yields:
        if len(ctx.shape) < 2 or ctx.numel == 0 or ctx.role in ("dora_scale", "vector"):
            return update.replace(value=update.value.sign())
        y = wide(update.value).flatten(1)
        y = y / y.abs().amax(1, keepdim=True).clamp(min=_TINY)
        t = yield tensor_partials_max(columns=y.abs().amax(0) if len(y) else y.new_zeros(y.shape[1]))
        y = (y / t.columns.to(y.dtype).clamp(min=_TINY)).view(update.value.shape)
        xi = (ctx.random_bits(seed=self.seed) >> 8).to(y.dtype) / 2**23  # 24 bits: in float32 never rounded up to 1
        return update.replace(value=torch.where(y == 0, y, (y + xi).sign()))


class freeze_on_flip(Stage):
    r"""Zero the elements whose sign has changed since the last step.

    $$b_t = [z_t > 0], \qquad u \leftarrow u \odot [b_t = b_{t-1}], \qquad b_0 = [g_1 > 0]$$

    An element is frozen for one step, unless it flips again. 0 counts as negative; $g_1$ is the raw gradient.

    Args:
        watch: what $z$ is: `"direction"` (default), the direction itself, or `"momentum"`, the `exp_avg` or
            `momentum_buffer` of a stage before. Lion's direction and its momentum do not flip at the same time.

    The slot `prev_sign` of `"direction"` takes one bit an element: $b$, packed by rows. `"momentum"` has no slot.

    Raises: OptionError: a value out of range; ChainError: `watch="momentum"`, and no stage before it has a momentum.
    Source: adv_optm, whose dense Freeze-on-Flip watches the direction, and the factored one the momentum.

    >>> gradchain.recipe("lion").insert_before("sign", gradchain.freeze_on_flip()).names[:3]
    ('lion_interpolate', 'freeze_on_flip', 'sign')
    """

    scale = "any"
    source = ADV_OPTM

    watch: str = static(default="direction", choices=("direction", "momentum"))

    @property
    def reads(self) -> tuple[Read, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(earlier(slot, optional=True) for slot in MOMENTA) if self.watch == "momentum" else ()

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        owned = {slot for stage in before for slot in stage.known_slots}
        if self.watch == "momentum" and not owned & set(MOMENTA):
            raise ChainError(
                f"{self.address} watches the signs of a momentum, and no stage before it owns 'exp_avg' or "
                f"'momentum_buffer'. Put first_moment(...) before {self.address}, or pass watch='direction'."
            )

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if self.watch == "momentum":
            return {}
        rows, columns = (1, p.numel) if p.ndim < 2 else (p.shape[0], p.shape[1:].numel())
        dtype, words = words_of(columns)
        return {"prev_sign": Slot(0, shape=(rows, words), per_row=p.ndim > 1, dtype=dtype)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"first": where(step == 1, 1.0, 0.0)}

    def update(self, update: Update, ctx: Context) -> Yields:
        if ctx.numel == 0:
            return update, {}
        if self.watch == "momentum":
            slot = "momentum_buffer" if ctx.read_or("exp_avg", None) is None else "exp_avg"
            now, before, kept = ctx.read(slot) > 0, ctx.previous(slot) > 0, {}
        else:
            now = update.value > 0
            before, words = yield from _exchanged(ctx.read("prev_sign"), now, ctx.shard)
            kept = {"prev_sign": words}
        before = where(ctx["first"] > 0, ctx.gradient > 0, before)
        ctx.observe("frozen", lambda: now != before)
        return update.replace(value=torch.where(now == before, update.value, torch.zeros_like(update.value))), kept


def _exchanged(
    words: torch.Tensor, now: torch.Tensor, shard: Shard
) -> Generator[Request, Totals, tuple[torch.Tensor, torch.Tensor]]:
    """Unpack the signs in `words` and pack those of this step, by rows. A vector is one row."""
    if len(shard.shape) < 2:
        size = shard.shape.numel()
        t = yield tensor_partials(words=pack_vector(now, shard, size))
        return unpack_vector(words, shard, size), t.words
    return unpack(words, shard.row_numel).view(shard.here), pack(now.reshape(shard.rows, shard.row_numel))


class projected_adaptivity(Stage):
    r"""Signs at the average size of the direction: the steepest descent under a bound on each element.

    $$u \leftarrow \operatorname{sign}(u) \odot \ell$$

    The decays that follow are multiplied by $\ell$ too. With $\lvert u\rvert$ as a matrix (first axis by all others), $r$
    the means of its rows, $c$ those of its columns and $\mu$ the mean of all:

    | `norm` | $\ell$ |
    |---|---|
    | `"total"` | $\lVert u\rVert_1$, the sum of all elements |
    | `"mean"` | $\mu$ |
    | `"row"` | $r$ |
    | `"auto"` | $r c^\top / \mu$, unless the role says otherwise |
    | `"auto_squared"` | as `"auto"`, but $r c^\top$, which has the unit of $u^2$: as published |

    Under the last two, `lora_A` and `oft` take $r$, `lora_B` takes $c$; under `"auto"`, `dora_scale` and `vector` take
    $\mu$. Under the last three, tensors of rank 0 and 1 take $\mu$.

    Args:
        norm: one of these, default `"mean"`.

    Raises: OptionError: a value out of range.
    Source: adv_optm, `l1_adaptive`.

    >>> gradchain.recipe("lion").replace("sign", gradchain.projected_adaptivity("auto")).names[:2]
    ('lion_interpolate', 'projected_adaptivity')
    """

    source = ADV_OPTM

    norm: str = static(default="mean", choices=("total", "mean", "row", "auto", "auto_squared"))

    def update(self, update: Update, ctx: Context) -> Yields:
        u = wide(update.value)
        size = (yield from self._size(u.abs(), ctx)).to(u.dtype)
        return update.replace(value=u.sign() * size).weigh_decay(size)

    def _size(self, sizes: torch.Tensor, ctx: Context) -> Generator[Request, Totals, torch.Tensor]:
        """The factor of all signs, or of those of each row or column."""
        kind = self._kind(ctx)
        if kind in ("total", "mean"):
            t = yield whole_tensor(sizes=sizes)
            return t.sizes / (max(ctx.numel, 1) if kind == "mean" else 1)
        matrix = sizes.flatten(1)
        rows = matrix.sum(1, keepdim=True) / max(matrix.shape[1], 1)
        if kind == "row":
            return rows.view(len(rows), *[1] * (sizes.ndim - 1))
        t = yield tensor_partials(columns=matrix.sum(0, dtype=torch.float64))
        columns = t.columns / max(ctx.shape[0], 1)
        if kind == "column":
            return columns.view(1, *sizes.shape[1:])
        if self.norm == "auto":
            columns = columns / nonzero(columns.sum() / max(matrix.shape[1], 1))
        return finite(rows * columns.to(rows.dtype)).view(sizes.shape)

    def _kind(self, ctx: Context) -> str:
        if self.norm in ("total", "mean"):
            return self.norm
        if len(ctx.shape) < 2:
            return "mean"
        if self.norm == "row":
            return "row"
        kinds = {"lora_A": "row", "oft": "row", "lora_B": "column"}
        if self.norm == "auto":  # published: matrices like others
            kinds |= {"dora_scale": "mean", "vector": "mean"}
        return kinds.get(ctx.role or "", "outer")


class snr_precondition(Stage):
    r"""Damp the mean sign by its spread: small where signs are random.

    $$E = \sqrt{\max(1 - m_{t-1}^2,\, 10^{-30})}, \qquad u \leftarrow a \operatorname{atan2}(u, E)$$

    $m_{t-1}$ is the `exp_avg` of a stage before, as it was after the last step. A number that is 1 or -1 with mean $m$ has
    the variance $1 - m^2$.

    With `by="row_column"`, matrices (first axis by all others) have one spread for each row and for each column. It suits an
    average of directions whose rows and columns have the root mean square 1, as `sinkhorn` makes them:

    $$R_i = \max(1 - \operatorname{mean}_j m_{ij}^2,\, 10^{-30}), \quad C_j = \max(1 - \operatorname{mean}_i m_{ij}^2,\,
    10^{-30}), \qquad u_{ij} \leftarrow a \arctan\frac{u_{ij}}{\sqrt{R_i C_j}}$$

    Vectors (less than two axes, or role `vector` or `dora_scale`) stay with the first formula.

    Args:
        a: $> 0$, default $4/\pi$.
        by: `"element"` (default) or `"row_column"`.

    Raises: OptionError: a value out of range; ChainError: no stage before it owns `exp_avg`.
    Source: adv_optm, `snr_cond`, of SignSGD_adv and, by rows and columns, of SinkSGD_adv.

    >>> average = first_moment(0.9, bias_correction=False)
    >>> gradchain.chain(sign(), average, snr_precondition(), scale_by_learning_rate(1e-4)).names[2]
    'snr_precondition'
    """

    reads = (earlier("exp_avg"),)
    source = ADV_OPTM

    a: float = hyper(default=4 / math.pi, gt=0)
    by: str = static(default="element", choices=BY)

    def update(self, update: Update, ctx: Context) -> Update | Yields:
        u, m = wide(update.value), wide(ctx.previous("exp_avg"))
        if self.by == "row_column" and is_matrix(ctx.shape, ctx.role):
            return self._by_lines(update, u, m, ctx)
        E = (1 - m * m).clamp(min=1e-30).sqrt()
        return update.replace(value=self.a * arctangent(u, E))

    def _by_lines(self, update: Update, u: torch.Tensor, m: torch.Tensor, ctx: Context) -> Yields:
        rows, columns = yield from spreads(m, ctx.shape)
        return update.replace(value=self.a * torch.atan(u / (rows * columns)))

"""Replace a matrix by the nearest orthogonal one."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.stage import Stage, Yields
from gradchain._core.fields import DTYPES, static
from gradchain._core.matrices import whole_matrix
from gradchain._core.update import Update
from gradchain.errors import OptionError, shown
from gradchain.transforms.polar import METHODS, QUINTIC, Blocks, Polar, Sketched, is_number, only_tuples
from gradchain.transforms.power_iteration import gaussian


class orthogonalize(Stage):
    r"""Set all singular values of a matrix to about 1: its polar factor, which steps equally far in all directions.

    $$M = U \Sigma V^\top \quad\to\quad U V^\top$$

    by Newton-Schulz iterations on $X = M / \max(\lVert M\rVert_F, \epsilon)$, transposed where it has more rows than
    columns: $X \leftarrow aX + (bA + cA^2)X$ with $A = XX^\top$. A tensor of more than two axes is a matrix of its first
    axis against the rest: a convolution's output channels against what each of them sees. With role `qkv` the rows are
    three matrices, with `qkv_columns` the columns are, and with role `experts` each slice along the first axis is one.

    Sharded, a matrix is put together in the process that owns it: two all-to-alls a step for all matrices together, and
    the result is that of one process. With `local`, each process orthogonalises the rows that it has: nothing is sent, and
    the result depends on the number of processes.

    Args:
        method: `"quintic"`; `"polar_express"`: the best polynomial for each step; `"gram"`: quintic on $XX^\top$, fewer
            operations for long matrices, in `"fp32"` at least; `"cans"`: the best cubics, two products a step instead of
            three; `"svd"`: exact.
        steps: iterations, an integer of 1 or more, default 5.
        coefficients: $a, b, c$ of the quintic, default (3.4445, -4.7750, 2.0315).
        eps: $\epsilon \ge 0$, default 1e-7; `None`: $1/\sqrt{mn}$.
        precision: in which it is computed: `"bf16"` (default), `"fp32"`, `"fp64"`, or `None` for the direction's own.
        bound: for `"cans"`: the least singular value of $X$ to reckon with; `None` (default): a guess by the shape.
        rank: orthogonalise in the span of so many random combinations of the columns, new ones at each step: $Q$ from
            $MS = QR$ with a Gaussian $S$, then $M \to Q \operatorname{polar}(Q^\top M)$. `None` (default): all of it.
        blocks: for each role, into how many matrices its rows are divided, one above the other; of a role that ends in
            `_columns` the columns, side by side.
        local: orthogonalise the rows in each process by themselves.
        seed: an integer, default 0, of the random combinations.

    Raises: OptionError: a value out of range, or a parameter that is no matrix. Send vectors through another branch of a
        `partition`.
    Source: Jordan et al. (2024), Muon; Bernstein & Newhouse (2024), arXiv:2409.20325; Amsel et al. (2025), Polar Express,
        arXiv:2505.16932; Grishina et al. (2025), CANS, arXiv:2506.10935.

    >>> chain = gradchain.chain(gradchain.orthogonalize("svd"), gradchain.scale_by_learning_rate(1.0))
    >>> updates, _ = chain.update(torch.diag(torch.tensor([3.0, -0.1])), chain.init(torch.eye(2)), torch.eye(2))
    >>> updates + 0.0  # no negative zeros
    tensor([[-1.,  0.],
            [ 0.,  1.]])
    """

    source = "Muon, kellerjordan.github.io/posts/muon; arXiv:2409.20325"

    method: str = static(default="quintic", choices=tuple(METHODS))
    steps: int = static(default=5, ge=1)
    coefficients: tuple[float, float, float] = static(default=QUINTIC, convert=only_tuples)
    eps: float | None = static(default=1e-7)
    precision: str | None = static(default="bf16", choices=("bf16", "fp32", "fp64", None))
    bound: float | None = static(default=None, when="method=cans")
    rank: int | None = static(default=None)
    blocks: tuple[tuple[str, int], ...] = static(default=(("qkv", 3), ("qkv_columns", 3)), convert=only_tuples)
    local: bool = static(default=False, inert="one process has all rows")
    seed: int = static(default=0, when="rank")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers(self)

    @property
    def polar(self) -> Polar:
        """The function of a matrix."""
        dtype = None if self.precision is None else DTYPES[self.precision]
        return Polar(self.method, self.steps, self.coefficients, self.eps, dtype, self.bound)

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if p.ndim < (3 if p.role == "experts" else 2):
            raise OptionError(
                f"{self.address} takes matrices, and got a parameter of shape {tuple(p.shape)}, role {p.role!r}. Send it "
                "through another branch: partition({'matrix': [...], 'other': [...]}, 'hidden_matrices')."
            )
        parts, side_by_side = self._parts(p.role)
        lines, what = (p.shape[1:].numel(), "columns") if side_by_side else (p.shape[0], "rows")
        if lines % parts:
            raise OptionError(
                f"{self.address}: role {p.role!r} stands for {parts} matrices of one size, and the shape "
                f"{tuple(p.shape)} has {lines} {what}. Give it another role, or other `blocks`."
            )
        return {}

    def _parts(self, role: str | None) -> tuple[int, bool]:
        """How many matrices a parameter holds, and whether they stand side by side."""
        return dict(self.blocks).get(role or "", 1), (role or "").endswith("_columns")

    def update(self, update: Update, ctx: Context) -> Yields:
        x = update.value
        if ctx.role == "experts":  # each is whole wherever it is
            return update.replace(value=self.polar(x.flatten(2)).view(x.shape))
        local = self.local and ctx.shard.apart
        matrix, function = x.flatten(1), Blocks(self.polar, *self._parts(ctx.role))
        if self.rank is None:
            matrix = matrix.to(self.polar.precision)  # less to send, and what the function would do first
            near = function(matrix) if local else (yield whole_matrix(matrix, function=function, batched=True))
            return update.replace(value=near.view(x.shape).to(x.dtype))
        sketch = self.sketch(ctx, matrix.shape[1], min(self.rank, matrix.shape[1], ctx.shape[0])).to(matrix.dtype)
        if local:
            near, _ = Sketched(function)(matrix, sketch)
        else:
            near, _ = yield whole_matrix(matrix, function=Sketched(function), same=(sketch,), batched=True)
        return update.replace(value=near.view(x.shape))

    def sketch(self, ctx: Context, columns: int, rank: int) -> torch.Tensor:
        """Draw the random combinations of the columns. Returns: a normal matrix, columns x rank."""
        like = ctx.stored_param.new_empty((columns, rank), dtype=torch.float32)
        return gaussian(*(ctx.random_bits(part, self.seed, like=like) for part in ("radius", "angle")))


def _check_numbers(stage: orthogonalize) -> None:
    where = stage.address
    given: Any = stage.coefficients
    if not isinstance(given, tuple) or len(given) != 3 or not all(map(is_number, given)):  # pyright: ignore
        raise OptionError(f"{where}.coefficients = {shown(given)}: pass three numbers.")
    if stage.eps is not None and not (is_number(stage.eps) and 0 <= stage.eps < math.inf):
        raise OptionError(f"{where}.eps = {shown(stage.eps)}: pass a finite number of 0 or more, or None.")
    if stage.bound is not None and not (is_number(stage.bound) and 0 < stage.bound <= 1):
        raise OptionError(f"{where}.bound = {shown(stage.bound)}: pass a number in (0, 1], or None.")
    if stage.rank is not None and not (is_number(stage.rank, int) and stage.rank >= 1):
        raise OptionError(f"{where}.rank = {shown(stage.rank)}: pass an integer of 1 or more, or None.")
    pairs: Any = stage.blocks
    fits = isinstance(pairs, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs)  # pyright: ignore
    if not fits or not all(isinstance(role, str) and is_number(parts, int) and parts >= 1 for role, parts in pairs):
        raise OptionError(f"{where}.blocks = {shown(pairs)}: pass pairs of a role and a number, such as (('qkv', 3),).")
    if stage.method == "gram" and stage.precision == "bf16":
        raise OptionError(
            f"{where}.precision = 'bf16' (the default) with method = 'gram': the powers of a matrix of low rank grow "
            "without bound in it. Pass precision='fp32'."
        )
    if stage.method not in ("quintic", "gram") and stage.coefficients != QUINTIC:
        raise OptionError(f"{where}.coefficients has no effect with method = {stage.method!r}. Leave it out.")

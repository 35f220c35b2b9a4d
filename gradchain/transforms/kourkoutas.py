"""Kourkoutas-beta: a second moment that forgets faster when gradients spike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import needs_reader
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import follow, hyper, static
from gradchain._core.reduce import labelled
from gradchain._core.update import Update
from gradchain.errors import OptionError
from gradchain.ops import ema, narrowed, root, where, wide
from gradchain.transforms.adapters import ADAPTERS, ranks_of, shape_of, sums


class kourkoutas_beta(Stage):
    r"""Provide the second moment's decay rate: low after a gradient that was large for its layer.

    With $\nu$ the norm of the layer's gradient in the last step (0 at first) and $\tau = t - 1$:

    $$\rho \leftarrow \alpha\rho + (1-\alpha)\,\nu, \qquad r = \frac{\nu}{\rho + \epsilon}, \qquad
    \beta_2^\star = \beta_{\max} - (\beta_{\max} - \beta_{\min})\,\frac{r}{1 + r}$$

    $$\beta_2 = (1 - w)\,\beta_{\max} + w\,\beta_2^\star, \qquad
    w = \begin{cases} \min(1, \tau / k) & \text{linear} \\ [\tau \ge k] & \text{switch} \end{cases}$$

    $\beta_{\max}$ is the chain's `betas[1]`, which bias corrections use. The gradient passes unchanged; a later
    `second_moment` or `adopt` averages with $\beta_2$.

    Args:
        beta2_min: $\beta_{\min} \in [0, 1)$, default 0.9, below `betas[1]`.
        ema_alpha: $\alpha \in [0, 1)$, default 0.95.
        tiny_spike: $\epsilon > 0$, default 1e-9.
        k_warmup_steps: $k \ge 0$, default 0: steps until $\beta_2^\star$ fully applies.
        warm_in: `"linear"` (default) or `"switch"`.
        layers: what a layer is: all parameters of one `"shape"` (default), of one `"role"` (a label of your own, such as
            the name of the block), or each `"tensor"`. A parameter with the role `lora_A`, `lora_B` or `oft` has a
            $\beta_2$ for each of its ranks or blocks, one with the role `dora_scale` one of its own.

    Slots: `beta2` (this step's $\beta_2$), `grad_ema` ($\rho$) and `grad_sq` ($\nu^2$ of this step, for the next), zeros at
    first. One number each; of shape (ranks, 1, ...) for `lora_A` and `oft`, (1, ranks, ...) for `lora_B`; in float32 at
    least.
    Raises: OptionError: a value out of range, or `beta2_min` >= `betas[1]`; ChainError: no later stage reads `beta2`.
    Source: Kassinos (2025), Kourkoutas-beta, arXiv:2508.12996; adv_optm 2.5 (linear) and 1.1 to 2.4 (switch).

    >>> chain = gradchain.recipe("adamw").insert_before("second_moment", gradchain.kourkoutas_beta())
    >>> chain.names[:3]
    ('first_moment', 'kourkoutas_beta', 'second_moment')
    """

    scale = "any"
    source = "Kourkoutas-beta, arXiv:2508.12996"

    beta2_min: float = hyper(default=0.9, ge=0, lt=1)
    ema_alpha: float = hyper(default=0.95, ge=0, lt=1)
    tiny_spike: float = hyper(default=1e-9, gt=0)
    k_warmup_steps: float = hyper(default=0, ge=0)
    warm_in: str = static(default="linear", choices=("linear", "switch"))
    layers: str = static(default="shape", choices=("shape", "tensor", "role"))
    beta2_max: float | None = follow("betas[1]")

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        part, dtype = ranks_of(p.role, p.ndim), torch.promote_types(p.dtype, torch.float32)
        slot = Slot(shape=shape_of(part, p.shape), per_row=part == "rows", dtype=dtype, nonnegative=True)
        return dict.fromkeys(("beta2", "grad_ema", "grad_sq"), slot)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        needs_reader(self, after, "beta2")

    def resolve(self, values: dict[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
        low, high = values["beta2_min"], values["beta2_max"]
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and high <= low:
            raise OptionError(
                f"{self.address}.beta2_min = {low!r} is not below betas[1] = {high!r}: beta2 moves between the two. Pass a "
                "smaller beta2_min, or a larger betas[1]."
            )
        return values

    def scalars(self, step: Number) -> dict[str, Number]:
        k, waited = self.k_warmup_steps, step - 1
        ramp = waited / where(k == 0, 1.0, k) if self.warm_in == "linear" else 0.0
        return {"w": where(waited >= k, 1.0, ramp)}

    def update(self, update: Update, ctx: Context) -> Yields:
        nu = root(ctx.read("grad_sq", storage_dtype=True))
        rho = ema(ctx.read("grad_ema", storage_dtype=True), nu, self.ema_alpha)
        r = nu / (rho + self.tiny_spike)
        assert self.beta2_max is not None
        beta2 = self.beta2_max - ctx["w"] * (self.beta2_max - self.beta2_min) * (r / (1 + r))
        ctx.observe("beta2", lambda: beta2)
        g = wide(update.gradient)
        if self.layers != "tensor" and ctx.role not in ADAPTERS:
            layer = f"shape {tuple(ctx.shape)}" if self.layers == "shape" else f"role {ctx.role}"
            t = yield labelled(layer, gg=g * g)
        else:
            t = yield from sums(ranks_of(ctx.role, g.ndim), gg=g * g)
        slots = {"beta2": beta2, "grad_ema": rho, "grad_sq": narrowed(t.gg, nu.dtype)}
        return update, {slot: value.to(nu.dtype) for slot, value in slots.items()}

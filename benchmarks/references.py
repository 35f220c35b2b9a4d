"""Rose and GYRO one tensor at a time and uncompiled, as their published code is structured; written from the formulas.

They are what a chain is compared with where no package exists, and in the tests they agree with our recipes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class Unfused(torch.optim.Optimizer):
    """Steps each parameter that has a gradient by `update`, in order."""

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the references take no closure"
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(param, param.grad, group)

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} defines no update")


class MuonAndAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the hidden matrices and the fused `torch.optim.AdamW` for all else, one after the other."""

    def __init__(self, params: Sequence[Tensor], tables: int, muon: dict[str, Any], adamw: dict[str, Any]) -> None:
        super().__init__(params, {})
        hidden = [param for param in params[tables:] if param.ndim == 2]
        others = [param for param in params if not any(param is matrix for matrix in hidden)]
        self.inner = (torch.optim.Muon(hidden, **muon), torch.optim.AdamW(others, fused=True, **adamw))

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for optimizer in self.inner:
            optimizer.step()
            self.state.update(optimizer.state)


class Rose(Unfused):
    """Rose 1.0.0: promoted, decayed, centralized, divided by the gated range, written back."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float = 1e-4, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, dtype=dtype)

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        g, p = grad.to(group["dtype"]), param.to(group["dtype"])
        p.mul_(max(0.0, 1 - group["lr"] * group["weight_decay"]))
        if g.numel() == 1:
            divisor = g.abs() + torch.finfo(g.dtype).resolution ** (1 / 3)
        elif g.numel() == g.shape[0]:
            divisor = g.amax() - g.amin() + 1
        else:
            axes = tuple(range(1, g.ndim))
            g = g - g.mean(dim=axes, keepdim=True)
            divisor = _trusted(g.amax(dim=axes, keepdim=True) - g.amin(dim=axes, keepdim=True))
        p.addcdiv_(g, divisor.expand_as(g), value=-group["lr"])
        if p is not param:
            param.copy_(p)


def _trusted(ranges: Tensor) -> Tensor:
    """Ranges pulled towards their mean where they vary much."""
    mean, spread = ranges.mean(), ranges.std(unbiased=False)
    whole = mean + spread
    gated = torch.lerp(mean, ranges, mean / torch.where(mean == 0, torch.ones_like(whole), whole))
    return torch.where(gated == 0, torch.ones_like(gated), gated)


def turned(grad: Tensor, average: Tensor, active: bool, theta: float, factor: float, eps: float) -> Tensor:
    """GYRO's projection: a gradient against its average loses that part and keeps its length."""
    g, m = grad.float(), average.float()
    length, size = g.norm().item(), m.norm().item()
    if not (length > eps and size > eps):
        return grad
    dot = (g * m).sum().item()
    if not (active and dot / (length * size) < -theta):
        return grad
    rest = g - factor * dot / size**2 * m
    left = rest.norm().item()
    return (rest * (length / left)).to(grad.dtype) if left > eps else grad


class GyroAdam(Unfused):
    """GYRO-Adam 0.1.3: the gradient turned, then AdamW."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        theta_base: float = 0.0,
        proj_factor: float = 1.0,
        warmup_steps: int | None = None,
    ) -> None:
        warmup = round(1 / (1 - betas[1])) if warmup_steps is None else warmup_steps
        options = {"theta_base": theta_base, "proj_factor": proj_factor, "warmup_steps": warmup}
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, eps = self.state[param], group["eps"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        (beta1, beta2), lr = group["betas"], group["lr"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        active = state["step"] > group["warmup_steps"]
        g = turned(grad, m, active, group["theta_base"], group["proj_factor"], eps)
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["weight_decay"] != 0:
            param.mul_(1 - lr * group["weight_decay"])
        correction = math.sqrt(1 - beta2 ** state["step"])
        denominator = v.sqrt().add_(eps * correction)
        param.addcdiv_(m, denominator, value=-lr * correction / (1 - beta1 ** state["step"]))


class GyroSGD(Unfused):
    """GYRO-SGD 0.1.3: the gradient turned against an average that only detects."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        *,
        theta_base: float = 0.0,
        proj_factor: float = 1.0,
        warmup_steps: int | None = None,
        eps: float = 1e-8,
    ) -> None:
        warmup = round(1 / (1 - momentum)) if warmup_steps is None else warmup_steps
        options = {"theta_base": theta_base, "proj_factor": proj_factor, "warmup_steps": warmup, "eps": eps}
        super().__init__(params, lr=lr, momentum=momentum, **options)

    def update(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(grad))
        state["step"] += 1
        active = state["step"] > group["warmup_steps"]
        g = turned(grad, state["exp_avg"], active, group["theta_base"], group["proj_factor"], group["eps"])
        state["exp_avg"].mul_(group["momentum"]).add_(g, alpha=1 - group["momentum"])
        param.add_(g, alpha=-group["lr"])

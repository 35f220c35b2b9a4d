"""The recipes once more, in float64 numpy, written from the specification's formulas and not from our code.

An oracle holds its options; `step(theta, g, state, lr)` returns the new parameter and updates `state`, a dict that is
empty before the first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = dict[str, Any]

FLOOR_FP64 = 1e-15 ** (1 / 3)


def norm(x: Array) -> float:
    return math.sqrt(float(np.sum(x * x)))


@dataclass
class Rose:
    """Specification 1.3, 1.4 and 2 (release 1.0.0); `revised` takes the shape rules of 3 (release 1.0.2)."""

    weight_decay: float | None = 1e-4
    wd_schedule: bool | float = False
    centralize: bool = True
    stabilize: bool = True
    revised: bool = False
    reference_lr: float | None = None  # what `wd_schedule=True` finds: the lr that the optimizer was built with

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        return self._decay_factor(lr) * theta - lr * self._direction(g)

    def _decay_factor(self, lr: float) -> float:
        if not self.weight_decay:
            return 1.0
        kappa = lr
        if self.wd_schedule:
            reference = self.reference_lr if self.wd_schedule is True else float(self.wd_schedule)
            assert reference is not None
            kappa = lr / reference
        return max(0.0, 1 - kappa * self.weight_decay)

    def _direction(self, g: Array) -> Array:
        if self.revised:
            if g.ndim == 0:
                return np.sign(g)
            if g.ndim == 1:
                return g / _or_one(abs(g.max()) - g.min())
            return self._matrix(g)
        if g.size == 1:
            return g / (np.abs(g) + FLOOR_FP64)
        if g.size == g.shape[0]:
            return g / (g.max() - g.min() + 1)
        return self._matrix(g)

    def _matrix(self, g: Array) -> Array:
        axes = tuple(range(1, g.ndim))
        if self.centralize:
            g = g - g.mean(axis=axes, keepdims=True)
        high, low = g.max(axis=axes, keepdims=True), g.min(axis=axes, keepdims=True)
        ranges = (np.abs(high) if self.revised else high) - low
        if self.stabilize:
            mu, sigma = ranges.mean(), math.sqrt(np.mean((ranges - ranges.mean()) ** 2))
            tau = mu / _or_one(mu + sigma)
            ranges = mu + tau * (ranges - mu)
        return g / np.where(ranges == 0, 1.0, ranges)


def _or_one(divisor: Any) -> float:
    return float(divisor) if divisor != 0 else 1.0


@dataclass
class Projection:
    """Specification 4. `residual_rtol` is the fix of quirk G1; the published code has 0."""

    theta_base: float = 0.0
    proj_factor: float = 1.0
    warmup_steps: int = 0
    eps: float = 1e-8
    residual_rtol: float = 0.0

    def apply(self, g: Array, m: Array, t: int) -> Array:
        n_g, n_m = norm(g), norm(m)
        if not (n_g > self.eps and n_m > self.eps) or t <= self.warmup_steps:
            return g
        d = float(np.sum(g * m))
        if not d / (n_g * n_m) < -self.theta_base:
            return g
        r = g - self.proj_factor * (d / n_m**2) * m
        if not (norm(r) > self.eps and norm(r) > self.residual_rtol * n_g):
            return g
        return r * (n_g / norm(r))


@dataclass
class GyroAdam:
    """Specification 4.1."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    theta_base: float = 0.0
    proj_factor: float = 1.0
    warmup_steps: int | None = None
    residual_rtol: float = 0.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        b1, b2 = self.betas
        t = state["t"] = state.get("t", 0) + 1
        m, v = state.get("m", np.zeros_like(theta)), state.get("v", np.zeros_like(theta))
        warmup = round(1 / (1 - b2)) if self.warmup_steps is None else self.warmup_steps
        g = Projection(self.theta_base, self.proj_factor, warmup, self.eps, self.residual_rtol).apply(g, m, t)
        m = state["m"] = b1 * m + (1 - b1) * g
        v = state["v"] = b2 * v + (1 - b2) * g * g
        root = math.sqrt(1 - b2**t)
        theta = theta * (1 - lr * self.weight_decay)
        return theta - lr * (root / (1 - b1**t)) * m / (np.sqrt(v) + self.eps * root)


@dataclass
class GyroSGD:
    """Specification 4.2."""

    momentum: float = 0.9
    theta_base: float = 0.0
    proj_factor: float = 1.0
    warmup_steps: int | None = None
    eps: float = 1e-8
    residual_rtol: float = 0.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        t = state["t"] = state.get("t", 0) + 1
        m = state.get("m", np.zeros_like(theta))
        warmup = round(1 / (1 - self.momentum)) if self.warmup_steps is None else self.warmup_steps
        g = Projection(self.theta_base, self.proj_factor, warmup, self.eps, self.residual_rtol).apply(g, m, t)
        state["m"] = self.momentum * m + (1 - self.momentum) * g
        return theta - lr * g


@dataclass
class Adams:
    """Specification 5.3, with bias corrections in double (A13). The last three options are our departures."""

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    scalar_vector_weight_decay: float = 0.1
    hat_inside: bool = False
    independent_vector_decay: bool = False
    restart: bool = False

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        b1, b2 = self.betas
        t = state["t"] = state.get("t", 0) + 1
        decayed = self._decayed(theta, state, lr)
        m, n = state.get("m", np.zeros_like(theta)), state.get("n", np.zeros_like(theta))
        m = state["m"] = m + (1 - b1) * (g - m)
        n = state["n"] = b2 * n + (1 - b2) * g * g
        c1, root2 = 1 - b1**t, math.sqrt(1 - b2**t)
        if self.hat_inside:
            return decayed - lr * np.arctan2(m / c1, np.sqrt(n) / root2)
        return decayed - lr / c1 * np.arctan2(m, np.sqrt(n) / root2)

    def _decayed(self, theta: Array, state: State, lr: float) -> Array:
        spectral = theta.ndim >= 2 and theta.shape[-1] != 1 and theta.shape[-2] != 1
        if not spectral:
            on = self.weight_decay != 0 or self.independent_vector_decay
            return theta * (1 - lr * self.scalar_vector_weight_decay) if on else theta
        if self.weight_decay == 0:
            return theta
        u = state.get("u", np.ones(theta.shape[:-1]))
        rows = theta.shape[-2]
        result = np.empty_like(theta)
        new_u = np.empty_like(u)
        for index in np.ndindex(theta.shape[:-2]):
            W, start = theta[index], u[index]
            if self.restart and not start.any():
                start = np.ones_like(start)
            v = W.T @ start
            v = v / max(norm(v), 1e-12)
            q = W @ v
            new_u[index] = q / max(norm(q), 1e-12)
            s = float(new_u[index] @ q)
            result[index] = W - math.sqrt(rows) * lr * self.weight_decay * s * np.outer(new_u[index], v)
        state["u"] = new_u
        return result


@dataclass
class AdamW:
    """Loshchilov & Hutter, algorithm 2; Reddi et al., algorithm 2, with the bias corrected after the maximum."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        m_hat, v_hat = _adam_moments(theta, g, state, self.betas)
        if self.amsgrad:
            most = state["most"] = np.maximum(state.get("most", 0.0), state["v"])
            v_hat = most / (1 - self.betas[1] ** state["t"])
        return theta - lr * (m_hat / (np.sqrt(v_hat) + self.eps) + self.weight_decay * theta)


@dataclass
class AdamAtan2:
    """Everett et al., section 4: the quotient replaced by `a * atan2(m, b * sqrt(v))`."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    a: float = 1.27
    b: float = 1.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        m_hat, v_hat = _adam_moments(theta, g, state, self.betas)
        return theta - lr * (self.a * np.arctan2(m_hat, self.b * np.sqrt(v_hat)) + self.weight_decay * theta)


def _adam_moments(theta: Array, g: Array, state: State, betas: tuple[float, float]) -> tuple[Array, Array]:
    b1, b2 = betas
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = b1 * state.get("m", np.zeros_like(theta)) + (1 - b1) * g
    v = state["v"] = b2 * state.get("v", np.zeros_like(theta)) + (1 - b2) * g * g
    return m / (1 - b1**t), v / (1 - b2**t)


@dataclass
class SGD:
    """As the algorithm box of torch.optim.SGD: the first buffer is the gradient itself, without dampening."""

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        g = g + self.weight_decay * theta
        if self.momentum == 0:
            return theta - lr * g
        b = self.momentum * state["b"] + (1 - self.dampening) * g if "b" in state else g
        state["b"] = b
        return theta - lr * (g + self.momentum * b if self.nesterov else b)


@dataclass
class Lion:
    """Chen et al., algorithm 2."""

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        m = state.get("m", np.zeros_like(theta))
        c = self.betas[0] * m + (1 - self.betas[0]) * g
        state["m"] = self.betas[1] * m + (1 - self.betas[1]) * g
        return theta - lr * (np.sign(c) + self.weight_decay * theta)


@dataclass
class RAdam:
    """As the algorithm box of torch.optim.RAdam."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        theta, g = _decayed(theta, g, lr, self)
        m_hat, _ = _adam_moments(theta, g, state, self.betas)
        b2, t = self.betas[1], state["t"]
        rho_inf = 2 / (1 - b2) - 1
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        if rho <= 5:
            return theta - lr * m_hat
        length = math.sqrt(1 - b2**t) / (np.sqrt(state["v"]) + self.eps)
        r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return theta - lr * m_hat * r * length


@dataclass
class NAdam:
    """As the algorithm box of torch.optim.NAdam; the product of the rates is a float32 there."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        theta, g = _decayed(theta, g, lr, self)
        _, v_hat = _adam_moments(theta, g, state, self.betas)
        mu, following = (
            self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay)) for t in (state["t"], state["t"] + 1)
        )
        state["P"] = np.float32(state.get("P", 1)) * np.float32(mu)
        product = float(state["P"])
        m_hat = following * state["m"] / (1 - product * following) + (1 - mu) * g / (1 - product)
        return theta - lr * m_hat / (np.sqrt(v_hat) + self.eps)


def _decayed(theta: Array, g: Array, lr: float, options: RAdam | NAdam) -> tuple[Array, Array]:
    """Parameter and gradient after the decay of either kind."""
    if options.decoupled_weight_decay:
        return theta - lr * options.weight_decay * theta, g
    return theta, g + options.weight_decay * theta


@dataclass
class MARS:
    """Yuan et al., algorithm 2 with the last gradient for that of this batch (MARS-approx), for AdamW."""

    betas: tuple[float, float] = (0.95, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    gamma: float = 0.025

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        b1 = self.betas[0]
        c = g + self.gamma * b1 / (1 - b1) * (g - state.get("last", g))
        state["last"] = g
        m_hat, v_hat = _adam_moments(theta, c / max(1.0, norm(c)), state, self.betas)
        return theta - lr * (m_hat / (np.sqrt(v_hat) + self.eps) + self.weight_decay * theta)


@dataclass
class AdaBelief:
    """Zhuang et al., algorithm 2, with decoupled decay."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-16
    weight_decay: float = 0.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        m_hat, _ = _adam_moments(theta, g, state, self.betas)
        b2 = self.betas[1]
        state["s"] = b2 * state.get("s", 0.0) + (1 - b2) * (g - state["m"]) ** 2 + self.eps
        s_hat = state["s"] / (1 - b2 ** state["t"])
        return theta - lr * (m_hat / (np.sqrt(s_hat) + self.eps) + self.weight_decay * theta)


@dataclass
class LaProp:
    """Ziyin et al., algorithm 1; the decay is of the parameter before the step."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-15
    weight_decay: float = 0.0

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        b1, b2 = self.betas
        t = state["t"] = state.get("t", 0) + 1
        n = state["n"] = b2 * state.get("n", 0.0) + (1 - b2) * g**2
        m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g / (np.sqrt(n / (1 - b2**t)) + self.eps)
        return theta - lr * (m / (1 - b1**t) + self.weight_decay * theta)


@dataclass
class StableAdamW:
    """Wortsman et al., algorithm 2, with the bias corrected where the paper changes the betas."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-6
    weight_decay: float = 1e-2

    def step(self, theta: Array, g: Array, state: State, lr: float) -> Array:
        m_hat, v_hat = _adam_moments(theta, g, state, self.betas)
        rms = math.sqrt(float(np.mean(g * g / np.maximum(v_hat, self.eps**2))))
        eta = lr / max(1.0, rms)
        return theta - eta * self.weight_decay * theta - eta * m_hat / (np.sqrt(v_hat) + self.eps)

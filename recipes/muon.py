"""Muon: momentum whose matrices are made orthogonal; AdamW for all else."""

from __future__ import annotations

from typing import Any

from gradchain import transforms as t
from gradchain._chain.chain import Chain, chain
from gradchain._chain.partition import partition
from gradchain._chain.recipes import register_recipe
from gradchain.errors import OptionError, shown
from gradchain.transforms.hidden import hidden_matrices
from gradchain.transforms.polar import QUINTIC

RULES = {None: "spectral", "original": "spectral", "match_rms_adamw": "rms"}
"""The rules that torch.optim.Muon calls by other names."""


@register_recipe("muon", source="Jordan et al. (2024), torch.optim.Muon")
def muon(
    lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = QUINTIC, eps: float = 1e-7, ns_steps: int = 5,
    adjust_lr_fn: str | None = None, *, method: str = "quintic",
    adam_lr_ratio: float = 1.0, adam_betas: tuple[float, float] = (0.9, 0.999), adam_eps: float = 1e-8,
    adam_weight_decay: float = 1e-2,
) -> Chain:  # fmt: skip
    """Muon for hidden matrices, AdamW for embeddings, heads, norms and biases, in one optimizer.

    Args:
        adjust_lr_fn: `"original"` (or `None`): steps that change a layer's output alike; `"match_rms_adamw"`: of the size of
            Adam's, so that its learning rate and decay fit.
        method: how matrices are made orthogonal; see `orthogonalize`.
        adam_lr_ratio: the learning rate of all else, in units of `lr`, so that schedules move both.
        adam_betas, adam_eps, adam_weight_decay: those of AdamW for all else.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    if adjust_lr_fn not in RULES:
        raise OptionError(f"adjust_lr_fn = {shown(adjust_lr_fn)}: pass 'original', 'match_rms_adamw' or None.")
    given: Any = {"coefficients": ns_coefficients} if method in ("quintic", "gram") else {}
    precision = precision_for(method)
    matrix: list[Any] = [
        t.first_moment(momentum, bias_correction=False).rename(beta="momentum"),
        nesterov and t.nesterov(),
        t.orthogonalize(method, ns_steps, eps=eps, precision=precision, **given),
        t.scale_by_shape(RULES[adjust_lr_fn]),
        t.decoupled_decay(weight_decay),
    ]
    other = adam(adam_betas, adam_eps, adam_weight_decay, adam_lr_ratio)
    return chain(
        partition({"matrix": matrix, "other": other}, hidden_matrices),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("normuon", source="NorMuon, arXiv:2510.05491")
def normuon(
    lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, beta2: float = 0.95, eps: float = 1e-8, *,
    ns_steps: int = 5, method: str = "quintic",
    adam_lr_ratio: float = 1.0, adam_betas: tuple[float, float] = (0.9, 0.999), adam_eps: float = 1e-8,
    adam_weight_decay: float = 1e-2,
) -> Chain:  # fmt: skip
    """NorMuon: Muon whose neurons step alike, as each row is divided by the root of its average mean square.

    Args:
        beta2, eps: decay rate of that average, and what is added to the root.
        ns_steps, method: how matrices are made orthogonal; see `orthogonalize`.
        adam_lr_ratio, adam_betas, adam_eps, adam_weight_decay: as in `muon`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    matrix: list[Any] = [
        t.first_moment(momentum, bias_correction=False).rename(beta="momentum"),
        t.nesterov(),
        t.orthogonalize(method, ns_steps, precision=precision_for(method)),
        t.row_second_moment(beta2),
        t.divide(eps),
        t.normalize_rms(),
        t.decoupled_decay(weight_decay),
    ]
    other = adam(adam_betas, adam_eps, adam_weight_decay, adam_lr_ratio)
    return chain(
        partition({"matrix": matrix, "other": other}, hidden_matrices),
        t.scale_by_learning_rate(lr),
    )


@register_recipe("scion", source="Scion, arXiv:2502.07529")
def scion(
    lr: float = 2**-12, momentum: float = 0.9, *, hidden_radius: float = 50.0, other_radius: float = 3000.0,
    constrained: bool = True, ns_steps: int = 5, method: str = "quintic",
) -> Chain:  # fmt: skip
    """Scion: steepest descent under norms that fit each layer: orthogonal matrices, and signs for all else.

    Args:
        momentum: decay rate of the average of gradients, one less the paper's alpha.
        hidden_radius, other_radius: of the ball of hidden matrices, and of that of all else; they multiply the steps.
        constrained: pull parameters towards the ball, by `lr` times themselves; else they may leave it.
        ns_steps, method: how matrices are made orthogonal; see `orthogonalize`.

    Returns: the chain.
    Raises: OptionError: a value out of range.
    """
    hidden = [
        t.orthogonalize(method, ns_steps, precision=precision_for(method)),
        t.scale_by_shape("unit"),
        t.multiply(hidden_radius).rename(factor="hidden_radius"),
    ]
    other = [t.sign(), t.scale_by_shape("columns"), t.multiply(other_radius).rename(factor="other_radius")]
    return chain(
        t.first_moment(momentum, bias_correction=False).rename(beta="momentum"),
        partition({"matrix": hidden, "other": other}, hidden_matrices),
        constrained and t.decoupled_decay(1.0),
        t.scale_by_learning_rate(lr),
    )


def precision_for(method: str) -> str:
    """In which a method makes a matrix orthogonal: bfloat16, where that does."""
    return "fp32" if method in ("gram", "svd") else "bf16"


def adam(betas: tuple[float, float], eps: float, weight_decay: float, lr_ratio: float) -> list[Any]:
    """AdamW for a branch, whose learning rate is `lr_ratio` times that of the others."""
    ratio = t.multiply(lr_ratio).rename(factor="adam_lr_ratio")
    return [
        t.first_moment(betas[0]).rename(beta="adam_betas[0]"),
        t.second_moment(betas[1]).rename(beta="adam_betas[1]"),
        t.divide(eps).rename(eps="adam_eps"),
        lr_ratio != 1 and ratio,
        t.decoupled_decay(weight_decay).rename(weight_decay="adam_weight_decay"),
    ]

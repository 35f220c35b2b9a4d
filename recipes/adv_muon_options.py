"""What the recipes of Muon_adv and AdaMuon_adv share: how matrices are made orthogonal, and Adam for all else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import torch

from gradchain import transforms as t
from gradchain._chain.registry import label_function
from gradchain.errors import OptionError

from .adv_options import MEANINGS, Digits, Division, Kourkoutas, Momentum, OrthoGrad, Parts, State, orthogonal


@dataclass(frozen=True)
class Matrices:
    """How a direction is made orthogonal, and brought to the size of a step."""

    ns_steps: Annotated[int, "iterations of Newton-Schulz."]
    ns_eps: Annotated[float | None, "least divisor of the norm before it; `None`: 1/sqrt(N) for N elements."]
    ns_coeffs: Annotated[tuple[float, float, float], "the polynomial of an iteration. Not with `accelerated_ns`."]
    accelerated_ns: Annotated[bool, "CANS: another polynomial in each iteration, two products instead of three."]
    cns_a_bound: Annotated[float | None, "the least singular value it reckons with; `None`: by the shape."]
    low_rank_ortho: Annotated[bool, "orthogonalise in the span of random combinations of the columns."]
    ortho_rank: Annotated[int, "how many combinations."]
    rms_rescaling: Annotated[bool, "steps of root mean square 0.2 lr, like Adam's; else sqrt(max(1, rows/columns))."]
    spectral_normalization: bool
    seed: int
    ns_precision: Annotated[Digits, 'of the iterations: "bf16", "fp32" or "fp64".'] = "bf16"

    def __post_init__(self) -> None:
        if self.spectral_normalization and self.rms_rescaling:
            raise OptionError(
                "spectral_normalization = True and rms_rescaling = True both set the size of a step. Pass "
                "rms_rescaling=False."
            )

    def orthogonalize(self) -> Any:
        given: dict[str, Any] = {"bound": self.cns_a_bound} if self.accelerated_ns else {"coefficients": self.ns_coeffs}
        return t.orthogonalize(
            "cans" if self.accelerated_ns else "quintic", self.ns_steps, eps=self.ns_eps, precision=self.ns_precision,
            rank=self.ortho_rank if self.low_rank_ortho else None, seed=self.seed if self.low_rank_ortho else 0, **given,
        )  # fmt: skip

    def size(self, unit: float = 1.0) -> Parts:
        """What gives a step its size; `unit` is that of the direction, where nothing else does."""
        if self.spectral_normalization:
            return [t.scale_update(seed=self.seed)]
        return [t.normalize_rms()] if self.rms_rescaling else [t.scale_by_shape(), unit != 1 and t.multiply(unit)]


@dataclass(frozen=True)
class Auxiliary:
    """AdamW_adv for what is no matrix: its options, which all begin with `adam_`."""

    state: State
    spikes: Kourkoutas
    momentum: Momentum
    division: Division
    beta2: float
    bias_correction: bool
    orthogonal_gradient: OrthoGrad
    spectral_normalization: bool
    use_atan2: bool
    weight_decay: float

    def stages(self) -> Parts:
        corrects = self.bias_correction and self.momentum.beta1 != 0 and not self.spectral_normalization
        own: Parts = [
            orthogonal(self.orthogonal_gradient),
            self.spikes.stage(),
            *self.momentum.stages(self.state.first),
            t.second_moment(self.beta2, bias_correction=self.bias_correction, storage=self.state.second),
            *self.division.stages(),
            corrects and t.debias(self.momentum.beta1),
            t.scale_update(seed=self.state.seed)
            if self.spectral_normalization
            else self.use_atan2 and t.multiply(4 / math.pi),
        ]
        return [stage and prefixed("adam_", stage) for stage in own]


def prefixed(prefix: str, stage: Any) -> Any:
    """A stage whose numbers go by names of their own, but for `d`, which is Prodigy's."""
    own = [name for name in stage.live_fields() if name != "d"]
    return stage.rename(**{name: f"{prefix}{stage.key_of(name)}" for name in own})


@label_function
def adv_muon_or_adam(name: str, param: torch.Tensor) -> str:
    """Label `"muon"` what adv_optm orthogonalises by itself, `"adam"` all else.

    A matrix, the first axis against the rest, has sides of 4 or more, one at most 128 times the other; and neither of the
    first two axes is 1, so that depthwise kernels and position embeddings are none.
    """
    shape = tuple(param.shape)
    if len(shape) < 2 or 1 in shape[:2]:
        return "adam"
    short, long = sorted((shape[0], math.prod(shape[1:])))
    return "muon" if short >= 4 and long <= 128 * short else "adam"


hints = get_type_hints(Matrices, include_extras=True)
MEANINGS.update({name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")})

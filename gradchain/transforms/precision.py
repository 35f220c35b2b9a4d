"""In which precision a step is computed and a parameter is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.mixins import Precision
from gradchain._chain.stage import Slots, Stage
from gradchain._core.fields import DTYPES, dtype_name, static
from gradchain._core.noise import round_to_bf16
from gradchain.errors import ChainError, OptionError
from gradchain.transforms.master_weights import master_weights


class promote(Precision):
    r"""Compute the step in another dtype: cast gradient and parameter at the start, the result back at the end.

    Args:
        dtype: `"fp64"`, `"fp32"`, `"fp16"`, `"bf16"`, the torch dtypes, or `None` for the parameter's own (float32 for
            float16 parameters, with or without this stage). A dtype narrower than the parameter's demotes it each step.
        bf16: the dtype for bfloat16 parameters where `dtype` is `None`.
        at_least: the dtype for all parameters that are narrower, where `dtype` is `None`.

    Slots keep their own storage; only arithmetic is promoted. Temporaries take the wider dtype: one tensor at a time when
    eager, none in memory when compiled.

    Raises: OptionError: an unknown dtype, or two of the options; ChainError: a stage that is not first.

    >>> gradchain.recipe("adamw").insert_before("first_moment", gradchain.promote("fp32")).names[0]
    'promote'
    """

    dtype: str | None = static(default=None, convert=dtype_name)
    bf16: str | None = static(default=None, convert=dtype_name)
    at_least: str | None = static(default=None, convert=dtype_name)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in ("dtype", "bf16", "at_least") if getattr(self, name) is not None]
        if len(given) > 1:
            values = [f"{self.address}.{name} = {getattr(self, name)!r}" for name in given]
            raise OptionError(f"{values[1]} has no effect beside {values[0]}. Pass one of them.")

    def widens(self) -> bool:
        """Tell whether bfloat16 parameters are computed in a wider dtype. Returns: a bool."""
        return (self.dtype or self.bf16 or self.at_least) in ("fp32", "fp64")

    def read(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        if self.at_least is not None:
            return param.to(torch.promote_types(param.dtype, DTYPES[self.at_least]))
        name = self.dtype or (self.bf16 if param.dtype == torch.bfloat16 else None)
        return param if name is None else param.to(DTYPES[name])


class stochastic_round(Precision):
    r"""Store bfloat16 parameters by stochastic rounding; parameters of other dtypes are stored as usual.

    A value between two neighbours rounds away from zero with a probability equal to its position in the gap, so small
    updates act on average. The bits come from a hash of seed, step, parameter and element: the same eager or compiled, on
    every device and after a resume.

    Args:
        seed: an integer, default 0.

    Raises: OptionError: a value out of range; ChainError: not last, or nothing before it computes in a wider dtype.
    Source: Zamirai et al. (2020), Revisiting BFloat16 Training, arXiv:2010.06192; Rose.

    >>> gradchain.recipe("rose").names[-1]
    'stochastic_round'
    """

    source = "Revisiting BFloat16 Training, arXiv:2010.06192"

    seed: int = static(default=0)

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        super().check(before, after)
        if any(isinstance(stage, master_weights) for stage in before):
            raise ChainError(
                f"{self.address} and master_weights contradict each other: with a master, the parameter is its image under "
                f"ordinary rounding. Remove one of them."
            )
        if not any(isinstance(stage, (promote, master_weights)) and stage.widens() for stage in before):
            raise ChainError(
                f"{self.address} would have nothing to round: bfloat16 parameters are computed in bfloat16. Put "
                f"promote('fp32') at the front, or remove {self.address}."
            )

    def write(self, new_param: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        if ctx.stored_param.dtype != torch.bfloat16:
            return new_param, {}
        return round_to_bf16(new_param, ctx.random_bits(seed=self.seed)), {}

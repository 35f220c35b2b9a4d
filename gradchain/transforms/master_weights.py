"""More of a parameter than it has room for."""

from __future__ import annotations

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Slot
from gradchain._chain.mixins import Precision
from gradchain._chain.stage import Slots
from gradchain._core.fields import DTYPES, dtype_name, static
from gradchain._core.fp24 import join_fp24, split_fp24

NAMES = ("fp64", "fp32", "fp24", "fp16", "bf16")


def _master_dtype(value: object) -> str | None:
    """As `dtype_name`, and `"fp24"`, for which torch has no dtype."""
    if isinstance(value, str) and value.strip().lower() == "fp24":
        return "fp24"
    try:
        return dtype_name(value)
    except ValueError:
        raise ValueError(f"not a floating dtype; pass one of {', '.join(NAMES)}, or a torch dtype.") from None


class master_weights(Precision):
    r"""Keep more of each parameter than it has room for: stages read that master, the parameter is its rounded copy.

    Args:
        dtype: of the master, default `"fp32"`. Parameters that have this dtype already get no master. `"fp24"` (a sign, 8
            bits of exponent, 15 of the significand: the upper three bytes of a float32) keeps no copy, but the 8 bits in
            which the master of a bfloat16 parameter goes on. Steps are computed in float32 and stochastically rounded to
            24 bits. Then float16 parameters, which this does not fit, get a float32 master, and wider ones none.

    Slot: `master_param`, the parameter's shape. Elements of the parameter that differ from the rounded master were written
    by other code (a model reload, an EMA swap, a clamp) and replace it.
    Slot of `"fp24"`: `correction`, int8, master less parameter in 1/256 of the distance between bfloat16 numbers. What
    other code writes stays; what was left over of the element's old value, at most half that distance, is added to it.
    Raises: OptionError: an unknown dtype; ChainError: a stage that is not first.
    Source: Micikevicius et al. (2017), Mixed Precision Training, arXiv:1710.03740; Adams. With bits beside a bfloat16
    parameter: Zamirai et al. (2020), Revisiting BFloat16 Training, arXiv:2010.06192.

    >>> gradchain.recipe("adams").names[0]
    'master_weights'
    """

    source = "Mixed Precision Training, arXiv:1710.03740"

    dtype: str = static(default="fp32", convert=_master_dtype, choices=NAMES)

    def widens(self) -> bool:
        """Tell whether bfloat16 parameters are computed in a wider dtype. Returns: a bool."""
        return self.dtype in ("fp24", "fp32", "fp64")

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if self._corrects(p.dtype):
            return {"correction": Slot(0, dtype=torch.int8)}
        master = self._master(p.dtype)
        return {} if master is None else {"master_param": Slot("param", dtype=master)}

    def _corrects(self, dtype: torch.dtype) -> bool:
        """Whether parameters of a dtype get a correction."""
        return self.dtype == "fp24" and dtype == torch.bfloat16

    def _master(self, dtype: torch.dtype) -> torch.dtype | None:
        """The dtype of the copy of parameters of another one, which get no correction; `None` if they get no copy either."""
        if self.dtype == "fp24":
            return torch.float32 if dtype == torch.float16 else None
        return None if dtype == DTYPES[self.dtype] else DTYPES[self.dtype]

    def read(self, param: torch.Tensor, ctx: Context) -> torch.Tensor:
        stored = ctx.stored_param
        if self._corrects(stored.dtype):
            return join_fp24(stored, ctx.read("correction"))
        if self._master(stored.dtype) is None:
            return param
        master = ctx.read("master_param", storage_dtype=True)
        return torch.where(master.to(stored.dtype) == stored, master, stored.to(master.dtype))

    def write(self, new_param: torch.Tensor, ctx: Context) -> tuple[torch.Tensor, Slots]:
        dtype = ctx.stored_param.dtype
        if self._corrects(dtype):
            rounded, correction = split_fp24(new_param, ctx.random_bits())
            return rounded, {"correction": correction}
        return new_param, {} if self._master(dtype) is None else {"master_param": new_param}

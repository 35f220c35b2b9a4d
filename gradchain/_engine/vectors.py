"""Whole vectors of narrow numbers in loops that compute in float32.

Inductor (2.13) goes through a loop in steps of one vector of float32. Of bfloat16 that is half a vector, which it reads and
writes under a mask; and as a processor takes a masked write for one of the whole vector, the next read, which begins in the
other half, waits until the write is done. AdamW with moments in bfloat16 took twice as long as with moments in float32. In
steps of a whole vector of bfloat16 there are no masks, and float32 comes in two vectors.

Two more things it does element by element: it takes the bits of a float32 as an integer, and it counts. And to give a
number another's sign it calls a library: what the loop holds in registers goes to memory and is fetched again. Adams took a
tenth longer for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch

from gradchain._engine.replaced import replaced

LANES = {torch.bfloat16: 2, torch.float16: 2}
"""How many vectors of float32 go with one whole vector of a narrow dtype; with four, of bytes, registers run out."""

NEEDED = (
    "CppVecKernel", "CppVecOverrides", "TilingSelect", "_get_dtype_from_loopbodies", "_get_loop_body", "cpu_vec_isa",
)  # fmt: skip


@contextlib.contextmanager
def whole_vectors() -> Generator[None, None, None]:
    """While a graph is compiled, let loops go in steps of whole vectors. Other versions of inductor are left as they are."""
    from torch._inductor.codegen import cpp

    module: Any = cpp
    if not all(hasattr(module, name) for name in NEEDED):
        yield
        return
    kernel, overrides = module.CppVecKernel, module.CppVecOverrides
    with contextlib.ExitStack() as stack:
        for owner, name, make in (
            (module, "TilingSelect", _wide),
            (kernel, "arange", _counted),
            (overrides, "to_dtype_bitcast", _reinterpreted),
            (overrides, "copysign", _signed),
        ):
            stack.enter_context(replaced(owner, name, make(getattr(owner, name))))
        yield


def _wide(known: Any) -> Any:
    """Steps of a whole vector of the narrowest numbers."""
    from torch._inductor.codegen import cpp

    module: Any = cpp

    class WholeVectors(known):
        def select_tiling(self, fn_list: Any, var_sizes_list: Any) -> Any:
            factors, *rest = super().select_tiling(fn_list, var_sizes_list)
            dtypes = module._get_dtype_from_loopbodies(module._get_loop_body(fn_list))
            lanes = module.cpu_vec_isa.pick_vec_isa().nelements(dtype=torch.float32)
            if len(factors) == 1:
                factors = [max(factors[0], lanes * max(LANES.get(dtype, 1) for dtype in dtypes))]
            return factors, *rest

    return WholeVectors


def _counted(known: Any) -> Any:
    """Consecutive numbers as a constant vector plus the first of them."""

    def arange(self: Any, index: Any, stride: Any) -> Any:
        if index.dtype not in (torch.int32, torch.int64):
            return known(self, index, stride)
        vector = self._get_vec_type(index.dtype)
        found = self.cse.generate(self.compute, f"({vector}::arange(0, {stride}) + {vector}({index}))")
        found.dtype, found.is_vec = index.dtype, True
        return found

    return arange


def _reinterpreted(known: Any) -> Any:
    """The bits of a vector, as a vector."""
    from torch._inductor.virtualized import V

    def to_dtype_bitcast(x: Any, dtype: torch.dtype, src_dtype: torch.dtype) -> Any:
        if dtype.itemsize != src_dtype.itemsize:
            return known(x, dtype, src_dtype)
        kernel: Any = V.kernel
        return f"c10::bit_cast<{kernel._get_vec_type(dtype)}>({x})"

    return staticmethod(to_dtype_bitcast)


def _signed(known: Any) -> Any:
    """The highest bits of one vector with all other bits of another."""
    from torch._inductor.virtualized import V

    def copysign(size: Any, sign: Any) -> Any:
        if size.dtype not in (torch.float32, torch.float64) or sign.dtype != size.dtype:
            return known(size, sign)
        kernel: Any = V.kernel
        return f"({size}.abs() | ({sign} & {kernel._get_vec_type(size.dtype)}(-0.0)))"

    return staticmethod(copysign)

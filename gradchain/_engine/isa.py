"""The widest vectors of this processor, taken without a trial if torch itself computes with them.

Before its first kernel, inductor (2.13) compiles and loads a library for each set of vector instructions that the processor
has, and two more for their extensions, one after another: three seconds on two cores. What torch computes with works here,
and a compiler that takes the C++ of torch's headers knows it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
from collections.abc import Generator
from typing import Any

import torch

from gradchain._engine.replaced import replaced

NEEDED = ("valid_vec_isa_list", "supported_vec_isa_list", "x86_isa_checker", "config")

MATRICES = "amx"
"""What is only for products of matrices, which kernels leave to torch."""


@contextlib.contextmanager
def widest_vectors() -> Generator[None, None, None]:
    """While a graph is compiled, take the vectors that torch takes.

    Where somebody asks for other vectors, on other processors, and in other versions of inductor, it looks for itself.
    """
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    if not all(hasattr(module, name) for name in NEEDED) or _asked(module.config):
        yield
        return
    known = module.valid_vec_isa_list

    def found() -> list[Any]:
        return known() if known.cache_info().currsize else _of_torch() or known()

    with replaced(module, "valid_vec_isa_list", found):
        yield


def _asked(config: Any) -> bool:
    """Whether somebody asks for some vectors, or for none."""
    settings = config.cpp.simdlen, getattr(config.cpp, "vec_isa_ok", None)
    return any(value is not None for value in settings) or bool(os.getenv("ATEN_CPU_CAPABILITY"))


@functools.cache
def _of_torch() -> list[Any]:
    """The widest vectors among those that torch computes with; none on processors that have others."""
    from torch._inductor import cpu_vec_isa

    flags, torchs = set(cpu_vec_isa.x86_isa_checker()), torch.backends.cpu.get_cpu_capability().lower()
    for isa in cpu_vec_isa.supported_vec_isa_list:
        names = set(str(isa).split())
        if torchs in names <= flags and not any(name.startswith(MATRICES) for name in names):
            return [_untried(isa)]
    return []


def _untried(isa: Any) -> Any:
    """The same vectors, which work."""
    kind = type(isa)
    made = copy.copy(isa)
    made.__class__ = type(kind.__name__, (kind,), {"__bool__": _works, "__hash__": kind.__hash__})
    return made


def _works(isa: object) -> bool:
    return True

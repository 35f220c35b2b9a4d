"""The widest vectors of this processor, found without trying the narrower ones.

Before its first kernel, inductor (2.13) compiles and loads a library for each set of vector instructions that the processor
has, three or four in all, and goes on with the first. On two cores that is a quarter of the time that a first step takes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
from collections.abc import Generator
from typing import Any

NEEDED = ("valid_vec_isa_list", "supported_vec_isa_list", "x86_isa_checker", "config")


@contextlib.contextmanager
def widest_vectors() -> Generator[None, None, None]:
    """While a graph is compiled, try the widest vectors first, and no others if they work.

    Where somebody asks for other vectors, on other processors, and in other versions of inductor, it looks for itself.
    """
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    if not all(hasattr(module, name) for name in NEEDED) or platform.machine() not in ("x86_64", "AMD64"):
        yield
        return
    known = module.valid_vec_isa_list

    def found() -> list[Any]:
        asked = module.config.cpp.simdlen is not None or os.getenv("ATEN_CPU_CAPABILITY")
        return known() if asked or known.cache_info().currsize else list(_widest())

    module.valid_vec_isa_list = found
    try:
        yield
    finally:
        module.valid_vec_isa_list = known


@functools.cache
def _widest() -> tuple[Any, ...]:
    """The first vectors that a library can be compiled for, if there are any."""
    from torch._inductor import cpu_vec_isa

    flags = cpu_vec_isa.x86_isa_checker()
    known = (isa for isa in cpu_vec_isa.supported_vec_isa_list if set(str(isa).split()) <= set(flags))
    return tuple(itertools.islice(filter(None, known), 1))

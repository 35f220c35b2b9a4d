"""The widest vectors of this processor, found without trying the narrower ones, and tried once.

Before its first kernel, inductor (2.13) compiles and loads a library for each set of vector instructions that the processor
has, three or four in all, and goes on with the first. On two cores that is a quarter of the time that a first step takes.
The libraries stay in its cache, but each process loads them again, in a process of their own.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import platform
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

NEEDED = ("valid_vec_isa_list", "supported_vec_isa_list", "x86_isa_checker", "config", "VecISA")


@contextlib.contextmanager
def widest_vectors() -> Generator[None, None, None]:
    """While a graph is compiled, try the widest vectors first, and no others if they work.

    Where somebody asks for other vectors, on other processors, and in other versions of inductor, it looks for itself.
    """
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    here = all(hasattr(module, name) for name in NEEDED) and hasattr(module.VecISA, "_probe_load")
    if not here or platform.machine() not in ("x86_64", "AMD64"):
        yield
        return
    known = module.valid_vec_isa_list

    def found() -> list[Any]:
        asked = module.config.cpp.simdlen is not None or os.getenv("ATEN_CPU_CAPABILITY")
        return known() if asked or known.cache_info().currsize else list(_widest())

    load = module.VecISA._probe_load
    module.valid_vec_isa_list, module.VecISA._probe_load = found, _loaded_once(load)
    try:
        yield
    finally:
        module.valid_vec_isa_list, module.VecISA._probe_load = known, load


def _loaded_once(load: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """Whether a library can be loaded, as a file beside it tells if it could be before."""

    def loads(self: Any, path: str) -> bool:
        told = Path(f"{path}.loads")
        if told.exists():
            return True
        if found := load(self, path):
            with contextlib.suppress(OSError):
                told.touch()
        return found

    return loads


@functools.cache
def _widest() -> tuple[Any, ...]:
    """The first vectors that a library can be compiled for, if there are any."""
    from torch._inductor import cpu_vec_isa

    flags = cpu_vec_isa.x86_isa_checker()
    known = (isa for isa in cpu_vec_isa.supported_vec_isa_list if set(str(isa).split()) <= set(flags))
    return tuple(itertools.islice(filter(None, known), 1))

"""The widest vectors of this processor, found without trying the narrower ones, and tried once.

Before its first kernel, inductor (2.13) compiles and loads a library for each set of vector instructions that the processor
has, three or four in all, and goes on with the first. On two cores that is a quarter of the time that a first step takes.
The libraries stay in its cache, but each process loads them again, in a process of their own. Here that goes on while the
first graph is traced.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gradchain._engine.replaced import replaced

NEEDED = ("valid_vec_isa_list", "supported_vec_isa_list", "x86_isa_checker", "config", "VecISA")


@contextlib.contextmanager
def widest_vectors() -> Generator[None, None, None]:
    """While a graph is compiled, try the widest vectors first, and no others if they work.

    Where somebody asks for other vectors, on other processors, and in other versions of inductor, it looks for itself.
    """
    if not _applies():
        yield
        return
    from torch._inductor import cpu_vec_isa

    module: Any = cpu_vec_isa
    known = module.valid_vec_isa_list

    def found() -> list[Any]:
        return known() if _asked() or known.cache_info().currsize else _trial().result()

    with replaced(module, "valid_vec_isa_list", found):
        yield


def look_ahead() -> None:
    """Begin to try, in a thread, if that has not been done."""
    if _applies() and not _asked():
        _trial()


@functools.cache
def _applies() -> bool:
    """Whether there are such processors and such a version."""
    from torch._inductor import cpu_vec_isa

    here = all(hasattr(cpu_vec_isa, name) for name in NEEDED) and hasattr(cpu_vec_isa.VecISA, "_probe_load")
    return here and platform.machine() in ("x86_64", "AMD64")


def _asked() -> bool:
    """Whether somebody asks for some vectors."""
    from torch._inductor import config

    return config.cpp.simdlen is not None or bool(os.getenv("ATEN_CPU_CAPABILITY"))


@functools.cache
def _trial() -> Future[list[Any]]:
    """The trial of this process, in a thread."""
    return ThreadPoolExecutor(max_workers=1).submit(_widest)


def _widest() -> list[Any]:
    """The first vectors that a library can be compiled for, if there are any."""
    from torch._inductor import cpu_vec_isa

    flags = set(cpu_vec_isa.x86_isa_checker())
    for isa in cpu_vec_isa.supported_vec_isa_list:
        if set(str(isa).split()) <= flags:
            vars(isa)["_probe_load"] = _loaded_once(isa._probe_load)  # pyright: ignore[reportPrivateUsage]
            try:
                if isa:
                    return [isa]
            finally:
                del vars(isa)["_probe_load"]
    return []


def _loaded_once(load: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a library can be loaded, as a file beside it tells if it could be before."""

    def loads(path: str) -> bool:
        told = Path(f"{path}.loads")
        if told.exists():
            return True
        if found := load(path):
            with contextlib.suppress(OSError):
                told.touch()
        return found

    return loads

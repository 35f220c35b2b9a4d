"""C++ compilers at work beside this process, and waited for when their functions are called.

Inductor (2.13) writes the C++ of a graph, hands it to a compiler in a process of its own, and waits. As the kernels of a
step can all be written before the first is called, their compilers run side by side, and while the next is written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from gradchain._engine.replaced import replaced

_open: dict[str, list[Callable[[], None]]] = {}
"""What waits for the compilers of modules that inductor has written, by their keys. Equal graphs have equal keys, and one
module or several."""


@contextlib.contextmanager
def not_waited_for() -> Generator[None, None, None]:
    """While a graph is compiled, let compilers of C++ run on. Other threads and versions of inductor wait for theirs."""
    from torch._inductor import async_compile
    from torch._inductor.output_code import CompiledFxGraph

    compiler: Any = getattr(async_compile, "AsyncCompile", None)
    if not hasattr(compiler, "wait") or "cache_key" not in getattr(CompiledFxGraph, "__annotations__", ()):
        yield
        return
    before, here = compiler.wait, threading.get_ident()

    def wait(self: Any, scope: dict[str, Any]) -> None:
        if threading.get_ident() == here and "key" in scope:
            _open.setdefault(scope["key"], []).append(lambda: before(self, scope))
        else:
            before(self, scope)

    with replaced(compiler, "wait", wait):
        yield


def wait_for(code: Any) -> None:
    """Wait for the compilers of a graph's module. Raises: what they have failed with, to each that waits."""
    key = getattr(code, "cache_key", "")
    for wait in _open.get(key, ()):
        wait()
    _open.pop(key, None)

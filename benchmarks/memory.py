"""How much memory a step takes beyond what is there before it, and how much an optimizer keeps.

On the CPU that is the kernel's own count of resident pages, its peak reset before the step: it sees what aten, compiled
kernels and libraries allocate alike, to within a few hundred KiB. On CUDA the caching allocator counts to the byte.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROUNDS = 3


def extra_bytes(step: Callable[[], object], device: str, prepare: Callable[[], object] = lambda: None) -> int | None:
    """Peak memory of a step above that before it: the median of some. `None` where nothing can tell."""
    measure = _on_cuda if device == "cuda" else _on_cpu
    if device != "cuda" and not RESET.exists():
        return None
    peaks = []
    for _ in range(ROUNDS):
        prepare()
        gc.collect()
        peaks.append(measure(step))
    return round(statistics.median(peaks))


def _on_cpu(step: Callable[[], object]) -> int:
    _give_back()
    RESET.write_text("5")
    before = _pages("VmRSS")
    step()
    return max(0, _pages("VmHWM") - before)


def _on_cuda(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _give_back() -> None:
    """Return freed heap to the kernel, or a step could take from there what was counted before it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _pages(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all storages that the state holds and the parameters do not."""
    params = {p.untyped_storage().data_ptr() for group in optimizer.param_groups for p in group["params"]}
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors(optimizer.state.values())}
    return sum(size for place, size in storages.items() if place not in params)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The plain tensors in nested containers, and in tensors that wrap others."""
    if isinstance(value, torch.Tensor):
        if hasattr(value, "__tensor_flatten__"):
            names, _ = value.__tensor_flatten__()
            yield from tensors([getattr(value, name) for name in names])
        else:
            yield value
    elif isinstance(value, Mapping):
        yield from tensors(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for item in value:
            yield from tensors(item)

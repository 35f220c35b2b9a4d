"""How much memory a step takes beyond what is there before it, and how much an optimizer keeps.

Torch counts what its tensors take: on a CPU in its profiler, on CUDA in the allocator. The pages of a process do not tell: a
heap keeps what is freed in pieces, and which of them a step gets depends on all that was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch

MEMORY = "[memory]"
"""What the profiler calls the event that memory is taken, or given back."""


def extra_bytes(step: Callable[[], object], device: str, prepare: Callable[[], object] = lambda: None) -> int:
    """Peak memory of the tensors of a step above what there was before it. On a CPU what it frees of that makes no room."""
    prepare()
    return (_on_cuda if device == "cuda" else _on_cpu)(step)


def _on_cpu(step: Callable[[], object]) -> int:
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        step()
    events: Any = profile.kineto_results
    taken = sorted((event.start_ns(), event.nbytes()) for event in events.events() if event.name() == MEMORY)
    return max(accumulate((size for _, size in taken), initial=0))


def _on_cuda(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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

"""What compiling a step took, and what of it runs compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from gradchain._core.text import aligned
from gradchain._engine.kernel import Kernel
from gradchain._engine.layouts import Layout

HEADER = ("tensors", "shapes", "dtype", "kernels", "seconds", "runs")


@dataclass(frozen=True)
class Bucket:
    """Parameters that share a call."""

    tensors: int
    shapes: str
    dtype: str
    kernels: int
    """How many functions were compiled: one, and one more for each total that the bucket has to wait for."""
    seconds: float
    """What tracing and compiling took; 0 if another optimizer of this process had done it."""
    failure: str | None
    """Why the bucket runs eagerly; `None` if it runs compiled."""
    pending: bool = False
    """Whether another process is compiling it."""


@dataclass(frozen=True)
class CompileReport:
    """What an optimizer has compiled so far; printed, a table."""

    buckets: tuple[Bucket, ...]

    @property
    def kernels(self) -> int:
        return sum(bucket.kernels for bucket in self.buckets)

    @property
    def seconds(self) -> float:
        return sum(bucket.seconds for bucket in self.buckets)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Why buckets run eagerly, for each that does."""
        return tuple(bucket.failure for bucket in self.buckets if bucket.failure is not None)

    def __str__(self) -> str:
        if not self.buckets:
            return "nothing has been compiled"
        rows = [
            (
                str(b.tensors),
                b.shapes,
                b.dtype,
                str(b.kernels),
                f"{b.seconds:.1f}",
                "eagerly" if b.failure else "not yet" if b.pending else "compiled",
            )
            for b in self.buckets
        ]
        total = ("total", f"{len(self.buckets)} buckets", "", str(self.kernels), f"{self.seconds:.1f}", "")
        return "\n".join([aligned(HEADER, [*rows, total]), *(f"eagerly: {reason}" for reason in self.fallbacks)])


def bucket_of(layouts: Sequence[Layout], kernels: Sequence[Kernel], seconds: float) -> Bucket:
    """A bucket, given the kernels of its phases."""
    shapes = [
        "any shape" if layout.line else " x ".join(map(str, layout.tensors[0][0])) or "scalar" for layout in layouts
    ]
    runs = [(shape, len(list(same))) for shape, same in groupby(shapes)]
    shown = ", ".join(shape if count == 1 else f"{count} of {shape}" for shape, count in runs)
    dtypes = dict.fromkeys(str(layout.tensors[0][2]).removeprefix("torch.") for layout in layouts)
    failure = next((kernel.failure for kernel in kernels if kernel.failure is not None), None)
    compiled = sum(kernel.compiled is not None for kernel in kernels)
    pending = any(kernel.pending for kernel in kernels)
    return Bucket(len(layouts), shown, ", ".join(dtypes), compiled, seconds, failure, pending)

"""Each intermediate result is traced once for each loop, however often it is used.

Inductor (2.13) follows every use of a value back to the inputs, so that what is used twice at each of `n` steps, as in a
hash or in the polynomials of an arctangent, is followed 2^n times. The code is the same either way; the time to compile a
step with noise was minutes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from gradchain._engine.replaced import replaced


@contextlib.contextmanager
def traced_once() -> Generator[None, None, None]:
    """While a graph is compiled, remember the values of pointwise results. Other versions are left as they are."""
    from torch._inductor import ir

    module: Any = ir
    pointwise = getattr(module, "Pointwise", None)
    if pointwise is None or "make_loader" not in vars(pointwise) or not hasattr(module, "ConstantBuffer"):
        yield
        return
    before = pointwise.make_loader

    def make_loader(self: Any) -> Callable[[Sequence[Any]], Any]:
        known = vars(self).get("_gradchain_loader")
        if known is None:
            known = _remembering(before(self), module.ConstantBuffer)
            object.__setattr__(self, "_gradchain_loader", known)
        return known

    with replaced(pointwise, "make_loader", make_loader):
        yield


def _remembering(load: Callable[[Sequence[Any]], Any], constant: Any) -> Callable[[Sequence[Any]], Any]:
    """A loader that computes a value once for each index, as long as one and the same handler takes what is computed."""
    from torch._inductor.virtualized import V

    handler: Any = None
    values: dict[tuple[Any, ...], Any] = {}

    def loader(index: Sequence[Any]) -> Any:
        nonlocal handler
        if V.get_ops_handler() is not handler:
            handler = V.get_ops_handler()
            values.clear()
        key = (constant.override_device, *index)  # where constants are for the moment
        if key not in values:
            values[key] = load(index)
        return values[key]

    return loader

"""A context in which tensors ignore every mode of the caller."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch


@contextlib.contextmanager
def apart() -> Generator[None]:
    """Turn off fake tensors, default devices, autocast, inference mode, functorch's transforms and the user's modes."""
    torch_c: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    with contextlib.ExitStack() as stack:
        while torch_c._len_torch_function_stack():
            stack.callback(torch_c._push_on_torch_function_stack, torch_c._pop_torch_function_stack())
        if torch_c._functorch.peek_interpreter_stack() is not None:
            from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

            stack.enter_context(temporarily_clear_interpreter_stack())
        if torch_c._len_torch_dispatch_stack():
            from torch.utils._python_dispatch import _disable_current_modes  # pyright: ignore[reportPrivateUsage]

            stack.enter_context(_disable_current_modes())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        yield

"""Functions that are not traced but called: what they do to bits and integers is no algebra.

While a step is recorded they are exchanged in the modules that use them. The file gets the ones that it calls, as
`HELPERS` writes them.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch

from gradchain._core.fields import as_number
from gradchain._core.noise import random_bits, round_to_bf16
from gradchain._export.recorder import Recorder
from gradchain._export.symbols import ExportError, Symbol, plain, symbol
from gradchain.ops import arctan_ratio, arctangent
from gradchain.storage.base import near_square
from gradchain.storage.factored import _column_sums as column_sums  # pyright: ignore[reportPrivateUsage]
from gradchain.storage.signs import pack, sign_planes, words_of

Function = Callable[..., Any]

LOCK = threading.Lock()


def places() -> list[tuple[Any, str, Any]]:
    """Where modules of gradchain hold one of the functions below: module, name, function."""
    found: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith("gradchain.") and not name.startswith("gradchain._export"):
            held = [(module, attribute, value) for attribute, value in vars(module).items()]
            found += [place for place in held if any(place[2] is function for function in TRACED)]
    return found


@contextlib.contextmanager
def exchanged(recorder: Recorder, held: list[tuple[Any, str, Any]]) -> Generator[None]:
    """Exchange the functions below where modules hold them. What is not recorded, in another thread, is as before."""
    made = {function: make(recorder) for function, make in TRACED.items()}
    for name in MATHEMATICS:
        function = getattr(math, name)
        made[function] = _mathematics(recorder, name, function)
        held = [*held, (math, name, function)]
    with LOCK:
        try:
            for module, attribute, value in held:
                setattr(module, attribute, made[value])
            yield
        finally:
            for module, attribute, value in held:
                setattr(module, attribute, value)


MATHEMATICS = ("sqrt", "isqrt", "log", "log2", "exp", "floor", "ceil")
"""Functions of Python's that are recorded where they are called with a symbol, as `torch.fx` does."""


def _mathematics(recorder: Recorder, name: str, function: Function) -> Function:
    def called(number: Any, *more: Any) -> Any:
        if more or not isinstance(number, Symbol):
            return function(number, *more)
        node = recorder.graph.make("call", f"math.{name}", (number.node,), kind=number.node.kind)
        return symbol(function(plain(number)), node, recorder, 0.0 if name in ("sqrt", "isqrt") else -math.inf)

    return called


def _number_of(recorder: Recorder) -> Function:
    def number(value: Any) -> Any:
        return value if isinstance(value, Symbol) else as_number(value)

    return number


def _called(recorder: Recorder, name: str, args: tuple[Any, ...], result: torch.Tensor) -> torch.Tensor:
    node = recorder.graph.make("helper", name, map(recorder.lift, args), kind="tensor")
    node.changes = True
    return recorder.keep(result, node)


def _random_bits(recorder: Recorder) -> Function:
    def bits_of(like: torch.Tensor, key: torch.Tensor, salt: int, offset: Any = 0) -> torch.Tensor:
        if not recorder.knows(key):
            return random_bits(like, key, salt, offset)
        if plain(offset) != 0:
            raise ExportError("noise for a part of a parameter cannot be exported.")
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            result = torch.empty(like.shape, dtype=torch.int32, device="meta")
        return _called(recorder, "_random_bits", (like, key, salt), result)

    return bits_of


def _round_to_bf16(recorder: Recorder) -> Function:
    def rounded(value: torch.Tensor, bits: torch.Tensor, largest: float | None = None) -> torch.Tensor:
        if not recorder.knows(value):
            return round_to_bf16(value, bits, largest)
        value = value if largest is None else value.clamp(-largest, largest)
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            result = torch.empty(value.shape, dtype=torch.bfloat16, device="meta")
        return _called(recorder, "_round_to_bf16", (value, bits), result)

    return rounded


def _pack(recorder: Recorder) -> Function:
    def packed(bits: torch.Tensor) -> torch.Tensor:
        if not recorder.knows(bits):
            return pack(bits)
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            dtype, words = words_of(bits.shape[1])
            result = torch.empty(bits.shape[0], words, dtype=dtype, device="meta")
        return _called(recorder, "_pack", (bits,), result)

    return packed


def _sign_planes(recorder: Recorder) -> Function:
    def planes_of(words: torch.Tensor, apart: bool = False) -> torch.Tensor:
        if not recorder.knows(words):
            return sign_planes(words)
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            shape = (words.shape[0], 8 * words.dtype.itemsize, words.shape[1])
            result = torch.empty(shape, dtype=torch.int32, device="meta")
        return _called(recorder, "_sign_planes", (words,), result)

    return planes_of


def _sums_of_columns(recorder: Recorder) -> Function:
    def sums(matrix: torch.Tensor) -> torch.Tensor:
        if not recorder.knows(matrix):
            return column_sums(matrix)
        with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
            result = torch.empty(matrix.shape[1], dtype=torch.float64, device="meta")
        return _called(recorder, "_column_sums", (matrix,), result)

    return sums


def _near_square(recorder: Recorder) -> Function:
    def sides_of(numel: Any) -> Any:
        if not isinstance(numel, Symbol):
            return near_square(numel)
        graph = recorder.graph
        whole = graph.make("helper", "_near_square", (recorder.lift(numel),), kind="shape")
        sides = near_square(plain(numel))
        items = [graph.make("item", "[]", (whole, graph.const(i)), kind="shape") for i in range(2)]
        return tuple(symbol(side, item, recorder, 1) for side, item in zip(sides, items))

    return sides_of


def _arctangent_of(name: str, function: Function) -> Callable[[Recorder], Function]:
    def made(recorder: Recorder) -> Function:
        def angle_of(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            if not (recorder.knows(y) and recorder.knows(x)):
                return function(y, x)
            with torch._C.DisableTorchFunction():  # pyright: ignore[reportPrivateUsage]
                result = torch.atan2(y, x)  # on the device "meta": the shape and the dtype
            return _called(recorder, name, (y, x), result)

        return angle_of

    return made


TRACED: dict[Any, Callable[[Recorder], Function]] = {
    as_number: _number_of,
    random_bits: _random_bits,
    round_to_bf16: _round_to_bf16,
    pack: _pack,
    sign_planes: _sign_planes,
    near_square: _near_square,
    column_sums: _sums_of_columns,
    arctangent: _arctangent_of("_arctangent", arctangent),
    arctan_ratio: _arctangent_of("_arctan_ratio", arctan_ratio),
}

HELPERS = {
    "_noise_key": '''
def _mix(number: int) -> int:
    """Hash a 32-bit integer."""
    number &= 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    number = ((number ^ (number >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return number ^ (number >> 16)


def _noise_key(step: int, index: int, device: torch.device) -> Tensor:
    """A number for one parameter at one step, as int32."""
    key = _mix(_mix(step ^ _mix(step >> 32)) + index * 0x9E3779B9)
    return torch.tensor(key - (1 << 32) if key >> 31 else key, dtype=torch.int32).to(device)
''',
    "_random_bits": '''
def _mix_bits(bits: Tensor) -> Tensor:
    """`_mix` for each element of an int32 tensor."""
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * -0x7B935975
    return bits ^ ((bits >> 16) & 0xFFFF)


def _random_bits(like: Tensor, key: Tensor, salt: int) -> Tensor:
    """32 random bits for each element, a hash of its place: the same on every device and after a resume."""
    counter = torch.int32 if like.numel() < 1 << 31 else torch.int64
    index = torch.arange(like.numel(), device=like.device, dtype=counter).to(torch.int32).view(like.shape)
    first = _mix_bits(key ^ salt)
    bits = index ^ first
    bits = (bits ^ ((bits >> 16) & 0xFFFF)) * 0x7FEB352D + _mix_bits(first - 0x61C88647)
    bits = (bits ^ ((bits >> 15) & 0x1FFFF)) * -0x7B935975
    return bits ^ ((bits >> 16) & 0xFFFF)
''',
    "_round_to_bf16": '''
def _round_to_bf16(value: Tensor, bits: Tensor) -> Tensor:
    """Round to bfloat16, up or down in size with probabilities that are right on average."""
    value = value.to(torch.float32)
    raised = value.view(torch.int32) + (bits & 0xFFFF)
    rounded = (raised & ~0xFFFF).view(torch.float32)
    return torch.where(torch.isfinite(value), rounded, value).to(torch.bfloat16)
''',
    "_pack": '''
def _words(columns: int) -> tuple[torch.dtype, int]:
    """The dtype and the number of the words that hold a row of bits."""
    dtype = torch.int32 if columns % 32 == 0 or columns >= 256 else torch.uint8
    return dtype, -(-columns // (8 * dtype.itemsize))


def _pack(bits: Tensor) -> Tensor:
    """A matrix of bits as a matrix of words: bit `k` of word `j` in a row of `w` words is column `k * w + j`."""
    rows, columns = bits.shape
    dtype, words = _words(columns)
    size = 8 * dtype.itemsize
    planes = torch.nn.functional.pad(bits, (0, words * size - columns)).view(rows, size, words)
    packed = torch.zeros(rows, words, dtype=dtype, device=bits.device)
    for place in range(size):
        packed = packed | (planes[:, place].to(dtype) << place)
    return packed
''',
    "_sign_planes": '''
def _sign_planes(words: Tensor) -> Tensor:
    """The signs in a matrix of words, as the highest bits of int32, set for elements that are not above 0."""
    size = 8 * words.dtype.itemsize
    planes = [~(words.to(torch.int32) >> place) << 31 for place in range(size)]
    return torch.stack(planes, 1)
''',
    "_column_sums": '''
def _column_sums(matrix: Tensor) -> Tensor:
    """The sums of the columns, added up 64 rows at a time."""
    rows, columns = matrix.shape
    whole = rows - rows % 64
    last = matrix[whole:].sum(0, dtype=torch.float64)
    if whole == 0:
        return last
    return matrix[:whole].view(-1, 64, columns).sum(1, dtype=torch.float64).sum(0) + last
''',
    "_arctan_parts": '''
ARCTAN: dict[torch.dtype, tuple[list[float], list[float]]] = {
    torch.float32: (
        [-0.8233577013015747, -5.674566745758057, -6.565028190612793],
        [11.33493423461914, 28.84062957763672, 19.695091247558594],
    ),
    torch.float64: (
        [
            *(-0.9024525862982413, -28.6344514670043, -230.9790943899718),
            *(-709.2810809323058, -905.3726290655958, -404.44958201411697),
        ],
        [
            *(39.96465648522898, 423.8789826719409, 1825.9201295139483),
            *(3674.312918256491, 3444.127134821938, 1213.3487460423516),
        ],
    ),
}


def _arctan_parts(y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors whose difference has the size of the angle of `(|x|, |y|)`, the same wherever an element stands."""
    dtype = torch.promote_types(torch.result_type(y, x), torch.float32)
    p, q = ARCTAN[dtype]
    y, x = y.to(dtype).abs(), x.to(dtype).abs()
    larger, smaller = torch.maximum(y, x), torch.minimum(y, x)
    t = smaller.clamp(max=torch.finfo(dtype).max) / (larger + (larger == 0).to(dtype))
    t = t + (smaller == math.inf).to(dtype)
    s = t * t
    top, bottom = s * p[0], s + q[0]
    for up, down in zip(p[1:], q[1:], strict=True):
        top, bottom = (top + up) * s, bottom * s + down
    return (larger > x).to(dtype) * (math.pi / 2), top * t / bottom + t
''',
    "_arctan_ratio": '''
def _arctan_ratio(y: Tensor, x: Tensor) -> Tensor:
    """The arctangent of `y / x`, for `x >= 0`; 0 / 0 counts as 0."""
    corner, rest = _arctan_parts(y, x)
    return (corner - rest).copysign(y).to(torch.result_type(y, x))
''',
    "_arctangent": '''
def _arctangent(y: Tensor, x: Tensor) -> Tensor:
    """The angle of `(x, y)`, `atan2(y, x)`."""
    corner, rest = _arctan_parts(y, x)
    behind = torch.where(corner == 0, math.pi - rest, corner + rest)
    return torch.where(torch.signbit(x), behind, corner - rest).copysign(y).to(torch.result_type(y, x))
''',
    "_near_square": '''
def _near_square(numel: int) -> tuple[int, int]:
    """Two factors of a number, as near to each other as possible, the larger first."""
    smaller = next(i for i in range(math.isqrt(numel), 0, -1) if numel % i == 0)
    return numel // smaller, smaller
''',
}
"""Helpers in the order in which they are written."""

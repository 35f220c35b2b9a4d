"""Lists of parameter shapes to step."""

from __future__ import annotations

import math
from collections.abc import Iterator

Shape = tuple[int, ...]

WIDTH = 512
BLOCK: list[Shape] = [
    (3 * WIDTH, WIDTH),
    (3 * WIDTH,),
    (WIDTH, WIDTH),
    (WIDTH,),
    (4 * WIDTH, WIDTH),
    (WIDTH, 4 * WIDTH),
]
TABLES = 2
"""The first parameters of the GPT-2-like list are embeddings, whose shapes do not tell."""
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # width and number of the bottlenecks of ResNet-50
WIDENING = 4


def gpt2() -> list[Shape]:
    """Embeddings of tokens and of positions, eight blocks, a final norm."""
    return [(30_000, WIDTH), (1_024, WIDTH), *(8 * BLOCK), (WIDTH,), (WIDTH,)]


def convolution(inner: int, outer: int, side: int = 1) -> Iterator[Shape]:
    """A convolution without bias, and its norm."""
    yield outer, inner, side, side
    yield (outer,)
    yield (outer,)


def resnet50() -> list[Shape]:
    """The parameters of ResNet-50 for ImageNet, He et al. (2015), arXiv:1512.03385."""
    shapes, inner = list(convolution(3, 64, 7)), 64
    for width, count in STAGES:
        outer = WIDENING * width
        for number in range(count):
            shapes += [*convolution(inner, width), *convolution(width, width, 3), *convolution(width, outer)]
            shapes += convolution(inner, outer) if number == 0 else ()
            inner = outer
    return [*shapes, (1000, inner), (1000,)]


def published_gpt2(width: int, layers: int) -> list[Shape]:
    """The parameters of GPT-2, Radford et al. (2019): the output layer is the table of tokens."""
    block: list[Shape] = [
        *((width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)),  # norm, attention
        *((width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)),  # norm, perceptron
    ]
    return [(50_257, width), (1_024, width), *(layers * block), (width,), (width,)]


LISTS: dict[str, list[Shape]] = {
    "gpt2": gpt2(),
    "resnet50": resnet50(),
    "small": 1000 * [(32, 32)],
    "matrix": [(4096, 4096)],
    "mlp": [(128, 64), (128,), (10, 128), (10,)],
    "digits": [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)],
    "gpt2-124m": published_gpt2(768, 12),
    "gpt2-1.5b": published_gpt2(1600, 48),
    "tiny": [(40, 24), (24,), (8, 4, 3, 3), (1, 16)],
}
"""All lists; `tiny` is there to try things out, and to go through a run on a GPU without one."""

TITLES = {
    "gpt2": "GPT-2-like",
    "resnet50": "ResNet-50",
    "small": "1,000 tensors of 32x32",
    "matrix": "one 4096x4096 matrix",
    "mlp": "a perceptron of four tensors",
    "digits": "the perceptron of the digits task",
    "gpt2-124m": "GPT-2 124M",
    "gpt2-1.5b": "GPT-2 1.5B",
    "tiny": "four tiny tensors",
}


SERIAL = ("mlp", "digits", "tiny")
"""Lists that are stepped on one thread: too small for two, which wait for each other longer than they work."""


def elements(name: str) -> int:
    return sum(math.prod(shape) for shape in LISTS[name])

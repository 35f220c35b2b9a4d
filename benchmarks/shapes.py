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


LISTS: dict[str, list[Shape]] = {
    "gpt2": gpt2(),
    "resnet50": resnet50(),
    "small": 1000 * [(32, 32)],
    "matrix": [(4096, 4096)],
    "tiny": [(40, 24), (24,), (8, 4, 3, 3), (1, 16)],
}
"""All lists; `tiny` is there to try things out."""

TITLES = {
    "gpt2": "GPT-2-like",
    "resnet50": "ResNet-50",
    "small": "1,000 tensors of 32x32",
    "matrix": "one 4096x4096 matrix",
    "tiny": "four tiny tensors",
}


def elements(name: str) -> int:
    return sum(math.prod(shape) for shape in LISTS[name])

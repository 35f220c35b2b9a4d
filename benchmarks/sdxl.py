"""The parameter shapes of the UNet of Stable Diffusion XL, from its published architecture: a real model to weigh state on.

Podell et al. (2023), arXiv:2307.01952; the numbers are those of the configuration published with the base model.
"""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]

PARAMETERS = 2_567_463_684

LATENT = 4  # channels in and out
CHANNELS = (320, 640, 1280)  # by level, from the finest
DEPTHS = (0, 2, 10)  # transformer layers after each residual block of a level
RESIDUALS = 2  # a level on the way down; one more on the way up
TIME = 1280  # the embedding of time, size and crop
POOLED = 2816  # the pooled text and six sizes, embedded
TEXT = 2048  # the text's tokens


def linear(inner: int, outer: int, bias: bool = True) -> Iterator[Shape]:
    yield outer, inner
    if bias:
        yield (outer,)


def convolution(inner: int, outer: int, side: int = 3) -> Iterator[Shape]:
    yield outer, inner, side, side
    yield (outer,)


def norm(width: int) -> Iterator[Shape]:
    yield (width,)
    yield (width,)


def embedding(inner: int) -> Iterator[Shape]:
    yield from linear(inner, TIME)
    yield from linear(TIME, TIME)


def residual(inner: int, outer: int) -> Iterator[Shape]:
    yield from norm(inner)
    yield from convolution(inner, outer)
    yield from linear(TIME, outer)
    yield from norm(outer)
    yield from convolution(outer, outer)
    if inner != outer:
        yield from convolution(inner, outer, side=1)


def attention(width: int, context: int) -> Iterator[Shape]:
    yield from linear(width, width, bias=False)  # queries
    yield from linear(context, width, bias=False)  # keys
    yield from linear(context, width, bias=False)  # values
    yield from linear(width, width)


def transformer_layer(width: int) -> Iterator[Shape]:
    for context in (width, TEXT):
        yield from norm(width)
        yield from attention(width, context)
    yield from norm(width)
    yield from linear(width, 2 * 4 * width)  # gated
    yield from linear(4 * width, width)


def transformer(width: int, depth: int) -> Iterator[Shape]:
    if depth:
        yield from norm(width)
        yield from linear(width, width)
        for _ in range(depth):
            yield from transformer_layer(width)
        yield from linear(width, width)


def unet() -> Iterator[Shape]:
    width = CHANNELS[0]
    yield from convolution(LATENT, width)
    yield from embedding(width)
    yield from embedding(POOLED)
    skips = [width]
    for level, (outer, depth) in enumerate(zip(CHANNELS, DEPTHS)):
        for _ in range(RESIDUALS):
            yield from residual(width, outer)
            yield from transformer(outer, depth)
            width = outer
            skips.append(width)
        if level + 1 < len(CHANNELS):
            yield from convolution(width, width)
            skips.append(width)
    yield from residual(width, width)
    yield from transformer(width, DEPTHS[-1])
    yield from residual(width, width)
    for level, (outer, depth) in reversed(list(enumerate(zip(CHANNELS, DEPTHS)))):
        for _ in range(RESIDUALS + 1):
            yield from residual(width + skips.pop(), outer)
            yield from transformer(outer, depth)
            width = outer
        if level:
            yield from convolution(width, width)
    yield from norm(width)
    yield from convolution(width, LATENT)


def unet_shapes() -> list[Shape]:
    """The shapes of all parameters, from the input to the output.

    >>> sum(math.prod(shape) for shape in unet_shapes()) == PARAMETERS
    True
    """
    return list(unet())

"""One bit per element, packed row by row, so that the words are sharded with the rows."""

from __future__ import annotations

import torch

from gradchain._core.shard import Shard


def word_dtype(columns: int) -> torch.dtype:
    """32-bit words, which vectorise; 8-bit words where 32 would waste many bits."""
    return torch.int32 if columns % 32 == 0 or columns >= 256 else torch.uint8


def words_of(columns: int) -> tuple[torch.dtype, int]:
    """The dtype and the number of the words that hold a row of `columns` bits."""
    dtype = word_dtype(columns)
    return dtype, -(-columns // (8 * dtype.itemsize))


def pack(bits: torch.Tensor) -> torch.Tensor:
    """A bool matrix as a matrix of words. Bit `k` of word `j` in a row of `w` words is column `k * w + j`."""
    rows, columns = bits.shape
    dtype, words = words_of(columns)
    size = 8 * dtype.itemsize
    wide = bits.to(dtype)  # a compiler for AVX-512 writes bool one by one, ten times as slowly
    planes = torch.nn.functional.pad(wide, (0, words * size - columns)).view(rows, size, words)
    return (planes * _masks(planes)[:, None]).sum(1, dtype=dtype)


def sign_planes(words: torch.Tensor) -> torch.Tensor:
    """The signs of floats, by row and place in a word: int32 whose highest bit is set where the packed bit is not."""
    size = 8 * words.dtype.itemsize
    places = torch.arange(31, 31 - size, -1, dtype=torch.int32, device=words.device)
    moved = (~words).to(torch.int32)[:, None] << places[:, None]
    return moved & torch.iinfo(torch.int32).min


def unpack(words: torch.Tensor, columns: int) -> torch.Tensor:
    """The bool matrix of `pack`."""
    return sign_planes(words).flatten(1)[:, :columns] >= 0


def _masks(like: torch.Tensor) -> torch.Tensor:
    """Words with one bit set, for each place."""
    places = torch.arange(8 * like.dtype.itemsize, dtype=like.dtype, device=like.device)
    return torch.ones_like(places) << places


def pack_vector(bits: torch.Tensor, part: Shard, columns: int) -> torch.Tensor:
    """The words of a whole vector as rows of `columns` bits, with those of this process set: all processes' words add up."""
    bits = bits.reshape(-1)
    if part.group is not None:
        bits = torch.nn.functional.pad(bits, (part.offset, part.shape.numel() - part.offset - part.numel))
    return pack(bits.view(-1, columns))


def vector_signs(words: torch.Tensor, part: Shard, columns: int) -> torch.Tensor:
    """The signs of a vector in this process, as `sign_planes` has them, from the words of the whole."""
    whole = sign_planes(words).flatten(1)[:, :columns].reshape(-1)
    return whole[part.offset : part.offset + part.numel].view(part.here)


def unpack_vector(words: torch.Tensor, part: Shard, columns: int) -> torch.Tensor:
    """The bits of a vector in this process, from the words of the whole."""
    return vector_signs(words, part, columns) >= 0

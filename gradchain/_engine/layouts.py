"""What a kernel depends on and what it takes: the layouts, the tensors and the numbers of a bucket."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any, TypeAlias, cast
from weakref import WeakValueDictionary

import torch

from gradchain._chain.program import Numbers, Program
from gradchain._chain.slots import kept
from gradchain._chain.tracing import traits_of
from gradchain._core.shard import Shard
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain.storage import Storage

SMALL_ELEMENTS = 1 << 16
"""Tensors of at most so many elements are stepped several to a call."""

COUNTED = 1 << 31
"""From so many elements on, the places of elements are counted in 64 bits."""

LINE = 64
"""Elements of a line. Since their number is known to be a multiple, loops have no remainder to look for."""

ANY: tuple[str, ...] = ("any",)
"""The shape of parameters that share a kernel, whatever their shapes."""


class ScalarArgs:
    """The numbers of one step as tensors: parameters that share numbers share a tensor."""

    def __init__(self) -> None:
        self._packed: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._patterns: dict[int, tuple[Any, ...]] = {}

    def of(self, item: ParamStep) -> torch.Tensor:
        if item.pack is not None:
            return item.pack
        key = (id(item.numbers), item.owner.device)
        if key not in self._packed:
            self._packed[key] = pack(item.numbers, key[1])
        return self._packed[key]

    def pattern(self, numbers: Numbers) -> tuple[Any, ...]:
        """The pattern of some numbers, found once a step."""
        known = self._patterns.get(id(numbers))
        if known is None:
            known = self._patterns[id(numbers)] = _interned(pattern_of(numbers))
        return known


def pattern_of(numbers: Numbers) -> tuple[tuple[tuple[str, bool], ...], ...]:
    """The names of the numbers, and which of them are `None`: what a kernel depends on."""
    return tuple(tuple(zip(stage, map(is_, stage.values(), repeat(None)))) for stage in numbers)  # at each step


@functools.lru_cache(maxsize=4096)
def _interned(pattern: tuple[Any, ...]) -> tuple[Any, ...]:
    """One object for equal patterns, so that they are compared by identity."""
    return pattern


def pack(numbers: Numbers, device: torch.device) -> torch.Tensor:
    """The numbers in double precision, as one vector on the device."""
    present = [value for stage in numbers for value in stage.values() if value is not None]
    plain = [value for value in present if not isinstance(value, torch.Tensor)]
    packed = torch.frombuffer(array("d", plain), dtype=torch.float64) if plain else torch.empty(0, dtype=torch.float64)
    if device.type != "cpu":
        packed = packed.to(device, non_blocking=True)  # a number alone would wait
    if len(plain) == len(present):
        return packed
    rest = iter(packed.unbind())
    rows = (x if isinstance(x, torch.Tensor) else next(rest) for x in present)
    return torch.stack([x.to(device, torch.float64, non_blocking=True).reshape(()) for x in rows])


@dataclass(frozen=True)
class Layout:
    """The static part of a step of one parameter: what its kernel depends on. Equal layouts share a kernel."""

    structure: tuple[Any, ...]
    tensors: tuple[tuple[Any, ...], ...]
    slots: tuple[str, ...]
    fields: tuple[tuple[tuple[str, bool], ...], ...]
    maximize: bool
    noisy: bool
    guarded: bool
    shard: Shard | None
    matrix: tuple[int, int] | None
    common: tuple[str, ...]
    line: int = 0
    """The elements of a line, if it stands for parameters of all shapes, each taken as lines; else 0."""

    @property
    def seen(self) -> tuple[int, int] | None:
        """The shape in which a compiled step sees what has a number for each element, if it is another."""
        return (-1, self.line) if self.line else self.matrix

    @property
    def small(self) -> bool:
        """Whether the parameter here has few elements."""
        return not self.line and math.prod(self.tensors[0][0]) <= SMALL_ELEMENTS

    @property
    def packed(self) -> bool:
        """Whether slots are kept as factors, and bits that are packed along other rows."""
        return any(slot.endswith((".row", ".column")) for slot in self.slots)

    @property
    def dense(self) -> list[bool]:
        """Which of the parameter, the gradient and the slots have a number for each element."""
        shapes = [shape for shape, *_ in self.tensors]
        return [True, True, *(_is_dense(slot) and x == shapes[0] for slot, x in zip(self.slots, shapes[2:]))]

    @staticmethod
    def of(item: ParamStep) -> Layout:
        slots = item.program.keys(item.state)
        tensors = (item.owner, item.grad, *(item.state[slot] for slot in slots))
        line = line_of(item)
        shape = item.owner.shape
        return Layout(
            item.program.structure,
            tuple(
                ((*ANY, x.shape == shape), (1,), x.dtype, x.device)
                if line
                else (tuple(x.shape), x.stride(), x.dtype, x.device)
                for x in tensors
            ),
            slots,
            pattern_of(item.numbers),
            item.maximize,
            item.index is not None,
            item.keep is not None,
            None if line else item.record.shard,
            None if line else matrix_of(item),
            item.common,
            line,
        )

    def task(
        self,
        program: Program,
        kept: Sequence[torch.Tensor],
        grad: torch.Tensor,
        pack: torch.Tensor,
        key: Any,
        keep: Any,
    ) -> StepInputs:
        """A task like the original, over these tensors; `kept` are the parameter and its slots."""
        param, *slots = kept
        numbers = iter(pack.unbind())
        values = tuple({name: None if none else next(numbers) for name, none in stage} for stage in self.fields)
        gradient = -grad if self.maximize else grad
        if self.matrix is not None:
            slots = [x.view(self.matrix) if whole else x for x, whole in zip(slots, self.dense[2:])]
            param, gradient = param.view(self.matrix), gradient.view(self.matrix)
        return StepInputs(param, gradient, dict(zip(self.slots, slots)), program, values, key, self.shard, keep)


def line_of(item: ParamStep, small: bool = False) -> int:
    """The elements of a line, if one kernel, of any number of lines, will do for this parameter and for others; else 0.

    Its bits are those of a kernel of its own. Stages of third parties are traced for each shape: they may look at one. Of
    small tensors several share a call, unless they are in bytes or are to be stepped beside large ones.
    """
    owner, program = item.owner, item.program
    small = small or item.beside or any(item.state[key].dtype.itemsize == 1 for key in program.keys(item.state))
    if (owner.numel() <= SMALL_ELEMENTS and not small) or owner.device.type != "cpu" or program.third_party:
        return 0
    if item.index is not None and (item.record.shard.group is not None or owner.numel() >= COUNTED):
        return 0
    if item.common or not program.as_built(item.numbers) or traits_of(program, owner).records:
        return 0
    line = LINE if item.in_order() else _block_of(item)
    return (
        line if line and owner.numel() >= 2 * line and owner.numel() % line == 0 else 0
    )  # one line is a tensor by itself


def _block_of(item: ParamStep) -> int:
    """The size of the blocks that its slots are kept in, if each goes by itself; else 0."""
    traits, shard, program = traits_of(item.program, item.owner), item.record.shard, item.program
    kept_so = [slot for _, slot in program.owners.values() if slot.kept_as is not None]
    if traits.mixed or traits.placed or shard.group is not None or not kept_so:
        return 0
    own = all(type(slot.kept_as).__module__.startswith("gradchain.") for slot in kept_so)
    blocks = {cast("Storage", slot.kept_as).blocked(kept(slot, item.owner, shard)) for slot in kept_so}
    block = blocks.pop() if len(blocks) == 1 and own else None
    if block is None:
        return 0
    tensors = (item.owner, item.grad, *(item.state[key] for key in program.keys(item.state)))
    whole = all(x.is_contiguous() and (x.shape == item.owner.shape or x.shape == block[:1]) for x in tensors)
    return block[1] if whole else 0


def _is_dense(slot: str) -> bool:
    """Whether a tensor of the state has a number for each element, going by its name; packed signs may have its shape."""
    return slot.count(".") < 2 or slot.endswith(".data")


def matrix_of(item: ParamStep) -> tuple[int, int] | None:
    """The matrix as which a kernel sees an elementwise step: that of its storages, which else would divide at each index."""
    slots = [item.state[slot] for slot in item.program.keys(item.state)]
    dense = [x for x in (item.owner, item.grad, *slots) if x.shape == item.owner.shape]
    shard = item.record.shard
    if (
        (shard.group is not None and shard.columns is None)
        or not traits_of(item.program, item.owner).elementwise
        or not all(x.is_contiguous() for x in dense)
    ):
        return None
    owners = [slot for _, slot in item.program.owners.values() if slot.kept_as is not None]
    views = [(cast("Storage", slot.kept_as), kept(slot, item.owner, shard)) for slot in owners]
    shapes = [*(storage.matrix(view) for storage, view in views), *(storage.blocked(view) for storage, view in views)]
    return next((shape for shape in shapes if shape is not None), None)


def layout_check(tensors: Sequence[torch.Tensor]) -> Callable[..., bool]:
    """Whether some tensors are like these: of their types, dtypes, devices, sizes and strides.

    By the guards of torch's compiler, which look at all of them in one call, where this torch has them.
    """
    dims: Any = {
        "dynamic_dims_sizes": [list(x.size()) for x in tensors],
        "dynamic_dims_strides": [list(x.stride()) for x in tensors],
    }
    try:
        from torch._C._dynamo.guards import TensorGuards

        guards: Any = TensorGuards(*tensors, **dims)
        return guards.check
    except (ImportError, TypeError):
        known = list(map(_layout_of, tensors))
        return lambda *others: list(map(_layout_of, others)) == known


def _layout_of(tensor: Any) -> tuple[Any, ...] | None:
    """`None` for what is no tensor in memory, as a gradient that is missing or sparse."""
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
        return None
    return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride()


class LayoutId:
    """Stands for a layout: equal layouts have one id, and it is compared by identity."""

    __slots__ = ("__weakref__", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @staticmethod
    def of(layout: Layout) -> LayoutId:
        known = _ids.get(layout)
        if known is None:
            known = _ids[layout] = LayoutId(layout)
        return known


_ids: WeakValueDictionary[Layout, LayoutId] = WeakValueDictionary()
"""The ids that parameters and kernels of this process use."""

LayoutIds: TypeAlias = tuple[LayoutId, ...]
"""The layouts of some parameters, in order."""


class CachedLayout:
    """The layout of a parameter, as long as nothing that it depends on has changed."""

    __slots__ = ("held", "id", "layout", "signature", "spans", "tensors")

    def __init__(self, item: ParamStep, signature: tuple[Any, ...]) -> None:
        self.signature = signature
        self.id = LayoutId.of(Layout.of(item))
        self.layout = self.id.layout
        self.tensors: list[torch.Tensor] = [item.state[slot] for slot in self.layout.slots]
        self.held = [(slot, x, x.stride()) for slot, x in zip(self.layout.slots, self.tensors)]
        self.spans = [_span(x) for x in (item.owner, *self.tensors)]


def cached_layout(item: ParamStep, scalars: ScalarArgs) -> CachedLayout:
    """The layout of a parameter, found anew if it has changed since the last step."""
    grad, owner, state = item.grad, item.owner, item.state
    signature = (
        grad.stride(), grad.dtype, owner.data_ptr(), owner.shape, owner.stride(), owner.dtype, scalars.pattern(item.numbers),
        item.maximize, item.index is None, item.keep is None, item.beside,
    )  # fmt: skip
    known: CachedLayout | None = item.record.layout
    if known is not None and known.signature == signature:
        for slot, tensor, stride in known.held:
            if state[slot] is not tensor or tensor.stride() != stride:
                break
        else:
            return known
    known = item.record.layout = CachedLayout(item, signature)
    return known


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The memory that a tensor lives in, from and to."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def inputs_of(due: Sequence[ParamStep], scalars: ScalarArgs) -> list[torch.Tensor]:
    """The dynamic part of a bucket, in the order in which a kernel takes it."""
    kept = [tensor for item in due for tensor in item.kept]
    return [*kept, *map(_gradient, due), *map(scalars.of, due), *_noise_keys(due), *_keeps(due)]


def _gradient(item: ParamStep) -> torch.Tensor:
    """The gradient, in memory of its own: a kernel may read it after it has begun to write."""
    place = item.grad.data_ptr()
    shared = any(start <= place < end for start, end in item.record.layout.spans)
    return item.grad.clone() if shared else item.grad


def _noise_keys(due: Sequence[ParamStep]) -> list[torch.Tensor]:
    """The noise keys of a bucket as one vector, if its program draws noise."""
    if due[0].index is None:
        return []
    if due[0].step is None:
        return [torch.stack([cast("torch.Tensor", item.noise_key) for item in due])]
    keys = torch.tensor([item.noise for item in due], dtype=torch.int32)
    return [keys.to(due[0].owner.device, non_blocking=True)]


def _keeps(due: Sequence[ParamStep]) -> list[torch.Tensor]:
    """Which parameters of a bucket are to be stepped, as one vector, if only the device knows."""
    keeps = [item.keep for item in due if item.keep is not None]
    return [torch.stack(keeps)] if keeps else []

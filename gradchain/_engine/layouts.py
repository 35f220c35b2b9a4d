"""What a kernel depends on and what it takes: the layouts, the tensors and the numbers of a bucket."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from weakref import WeakValueDictionary

import torch

from gradchain._chain.program import Numbers, Program
from gradchain._chain.slots import kept
from gradchain._chain.tracing import traits_of
from gradchain._core.shard import Shard
from gradchain._engine.inductor import LINE
from gradchain._engine.param_step import ParamStep, StepInputs
from gradchain.storage import Storage

SMALL_ELEMENTS = 1 << 16
"""Tensors of at most so many elements are stepped several to a call."""

ANY: tuple[str, ...] = ("any",)
"""The shape of large parameters that share a kernel, whatever their shapes."""


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
    return tuple(tuple((name, value is None) for name, value in stage.items()) for stage in numbers)


@functools.lru_cache(maxsize=4096)
def _interned(pattern: tuple[Any, ...]) -> tuple[Any, ...]:
    """One object for equal patterns, so that they are compared by identity."""
    return pattern


def pack(numbers: Numbers, device: torch.device) -> torch.Tensor:
    """The numbers in double precision, as one vector on the device."""
    present = [value for stage in numbers for value in stage.values() if value is not None]
    plain = [value for value in present if not isinstance(value, torch.Tensor)]
    packed = torch.tensor(plain, dtype=torch.float64).to(device, non_blocking=True)  # a number alone would wait
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

    @property
    def flat(self) -> bool:
        """Whether it stands for large parameters of all shapes, each taken as lines of elements."""
        return self.tensors[0][0] == ANY

    @property
    def small(self) -> bool:
        """Whether the parameter here has few elements."""
        return not self.flat and math.prod(self.tensors[0][0]) <= SMALL_ELEMENTS

    @property
    def packed(self) -> bool:
        """Whether slots are kept as factors, and bits that are packed along other rows."""
        return any(slot.endswith((".row", ".column")) for slot in self.slots)

    @staticmethod
    def of(item: ParamStep) -> Layout:
        slots = item.program.keys(item.state)
        tensors = (item.owner, item.grad, *(item.state[slot] for slot in slots))
        flat = _is_flat(item)
        return Layout(
            item.program.structure,
            tuple(
                (ANY, (1,), x.dtype, x.device) if flat else (tuple(x.shape), x.stride(), x.dtype, x.device)
                for x in tensors
            ),
            slots,
            pattern_of(item.numbers),
            item.maximize,
            item.index is not None,
            item.keep is not None,
            None if flat else item.record.shard,
            None if flat else _matrix_of(item),
            item.common,
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
            dense = [_is_dense(slot) and x.shape == param.shape for slot, x in zip(self.slots, slots)]
            slots = [x.view(self.matrix) if whole else x for x, whole in zip(slots, dense)]
            param, gradient = param.view(self.matrix), gradient.view(self.matrix)
        return StepInputs(param, gradient, dict(zip(self.slots, slots)), program, values, key, self.shard, keep)


def _is_flat(item: ParamStep) -> bool:
    """Whether one kernel, of any number of lines of elements, will do for this parameter and for others.

    Its bits are those of a kernel of its own. Stages of third parties are traced for each shape: they may look at one.
    """
    owner, program = item.owner, item.program
    if owner.numel() <= SMALL_ELEMENTS or owner.numel() % LINE or owner.device.type != "cpu" or program.third_party:
        return False
    if not item.by_element() or not program.as_built(item.numbers):
        return False
    return not traits_of(program, owner).records and not item.common


def _is_dense(slot: str) -> bool:
    """Whether a tensor of the state has a number for each element, going by its name; packed signs may have its shape."""
    return slot.count(".") < 2 or slot.endswith(".data")


def _matrix_of(item: ParamStep) -> tuple[int, int] | None:
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
        item.maximize, item.index is None, item.keep is None,
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

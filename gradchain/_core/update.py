"""What one stage passes to the next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import TypedDict, Unpack


class _Parts(TypedDict, total=False):
    value: torch.Tensor
    scale: torch.Tensor | None
    averaged: torch.Tensor | None
    decay: torch.Tensor | None
    decay_weight: torch.Tensor | None
    cautious: bool
    skip_mask: Any
    outside: Outside | None


@dataclass(frozen=True)
class Update:
    """A step in the making. The optimizer finally does `param <- param - decay - value`.

    | part | meaning |
    |---|---|
    | `value` | the direction so far; starts as the gradient |
    | `scale` | a pending denominator that is not divided out yet; `None` once resolved |
    | `averaged` | the gradient that a moment stage averaged `value` from; `None` before any moment |
    | `decay` | the decoupled decay, subtracted next to `value` and untouched by what later stages do to `value` |
    | `decay_weight` | what the decays that follow are multiplied by, elementwise; `None` for 1 |
    | `cautious` | whether the decays that follow act only where they agree with `value` in sign |
    | `skip_mask` | where true (a bool, or a 0-d tensor of one), the parameter stays as it is in this step |
    | `outside` | the update that `value` was projected from, between `low_rank` and `full_rank`; `None` elsewhere |

    >>> update = Update(torch.tensor([1.0, -2.0]))
    >>> update.replace(value=-update.value).value
    tensor([-1.,  2.])
    """

    value: torch.Tensor
    scale: torch.Tensor | None = None
    averaged: torch.Tensor | None = None
    decay: torch.Tensor | None = None
    decay_weight: torch.Tensor | None = None
    cautious: bool = False
    skip_mask: Any = False
    outside: Outside | None = None

    @property
    def gradient(self) -> torch.Tensor:
        """The effective gradient: what later stages compare a momentum with. Before any moment it is `value`."""
        return self.value if self.averaged is None else self.averaged

    def replace(self, **parts: Unpack[_Parts]) -> Update:
        """Replace some parts; a stage never writes into the tensors it is given. Returns: a copy.

        Raises: TypeError: no such part.
        """
        if not parts.keys() <= _NAMES:
            raise TypeError(f"Update has no part {min(parts.keys() - _NAMES)!r}; it has: {', '.join(sorted(_NAMES))}.")
        copy = object.__new__(Update)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(parts)
        return copy

    def average(self, value: torch.Tensor) -> Update:
        """Set a moment as `value`; the gradient that it averaged stays available as `gradient`. Returns: a copy."""
        return self.replace(value=value, averaged=self.value if self.averaged is None else self.averaged)

    def add_decay(self, decay: torch.Tensor) -> Update:
        """Add `decay` to the decay term, weighted and masked as earlier stages asked for. Returns: a copy."""
        if self.decay_weight is not None:
            decay = self.decay_weight * decay
        if self.cautious:
            decay = torch.where(self.value.sign() * decay.sign() < 0, torch.zeros_like(decay), decay)
        return self.replace(decay=decay if self.decay is None else self.decay + decay)

    def weigh_decay(self, weight: torch.Tensor) -> Update:
        """Multiply the decays that follow by `weight` as well. Returns: a copy."""
        return self.replace(decay_weight=weight if self.decay_weight is None else self.decay_weight * weight)

    def decayed(self, param: torch.Tensor) -> torch.Tensor:
        """Subtract the decay so far, as a second decay needs it. Returns: a tensor like `param`."""
        return param if self.decay is None else param - self.decay


@dataclass(frozen=True)
class Outside:
    """What a direction was projected from, and by what.

    With `left` the direction is `basis.T @ value`, else `value @ basis`, of the value as a matrix of its first axis against
    the rest.
    """

    update: Update
    projected: torch.Tensor
    basis: torch.Tensor
    left: bool

    def lifted(self, small: torch.Tensor) -> torch.Tensor:
        """Project a direction back. Returns: a tensor like the value that was projected; its rows here."""
        whole = self.basis @ small if self.left else small @ self.basis.mT
        return whole.view(self.update.value.shape)

    def lift(self, update: Update) -> Update:
        """Look at an update of the small direction as one of the parameter, a pending scale divided out. Returns: a copy."""
        value = update.value if update.scale is None else update.value / torch.where(update.scale == 0, 1, update.scale)
        return self.update.replace(value=self.lifted(value), skip_mask=update.skip_mask)


_NAMES = frozenset(field.name for field in dataclasses.fields(Update))

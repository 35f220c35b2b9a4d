"""Elements rest for a step when their sign has changed."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from gradchain._chain.context import Context
from gradchain._chain.declare import ParamInfo, Read, Slot, earlier
from gradchain._chain.stage import Number, Stage, Yields
from gradchain._core.fields import static
from gradchain._core.reduce import Request, Totals, tensor_partials
from gradchain._core.shard import Shard
from gradchain._core.update import Update
from gradchain.errors import ChainError
from gradchain.ops import where
from gradchain.storage.signs import pack, pack_vector, unpack, unpack_vector, words_of

MOMENTA = ("exp_avg", "momentum_buffer")


class freeze_on_flip(Stage):
    r"""Zero the elements whose sign has changed since the last step.

    $$b_t = [z_t > 0], \qquad u \leftarrow u \odot [b_t = b_{t-1}], \qquad b_0 = [g_1 > 0]$$

    An element is frozen for one step, unless it flips again. 0 counts as negative; $g_1$ is the raw gradient.

    Args:
        watch: what $z$ is: `"direction"` (default), the direction itself, or `"momentum"`, the `exp_avg` or
            `momentum_buffer` of a stage before. Lion's direction and its momentum do not flip at the same time.

    The slot `prev_sign` of `"direction"` takes one bit an element: $b$, packed by rows. `"momentum"` has no slot.

    Raises: OptionError: a value out of range; ChainError: `watch="momentum"`, and no stage before it has a momentum.
    Source: adv_optm, whose dense Freeze-on-Flip watches the direction, and the factored one the momentum.

    >>> gradchain.recipe("lion").insert_before("sign", gradchain.freeze_on_flip()).names[:3]
    ('lion_interpolate', 'freeze_on_flip', 'sign')
    """

    scale = "any"
    source = "adv_optm, pypi.org/project/adv-optm"

    watch: str = static(default="direction", choices=("direction", "momentum"))

    @property
    def reads(self) -> tuple[Read, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(earlier(slot, optional=True) for slot in MOMENTA) if self.watch == "momentum" else ()

    def check(self, before: Sequence[Stage], after: Sequence[Stage]) -> None:
        owned = {slot for stage in before for slot in stage.known_slots}
        if self.watch == "momentum" and not owned & set(MOMENTA):
            raise ChainError(
                f"{self.address} watches the signs of a momentum, and no stage before it owns 'exp_avg' or "
                f"'momentum_buffer'. Put first_moment(...) before {self.address}, or pass watch='direction'."
            )

    def slots(self, p: ParamInfo) -> dict[str, Slot]:
        if self.watch == "momentum":
            return {}
        rows, columns = (1, p.numel) if p.ndim < 2 else (p.shape[0], p.shape[1:].numel())
        dtype, words = words_of(columns)
        return {"prev_sign": Slot(0, shape=(rows, words), per_row=p.ndim > 1, dtype=dtype)}

    def scalars(self, step: Number) -> dict[str, Number]:
        return {"first": where(step == 1, 1.0, 0.0)}

    def update(self, update: Update, ctx: Context) -> Yields:
        if ctx.numel == 0:
            return update, {}
        if self.watch == "momentum":
            slot = "momentum_buffer" if ctx.read_or("exp_avg", None) is None else "exp_avg"
            now, before, kept = ctx.read(slot) > 0, ctx.previous(slot) > 0, {}
        else:
            now = update.value > 0
            before, words = yield from _exchanged(ctx.read("prev_sign"), now, ctx.shard)
            kept = {"prev_sign": words}
        before = where(ctx["first"] > 0, ctx.gradient > 0, before)
        ctx.observe("frozen", lambda: now != before)
        return update.replace(value=torch.where(now == before, update.value, torch.zeros_like(update.value))), kept


def _exchanged(
    words: torch.Tensor, now: torch.Tensor, shard: Shard
) -> Generator[Request, Totals, tuple[torch.Tensor, torch.Tensor]]:
    """Unpack the signs in `words` and pack those of this step, by rows. A vector is one row."""
    if len(shard.shape) < 2:
        size = shard.shape.numel()
        t = yield tensor_partials(words=pack_vector(now, shard, size))
        return unpack_vector(words, shard, size), t.words
    return unpack(words, shard.row_numel).view(shard.here), pack(now.reshape(shard.rows, shard.row_numel))

"""Transforms that break one law each, in ways that are met; most are a line away from a sound one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import gradchain
from gradchain import Slot, hyper, static, whole_tensor

BROKEN: list[tuple[str, type[gradchain.Stage]]] = []
"""The law, and who breaks it."""


def breaks(*laws: str) -> Callable[[Any], Any]:
    def register(cls: Any) -> Any:
        BROKEN.extend((law, cls) for law in laws)
        return cls

    return register


class kit_sound(gradchain.Stage):
    """A running average, divided by the norm of the tensor: keeps all laws."""

    beta: float = hyper(default=0.9, ge=0, lt=1)
    mode: str = static(default="plain", choices=("plain", "half"))

    def slots(self, p: Any) -> Any:
        return {"kit_average": Slot()}

    def update(self, update: Any, ctx: Any) -> Any:
        m = self.beta * ctx.read("kit_average") + (1 - self.beta) * update.value
        t = yield whole_tensor(mm=m * m)
        factor = 0.5 if self.mode == "half" else 1.0
        return update.average(factor * m / (t.mm.sqrt() + 1e-8)), {"kit_average": m}


class Averaging(gradchain.Stage):
    """Keeps an average."""

    def slots(self, p: Any) -> Any:
        return {"kit_average": Slot()}

    def update(self, update: Any, ctx: Any) -> Any:
        m = 0.9 * ctx.read("kit_average") + 0.1 * update.value
        return update.average(self.bend(m, ctx)), {"kit_average": m}

    def bend(self, m: Any, ctx: Any) -> Any:
        return m


@breaks("purity")
class kit_writes_to_gradient(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value.mul_(0.5))


@breaks("purity")
class kit_writes_to_slot(Averaging):
    def update(self, update: Any, ctx: Any) -> Any:
        m = ctx.read("kit_average").mul_(0.9).add_(update.value)
        return update.average(m * 1), {"kit_average": m}


@breaks("purity")
class kit_writes_to_parameter(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        ctx.param.clamp_(-1, 1)
        return update


CALLS: list[int] = []


@breaks("repeatable_update")
class kit_counts_calls(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        CALLS.append(1)
        return update.replace(value=update.value / (1 + len(CALLS)))


@breaks("global_rng")
class kit_throws_dice(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value * torch.rand_like(update.value))


@breaks("no_sync")
class kit_reads_a_value(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=update.value / (1 + update.value.abs().mean().item()))


@breaks("no_sync")
class kit_branches(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update if update.value.sum() > 0 else update.replace(value=0.5 * update.value)


@breaks("numbers_as_tensors")
class kit_branches_on_a_number(gradchain.Stage):
    power: float = hyper(default=0.7, ge=0)

    def update(self, update: Any, ctx: Any) -> Any:
        if self.power > 0.5:
            return update.replace(value=self.power * update.value)
        return update


@breaks("numbers_as_tensors")
class kit_branches_on_the_step(gradchain.Stage):
    warm: float = hyper(default=2.0, ge=0)

    def scalars(self, step: Any) -> Any:
        return {"ramp": 1.0 if step > self.warm else 0.5}

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=ctx["ramp"] * update.value)


@breaks("numbers_as_tensors")
class kit_asks_for_a_float(gradchain.Stage):
    power: float = hyper(default=0.7, ge=0)

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=(self.power if isinstance(self.power, float) else 1.0) * update.value)


@breaks("slots")
class kit_returns_a_row(gradchain.Stage):
    def slots(self, p: Any) -> Any:
        return {"kit_row": Slot(shape=p.shape[1:])}

    def update(self, update: Any, ctx: Any) -> Any:
        return update, {"kit_row": update.value[:1].sum(0) if update.value.shape == (3,) else update.value.abs()}


@breaks("slots")
class kit_undeclared(Averaging):
    def update(self, update: Any, ctx: Any) -> Any:
        return update, {"kit_average": update.value} | ({"kit_other": update.value} if update.value.ndim == 1 else {})


@breaks("fresh_slots")
class kit_random_start(Averaging):
    def slots(self, p: Any) -> Any:
        return {"kit_average": Slot(lambda param, shard: torch.rand_like(param))}


@breaks("sharded")
class kit_sums_by_hand(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m / (m.norm() + 1e-8)


@breaks("sharded")
class kit_counts_its_rows(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m / max(1, m.numel())


@breaks("config", "value")
class kit_takes_a_function(gradchain.Stage):
    function: object = static(default=torch.sign, convert=lambda given: lambda x: given(x))

    def update(self, update: Any, ctx: Any) -> Any:
        return update.replace(value=self.function(update.value))  # type: ignore[operator]


@breaks("printed")
class kit_hides_options(Averaging):
    power: float = hyper(default=0.7, ge=0)

    def bend(self, m: Any, ctx: Any) -> Any:
        return self.power * m

    def __repr__(self) -> str:
        return "kit_hides_options(...)"


@breaks("value")
class kit_remembers(Averaging):
    def update(self, update: Any, ctx: Any) -> Any:
        self.__dict__["last"] = update.value.shape
        return super().update(update, ctx)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "notes", [])


@breaks("errors")
class kit_accepts_anything(Averaging):
    power: float = hyper(default=0.7, ge=0)

    def bend(self, m: Any, ctx: Any) -> Any:
        return self.power * m

    def __post_init__(self) -> None:
        """Without super().__post_init__()."""


@breaks("errors")
class kit_says_nothing(Averaging):
    power: float = hyper(default=0.7, ge=0)

    def bend(self, m: Any, ctx: Any) -> Any:
        return self.power * m

    def __post_init__(self) -> None:
        if not isinstance(self.power, float) or not self.power >= 0:
            raise ValueError("bad value")
        super().__post_init__()


@breaks("options_act")
class kit_idle_number(Averaging):
    power: float = hyper(default=0.7, ge=0)


@breaks("options_act")
class kit_idle_option(Averaging):
    exact: bool = static(default=False)


@breaks("scalars")
class kit_first_axis(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m - 0.5 * m.mean(dim=-1, keepdim=True) if m.shape != () else m[0]


@breaks("every_rank")
class kit_two_axes(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m if m.ndim < 4 else m.flip(0).view(m.shape[0], -1)


@breaks("empty")
class kit_mean_of_all(Averaging):
    def update(self, update: Any, ctx: Any) -> Any:
        assert update.value.numel()
        m = 0.9 * ctx.read("kit_average") + 0.1 * update.value
        return update.average(m), {"kit_average": m}


@breaks("zero_gradients")
class kit_norm_without_eps(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        t = yield whole_tensor(gg=update.value.square())
        return update.replace(value=update.value / t.gg.sqrt())


@breaks("float16")
class kit_squares_in_half(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        g = update.value
        if ctx.stored_param.dtype == torch.float16:
            g = g.half()
        return update.replace(value=(g / (g.square() + 1e-8).sqrt()))


@breaks("nonfinite_gradients")
class kit_adds_the_last_one(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        TOTAL.append(update.value.sum() * 0)
        return update.replace(value=update.value + torch.stack([x.to(update.value.dtype) for x in TOTAL[-2:]]).sum())


TOTAL: list[torch.Tensor] = []


@breaks("rate_zero")
class kit_divides_by_rate(Averaging):
    lr: float | None = gradchain.follow("lr")

    def bend(self, m: Any, ctx: Any) -> Any:
        return m / self.lr


@breaks("accepted")
class kit_fails(gradchain.Stage):
    def update(self, update: Any, ctx: Any) -> Any:
        return update.value


@breaks("functional")
class kit_looks_at_autograd(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m if torch.is_grad_enabled() else 0.5 * m


@breaks("compiled")
class kit_looks_at_type(Averaging):
    def bend(self, m: Any, ctx: Any) -> Any:
        return m if type(m) is torch.Tensor else 0.5 * m

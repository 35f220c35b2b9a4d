"""Optimizers that break one law each, in ways that are met: made from a sound one by a few lines."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch

import gradchain

BROKEN: list[tuple[str, type[torch.optim.Optimizer]]] = []
"""The law, and who breaks it."""


def breaks(*laws: str) -> Callable[[Any], Any]:
    def register(cls: Any) -> Any:
        BROKEN.extend((law, cls) for law in laws)
        return cls

    return register


class Sound(torch.optim.Optimizer):
    """Momentum with decoupled decay: keeps all laws."""

    def __init__(
        self, params: Any, lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.1, **more: Any
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "maximize": False, **more}
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        for key in ("lr", "momentum", "weight_decay"):
            if not param_group.get(key, 0.0) >= 0:
                raise ValueError(f"{key} = {param_group[key]}")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for param, saved in zip(list(self.state), state_dict["state"].values()):
            self.state[param] = {key: value.clone() for key, value in saved.items()}

    def state_dtype(self, param: torch.Tensor) -> torch.dtype:
        return torch.promote_types(param.dtype, torch.float32)

    def step(self, closure: Any = None) -> Any:
        return self.whole(closure)

    def whole(self, closure: Any) -> Any:
        """The step, for subclasses: each `step` that torch knows calls the hooks."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        due = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for _, p in due):
            raise RuntimeError("sparse gradients are not supported; call grad.to_dense()")
        self.prepare([p.grad for _, p in due])
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for group, p in due:
                self.one(group, p, p.grad)
        return loss

    def prepare(self, grads: list[torch.Tensor]) -> None:
        """What comes before all parameters."""

    def one(self, group: dict[str, Any], p: torch.Tensor, grad: torch.Tensor) -> None:
        state = self.state[p]
        if not state:
            self.begin(state, p)
        grad = grad.to(self.state_dtype(p))
        average = state["average"]
        average.mul_(group["momentum"]).add_(-grad if group["maximize"] else grad)
        p.add_((self.direction(average) + group["weight_decay"] * p) * -group["lr"])

    def begin(self, state: dict[str, Any], p: torch.Tensor) -> None:
        state["average"] = torch.zeros_like(p, dtype=self.state_dtype(p))

    def direction(self, average: torch.Tensor) -> torch.Tensor:
        return average


@breaks("runs")
class NeedsAnArgument(Sound):
    def __init__(self, params: Any, model: Any, **options: Any) -> None:
        super().__init__(params, **options)


@breaks("gradients_unwritten")
class DecayIntoGradient(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        grad.add_(p, alpha=0.1)
        super().one(group, p, grad)


@breaks("none_gradients")
class AllHaveGradients(Sound):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p) if p.grad is None and closure is None else p.grad
        return self.whole(closure)


@breaks("sparse_gradients")
class SparseIgnored(Sound):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse:
                    p.grad = None
        return self.whole(closure)


@breaks("failed_steps")
class ChecksOnTheWay(Sound):
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.is_sparse:
                        raise RuntimeError("sparse gradients are not supported")
                    with torch.no_grad():
                        self.one(group, p, p.grad)
        return loss


@breaks("zero_gradients")
class NormedWithoutEps(Sound):
    def direction(self, average: Any) -> Any:
        return average / average.norm() if average.numel() else average


@breaks("strided")
class ByView(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad.view(-1).view(p.shape))


@breaks("nonfinite_gradients")
class OneNaNForAll(Sound):
    def prepare(self, grads: Any) -> None:
        self.total = sum((g.sum() * 0 for g in grads), torch.zeros(()))

    def direction(self, average: Any) -> Any:
        return average + self.total.to(average.dtype)


@breaks("independence")
class GlobalNorm(Sound):
    def prepare(self, grads: Any) -> None:
        self.norm = 1 + sum(g.float().norm() for g in grads)

    def direction(self, average: Any) -> Any:
        return average / self.norm.to(average.dtype)


@breaks("empty")
class Largest(Sound):
    def direction(self, average: Any) -> Any:
        return average / (1 + average.abs().max())


@breaks("scalars")
class FirstRow(Sound):
    def direction(self, average: Any) -> Any:
        return average * average[:1].abs().clamp(max=1.0)


@breaks("every_rank")
class TwoAxes(Sound):
    def direction(self, average: Any) -> Any:
        return (
            average / (1 + torch.linalg.matrix_norm(average))
            if average.ndim > 2 and average.shape[2] > 5
            else (average.view(average.shape[0], average.shape[1]) if average.ndim > 3 else average)
        )


@breaks("float64")
class ByFloat(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        torch.add(p, grad.float(), alpha=-group["lr"], out=p) if p.dtype == torch.float64 else None
        p.copy_(p.float().clamp(-1e3, 1e3) + 0.01 if p.dtype == torch.float64 else p)
        super().one(group, p, grad)


@breaks("float16")
class SquaresInHalf(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad / (grad.square().sqrt() + 1e-8))


@breaks("bfloat16")
class StepTwiceInHalf(Sound):
    def direction(self, average: Any) -> Any:
        return average

    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad * 100 if p.dtype == torch.bfloat16 else grad)


@breaks("state_dtypes")
class CastByTorch(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        torch.optim.Optimizer.load_state_dict(
            self, torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state_dict)
        )


@breaks("loaded_is_copied")
class Shares(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for param, state in zip(self.state, state_dict["state"].values()):
            self.state[param] = dict(state)


@breaks("no_graph")
class KeepsTheGraph(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad)
        with torch.enable_grad():
            self.state[p]["last"] = grad * 1


@breaks("in_place")
class AnotherTensor(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        before = p.detach().clone()
        super().one(group, p, grad)
        after = p.detach().clone()
        p.copy_(before)
        p.data = after


@breaks("closure")
class ClosureTwice(Sound):
    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            closure()
        return self.whole(closure)


@breaks("closure")
class LossForgotten(Sound):
    def step(self, closure: Any = None) -> None:
        self.whole(closure)


@breaks("step_hooks")
class StepOnTheObject(Sound):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.step = self.hidden  # type: ignore[method-assign]

    def hidden(self, closure: Any = None) -> Any:
        return self.whole(closure)

    def __getstate__(self) -> Any:
        return {key: value for key, value in self.__dict__.items() if key != "step"}


@breaks("state_dict_hooks")
class OwnStateDict(Sound):
    def state_dict(self) -> Any:
        hooks, self._optimizer_state_dict_pre_hooks = self._optimizer_state_dict_pre_hooks, {}
        saved = super().state_dict()
        self._optimizer_state_dict_pre_hooks = hooks
        return saved


@breaks("zero_grad")
class KeepsGradients(Sound):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


@breaks("late_groups")
class StateAtTheStart(Sound):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.defaults["known"] = sum(len(group["params"]) for group in self.param_groups)

    def one(self, group: Any, p: Any, grad: Any) -> None:
        held = [known for group in self.param_groups for known in group["params"]]
        if any(p is known for known in held[: self.defaults["known"]]):
            super().one(group, p, grad)


@breaks("own_rate")
class FirstGroupForAll(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one({**group, "lr": self.param_groups[0]["lr"]}, p, grad)


@breaks("rate_changes")
class RateOfTheStart(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one({**group, "lr": self.defaults["lr"]}, p, grad)


@breaks("rate_zero")
class DecayWithoutRate(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad)
        p.mul_(0.999)


@breaks("maximize")
class AlwaysDown(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one({**group, "maximize": False}, p, grad)


@breaks("bad_rates")
class AnyRate(Sound):
    def add_param_group(self, param_group: Any) -> None:
        torch.optim.Optimizer.add_param_group(self, param_group)


@breaks("numbers_act")
class DecayOnPaper(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one({**group, "weight_decay": 0.0}, p, grad)


@breaks("resume", "resume_from_file", "pickled", "copied")
class CountsInAnAttribute(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        counts = self.__dict__.setdefault("counts", {})
        counts[p] = counts.get(p, 0) + 1
        super().one(group, p, grad / counts[p])


@breaks("resume_from_file")
class FunctionInTheState(Sound):
    def begin(self, state: Any, p: Any) -> None:
        super().begin(state, p)
        state["average"] = state["average"]
        self.param_groups[0]["schedule"] = math.sqrt


@breaks("pickled")
class HoldsALambda(Sound):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        self.note = lambda: None

    def __getstate__(self) -> Any:
        return self.__dict__


@breaks("copied")
class SharesWithCopies(Sound):
    def __deepcopy__(self, memo: Any) -> Any:
        twin = type(self)([p for group in self.param_groups for p in group["params"]])
        twin.state = self.state
        return twin


@breaks("shown")
class CannotBePrinted(Sound):
    def __repr__(self) -> str:
        return "<optimizer>"


@breaks("repeatable")
class RemembersTheLargest(Sound):
    largest = 1

    def direction(self, average: Any) -> Any:
        RemembersTheLargest.largest = max(self.largest, average.numel())
        return average / self.largest


@breaks("global_rng")
class DropsElements(Sound):
    def direction(self, average: Any) -> Any:
        return torch.dropout(average, 0.1, True)


@breaks("global_rng")
class PythonsDice(Sound):
    def direction(self, average: Any) -> Any:
        return average * random.random()


@breaks("skipped_steps")
class OneCountForAll(Sound):
    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["count"] = self.param_groups[0].get("count", 0) + 1
        return self.whole(closure)

    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, grad / self.param_groups[0]["count"])


@breaks("no_sync")
class BranchesOnTheNorm(Sound):
    def direction(self, average: Any) -> Any:
        return average if average.norm() > 1e-6 else average * 0


@breaks("autocast")
class ProductsUnderAutocast(Sound):
    def prepare(self, grads: Any) -> None:
        self.turned = {id(g): g @ g.mT @ g if g.ndim == 2 else g for g in grads}

    def one(self, group: Any, p: Any, grad: Any) -> None:
        super().one(group, p, self.turned[id(grad)])


@breaks("default_dtype")
class ConstantsByDefault(Sound):
    def direction(self, average: Any) -> Any:
        return average * torch.tensor(0.1)[None].expand(average.shape or (1,)).reshape(average.shape).to(
            torch.get_default_dtype()
        ).pow(0.37)


@breaks("compiled_outside")
class NothingUnderCompile(Sound):
    def one(self, group: Any, p: Any, grad: Any) -> None:
        if not torch.compiler.is_compiling():
            super().one(group, p, grad)


class OwnOptimizer(gradchain.Optimizer):
    """Of gradchain's, by inheritance."""

    def __init__(self, params: Any, lr: float = 0.01, **options: Any) -> None:
        super().__init__(params, gradchain.recipe("adamw", lr=lr), compile=False, **options)


@breaks("telemetry_neutral")
class TelemetryCosts(OwnOptimizer):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.99) if group["telemetry"] else None
        return loss


@breaks("compiled")
class CompiledIsAnother(OwnOptimizer):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.99) if self.compile is True else None
        return loss

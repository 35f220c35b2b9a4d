"""What runs in each process: real training, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import gradchain
from gradchain._chain.tracing import reaching_out
from tests.distributed.sharded import differences, is_exact, mesh_of, split, whole
from tests.laws.cases import CASES
from tests.laws.running import build

STEPS = 4


class Model(nn.Module):
    """An embedding, blocks, and parameters that leave most processes with nothing."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6)) for _ in range(3)])
        self.gain = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(6, 11)
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randn(param.shape, generator=generator) / 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = x + block(x) * self.gain
        return self.head(x)


def batch(step: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + part)
    return tuple(torch.randint(11, (4, 5), generator=generator) for _ in range(2))  # type: ignore[return-value]


def loss_of(model: nn.Module, step: int, part: int) -> torch.Tensor:
    tokens, wanted = batch(step, part)
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), wanted.flatten())


def sharded_model() -> Model:
    model, mesh = Model(), mesh_of("fsdp")
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def optimizer_of(name: str, model: nn.Module, **options: Any) -> gradchain.Optimizer:
    return build(model, CASES[name].chain, compile=False, **options)


def run(model: nn.Module, optimizer: gradchain.Optimizer, parts: Sequence[int], *, steps: bool = True) -> None:
    """Training on some parts of each batch, one after another; the learning rate falls."""
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
    for step in range(STEPS):
        for number, part in enumerate(parts):
            if hasattr(model, "set_requires_gradient_sync"):
                model.set_requires_gradient_sync(number == len(parts) - 1)
            (loss_of(model, step, part) / len(parts)).backward()
        if steps:
            optimizer.step()
            optimizer.zero_grad()
        scheduler.step()


def compared(name: str, left: nn.Module, right: nn.Module, exact: bool) -> list[str]:
    pairs = zip(left.named_parameters(), right.parameters(), strict=True)
    return [f"{name} {n}: {text}" for (n, a), b in pairs if (text := differences(a, b, exact))]


def equals(names: Sequence[str]) -> list[str]:
    """FSDP2, DDP and FSDP2 in the backward pass, against one process that sees all the data."""
    warnings.simplefilter("ignore")
    world, rank, found = dist.get_world_size(), dist.get_rank(), []
    for name in names:
        plain = Model()
        run(plain, optimizer_of(name, plain), range(world))
        sharded = sharded_model()
        run(sharded, optimizer_of(name, sharded), [rank])
        found += compared(f"{name} fsdp", sharded, plain, is_exact(CASES[name].chain))
        model = Model()
        copies = nn.parallel.DistributedDataParallel(model)
        run(copies, optimizer_of(name, model), [rank])
        found += compared(f"{name} ddp", model, plain, is_exact(CASES[name].chain))
        if reaching_out(CASES[name].chain, sharded.parameters()) is None:
            found += in_backward(name, rank)
    return found


def in_backward(name: str, rank: int) -> list[str]:
    """The same steps in the backward pass, with accumulation of two parts."""
    one, other = sharded_model(), sharded_model()
    run(one, optimizer_of(name, one), [rank, rank + 10])
    optimizer = optimizer_of(name, other)
    with gradchain.step_in_backward(optimizer):
        run(other, optimizer, [rank, rank + 10], steps=False)
    found = compared(f"{name} in backward", other, one, True)
    return found + [f"{name}: a gradient was kept" for p in other.parameters() if p.grad is not None]


def layouts_are_found_once() -> list[str]:
    """The compiled path looks at a sharded parameter once, and not in every step."""
    from gradchain._engine import layouts

    made: list[layouts.CachedLayout] = []
    original = layouts.CachedLayout.__init__
    layouts.CachedLayout.__init__ = lambda self, *args: made.append(self) or original(self, *args)  # type: ignore[method-assign]
    model = sharded_model()
    optimizer = gradchain.optimizer("adamw", model.parameters(), compile=True)
    run(model, optimizer, [0])
    return [] if len(made) == len(list(model.parameters())) else [f"{len(made)} layouts were made"]


def telemetry_is_of_the_whole_model() -> list[Any]:
    """What is recorded, sharded and not."""
    plain = Model()
    reference = optimizer_of("gyro-adam:now", plain, telemetry=True)
    run(plain, reference, range(dist.get_world_size()))
    sharded = sharded_model()
    optimizer = optimizer_of("gyro-adam:now", sharded, telemetry=True)
    run(sharded, optimizer, [dist.get_rank()])
    ours, theirs, here = optimizer.telemetry(gather=True), reference.telemetry(), optimizer.telemetry()
    recorded = {"mean_cos", "mean_norm_g", "mean_norm_m", "projection_rate", "step", "valid_cosines"}
    found = [k for k in theirs if abs(ours[k] - theirs[k]) > 1e-4]
    found += [k for k in recorded if here[k] != ours[k]]
    found += [f"{k} is told of some rows" for k in here.keys() - recorded if here[k]]
    part = optimizer.telemetry(gather=False)["rms_gradient"]
    return [*found, *([] if 0 < part != ours["rms_gradient"] else ["some rows have the RMS of all"])]


class rows_undeclared(gradchain.Stage):
    """A slot with a row for each row of the parameter that does not say so."""

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        return {"size": gradchain.Slot(shape=p.shape[:1])}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        return update, {"size": ctx.read("size") + update.value.abs().sum(1)}


class by_hand(gradchain.Stage):
    """Divides by the norm without asking for the whole of it."""

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> gradchain.Update:
        return update.replace(value=update.value / (1 + update.value.norm()))


class rows_declared(gradchain.Stage):
    """The mean size of each row; one that does, with a vector for all rows beside it."""

    def slots(self, p: gradchain.ParamInfo) -> dict[str, gradchain.Slot]:
        size, column = gradchain.Slot(shape=p.shape[:1], per_row=True), gradchain.Slot(shape=p.shape[1:2])
        return {"size": size, "column": column, "m": gradchain.Slot()}

    def update(self, update: gradchain.Update, ctx: gradchain.Context) -> Any:
        g = update.value
        t = yield gradchain.tensor_partials(c=g.abs().sum(0, dtype=torch.float64))
        size, column = ctx.read("size") + g.abs().sum(1), ctx.read("column") + t.c.to(g.dtype)
        m = ctx.read("m") + g
        return update.replace(value=m / (size[:, None] + column)), {"size": size, "column": column, "m": m}


LR = gradchain.scale_by_learning_rate(0.1)


def own_stages() -> list[str]:
    """A stage with slots of its own."""
    mesh, chain = mesh_of("fsdp"), gradchain.chain(rows_declared(), LR)
    value, grad = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), torch.ones(7, 6).cumsum(0)
    held = [nn.Parameter(value.clone()), nn.Parameter(split(value, mesh))]
    for param, g in zip(held, (grad, split(grad, mesh)), strict=True):
        optimizer = build([param], chain, compile=False)
        for _ in range(3):
            param.grad = g
            optimizer.step()
        state = optimizer.state[param]
    placed = {key: isinstance(value, DTensor) for key, value in state.items()}
    found = [] if sum(placed.values()) == 2 and not placed["rows_declared.column"] else [str(placed)]
    text = differences(held[1], held[0], True)
    return found + ([text] if text else [])


def states_change_places() -> list[str]:
    """A state dict of whole parameters in an optimizer of sharded ones, and the other way round; and of copies."""
    mesh, found = mesh_of("fsdp"), []
    for name in ("adamw", "first_moment/int8", "first_moment/factored", "prodigy", "scale_update", "freeze_on_flip"):
        chain, value = CASES[name].chain, torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
        make: list[Callable[[torch.Tensor], torch.Tensor]] = [
            torch.clone, lambda x: split(x, mesh), lambda x: distribute_tensor(x, mesh, [Replicate()])
        ]  # fmt: skip
        held = [nn.Parameter(m(value)) for m in make]
        optimizers = [build([param], chain, compile=False) for param in held]
        for step in range(6):
            if step == 3:
                saved = [optimizer.state_dict() for optimizer in optimizers]
                for optimizer, state in zip(optimizers, [*saved[1:], saved[0]], strict=True):
                    optimizer.load_state_dict(state_dict=state)
            for param, optimizer, m in zip(held, optimizers, make, strict=True):
                param.grad = m(value.cos() * (step + 1))
                optimizer.step()
        found += [f"{name}: {text}" for param in held[1:] if (text := differences(param, held[0], is_exact(chain)))]
    return found


def refusals() -> list[str]:
    """The errors of wrong use, each with what it must say."""
    mesh, found = mesh_of("fsdp"), []
    by_columns = nn.Parameter(distribute_tensor(torch.ones(4, 6), mesh, [Shard(1)]))
    by_rows, copies = nn.Parameter(split(torch.ones(4, 6), mesh)), nn.Parameter(torch.ones(4, 6))

    def refused(what: str, kind: type[Exception], says: Sequence[str], action: Callable[[], Any]) -> None:
        try:
            action()
        except kind as error:
            found.extend(f"{what} does not say {word!r}: {error}" for word in says if word not in str(error))
        else:
            found.append(f"{what} is not refused")

    gc, lion = gradchain, CASES["lion"].chain
    refused(
        "a split of columns",
        gc.ParameterError,
        ["head.weight", "Shard(dim=1)", "fully_shard"],
        lambda: build([("head.weight", by_columns)], lion),
    )
    refused(
        "a shadow of shards",
        gc.ParameterError,
        ["shadows", "sharded"],
        lambda: gc.Optimizer([("w", by_rows)], lion, shadows={"twin": lion}, compile=False),
    )
    refused(
        "an undeclared slot",
        gc.ChainError,
        ["rows_undeclared", "per_row", "w"],
        lambda: build([("w", by_rows)], gc.chain(rows_undeclared(), LR)),
    )
    refused(
        "a sum by hand",
        gc.ChainError,
        ["parameter w", "by_hand", "yield whole_tensor"],
        lambda: build([("w", by_rows)], gc.chain(by_hand(), LR)),
    )
    optimizer = build([by_rows], lion, compile=False)
    by_rows.grad = distribute_tensor(torch.ones(4, 6), mesh, [Replicate()])
    before = whole(by_rows).clone()
    refused("a gradient laid out otherwise", gc.GradientError, ["Replicate", "Shard(dim=0)"], optimizer.step)
    found += [] if torch.equal(whole(by_rows), before) else ["a refused gradient moved the parameter"]
    refused(
        "a DTensor in the functions", gc.GradientError, ["DTensor", "Optimizer"], lambda: lion.init([by_rows.detach()])
    )
    ddp = nn.parallel.DistributedDataParallel(Model())
    adamw = optimizer_of("adamw", ddp)
    refused("DDP", gc.OptionError, ["DistributedDataParallel"], lambda: gc.step_in_backward(adamw, ddp))
    refused("an unknown model", gc.OptionError, ["pass model="], lambda: gc.step_in_backward(adamw))
    later = Model()
    with gc.step_in_backward(optimizer_of("adamw", later), later):
        wrapped = nn.parallel.DistributedDataParallel(later)
        refused("DDP afterwards", gc.OptionError, ["DistributedDataParallel"], lambda: loss_of(wrapped, 0, 0))
    loss_of(wrapped, 0, 0).backward()
    joint = build([copies], CASES["clip_by_global_norm"].chain)
    refused("a joint stage", gc.ChainError, ["clip_by_global_norm"], lambda: gc.step_in_backward(joint))
    refused(
        "a group without parameters",
        gc.OptionError,
        ["partition_of"],
        lambda: build([copies], lion, partition_group=dist.group.WORLD),
    )
    return found

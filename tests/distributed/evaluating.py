"""What runs in each process: parameters that are trained at one point and seen at another, sharded or divided."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import gradchain
from tests.distributed.checkpoints import SHAPES, Model, made, train
from tests.distributed.sharded import differences, mesh_of, stepped
from tests.distributed.zero import reloaded, zero
from tests.laws.running import gradients, tensors

LR = gradchain.scale_by_learning_rate(0.05)
CHAINS = {
    "schedule_free": gradchain.recipe("schedule-free-adamw", lr=0.05, weight_decay=0.1, warmup_steps=2),
    "average_weights": gradchain.chain(gradchain.first_moment(0.8), LR, gradchain.average_weights(0.7, dtype="fp64")),
    "lookahead": gradchain.chain(LR, gradchain.lookahead(2)),
}


def reference(name: str, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The parameters in one piece: in training, and as they are seen."""
    held, optimizer = stepped(CHAINS[name], tensors(1, SHAPES), gradients(steps, SHAPES))
    trained = [param.detach().clone() for param in held]
    optimizer.eval()
    return trained, [param.detach().clone() for param in held]


def compared(what: str, ours: Any, theirs: list[torch.Tensor]) -> list[str]:
    pairs = zip(SHAPES, ours, theirs, strict=True)
    return [f"{what} {shape}: {text}" for shape, left, right in pairs if (text := differences(left, right, True))]


def shows(mode: str) -> list[str]:
    """Sharded parameters are seen where whole ones are, and come back."""
    warnings.simplefilter("ignore")
    found: list[str] = []
    for name in CHAINS:
        model, optimizer = made(CHAINS[name], mode, 1)
        train(model, optimizer, gradients(3, SHAPES), mode)
        (trained, seen), (later, _) = reference(name, 3), reference(name, 5)
        optimizer.eval()
        found += compared(f"{name} in eval mode", model.held, seen)
        optimizer.train()
        found += compared(f"{name} in train mode", model.held, trained)
        train(model, optimizer, gradients(5, SHAPES)[3:], mode)
        found += compared(f"{name} afterwards", model.held, later)
    return found


def save(folder: str, mode: str, flat: bool) -> None:
    """Three steps, and a checkpoint in eval mode."""
    warnings.simplefilter("ignore")
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    for name in CHAINS:
        model, optimizer = made(CHAINS[name], mode, 1)
        train(model, optimizer, gradients(3, SHAPES), mode)
        optimizer.eval()
        checkpoint.save(states(model, optimizer, options), checkpoint_id=f"{folder}/{name}")


def states(model: Model, optimizer: gradchain.Optimizer, options: StateDictOptions) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }


def resume(folder: str, mode: str, flat: bool) -> list[str]:
    """From that checkpoint with other processes: in eval mode, and in train mode, which has no room for all of it."""
    warnings.simplefilter("ignore")
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    found: list[str] = []
    for name in CHAINS:
        for ready in (True, False):
            model, optimizer = made(CHAINS[name], mode, 2)
            if ready:
                optimizer.eval()
            state = states(model, optimizer, options)
            checkpoint.load(state, checkpoint_id=f"{folder}/{name}")
            set_model_state_dict(model, state["model"], options=options)
            try:
                set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
            except gradchain.StateError as error:
                found += [f"{name}: {error}"] if ready or "call optimizer.eval()" not in str(error) else []
                continue
            found += [] if ready else [f"{name}: what was lost is not missed"]
            (_, seen), (later, _) = reference(name, 3), reference(name, 6)
            found += compared(f"{name} loaded", model.held, seen)
            optimizer.train()
            train(model, optimizer, gradients(6, SHAPES)[3:], mode)
            found += compared(f"{name} resumed", model.held, later)
    return found


def gathered_parameters() -> list[str]:
    """What fully_shard has gathered to evaluate is not what the next step of training goes by."""
    warnings.simplefilter("ignore")
    found: list[torch.Tensor] = []
    for sharded in (False, True):
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        if sharded:
            fully_shard(model[0], mesh=mesh_of("fsdp"))
            fully_shard(model, mesh=mesh_of("fsdp"))
        optimizer = gradchain.optimizer("schedule-free-sgd", model, lr=0.5, compile=False)
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
        losses: list[torch.Tensor] = []
        for _ in range(4):
            loss = model(x).square().mean()
            losses.append(loss.detach())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            model.eval()
            optimizer.eval()
            with torch.no_grad():
                losses.append(model(x).square().mean())
            model.train()
            optimizer.train()
        found.append(torch.stack(losses))
    close = torch.allclose(found[0], found[1], rtol=1e-5)
    return [] if close else [f"losses of the model in one piece {found[0].tolist()}, sharded {found[1].tolist()}"]


def at_a_second_point() -> list[str]:
    """The second evaluation of sam is at the same point, whose distance is that of all parameters in all processes."""
    warnings.simplefilter("ignore")
    whole, sharded = losses_of_sam(None), losses_of_sam("fsdp")
    same = len(sharded) == 8 and torch.allclose(torch.stack(whole), torch.stack(sharded), rtol=1e-4)
    return [] if same else [f"losses of the model in one piece {whole}, sharded {sharded}"]


def losses_of_sam(mode: str | None) -> list[torch.Tensor]:
    """Those of all evaluations in four steps."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    if mode is not None:
        fully_shard(model[0], mesh=mesh_of(mode))
        fully_shard(model, mesh=mesh_of(mode))
    chain = gradchain.chain(gradchain.sam(0.5), gradchain.recipe("adamw", lr=0.05))
    optimizer = gradchain.Optimizer(model, chain, compile=False)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    losses: list[torch.Tensor] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        losses.append(loss.detach())
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return losses


def divided() -> list[str]:
    """ZeRO: each process shows its own parameters, and they are sent as after a step; a checkpoint holds all."""
    warnings.simplefilter("ignore")
    found: list[str] = []
    for name, chain in CHAINS.items():
        held = [nn.Parameter(p) for p in tensors(1, SHAPES)]
        optimizer = zero(chain, held)
        for number, step in enumerate(gradients(6, SHAPES)):
            if number == 3:
                optimizer.optim.eval()
                optimizer._sync_params()
                found += compared(f"{name} in eval mode", held, reference(name, 3)[1])
                optimizer = reloaded(optimizer, chain, held)
                for param, grad in zip(held, step, strict=True):
                    param.grad = grad.clone()
                if any("train_param" in key for state in optimizer.optim.state.values() for key in state):
                    try:
                        optimizer.optim.step()
                        found.append(f"{name}: a step in eval mode")
                    except gradchain.OptionError:
                        pass
                dist.barrier()
                optimizer.optim.train()
                optimizer._sync_params()
            for param, grad in zip(held, step, strict=True):
                param.grad = grad.clone()
            optimizer.step()
        found += compared(f"{name} under ZeRO", held, reference(name, 6)[0])
    return found

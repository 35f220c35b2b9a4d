"""What runs in each process: saving in the middle of a run, and resuming with other processes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import gradchain
from gradchain import Chain
from tests.distributed.sharded import differences, is_exact, mesh_of, split, stepped
from tests.laws.cases import CASES
from tests.laws.running import build, gradients, tensors

SHAPES = [(7, 6), (5, 4, 3), (1,), (6,), (33, 65)]

LR = gradchain.scale_by_learning_rate(0.05)

CHAINS: dict[str, Chain] = {
    **{
        f"moments/{storage}": gradchain.chain(
            gradchain.first_moment(0.8, storage=storage), gradchain.second_moment(0.9, storage=storage),
            gradchain.divide(0.1), LR,
        )
        for storage in gradchain.storage.STORAGES
    },
    **{
        f"anchor/{anchor}": gradchain.chain(LR, gradchain.centered_decay(0.5, anchor=anchor))
        for anchor in gradchain.storage.ANCHORS
    },
    **{
        name: CASES[name].chain
        for name in (
            "factored_moment/raw", "freeze_on_flip", "kourkoutas_beta", "prodigy", "adv-prodigy-factored", "rose", "adams",
            "scale_update", "gyro-adam", "lion", "muon",
        )
    },
}  # fmt: skip


class Model(nn.Module):
    """Parameters of odd shapes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        held = [nn.Parameter(p) for p in tensors(seed, SHAPES)]
        self.held = nn.ParameterList(held)


def made(chain: Chain, mode: str, seed: int) -> tuple[Model, gradchain.Optimizer]:
    model = Model(seed)
    if mode != "plain":
        fully_shard(model, mesh=mesh_of(mode))
    return model, build(model, chain, compile=False)


def train(model: Model, optimizer: gradchain.Optimizer, grads: Sequence[Sequence[torch.Tensor]], mode: str) -> None:
    mesh = None if mode == "plain" else mesh_of(mode)
    for step in grads:
        for param, grad in zip(model.held, step, strict=True):
            param.grad = grad.clone() if mesh is None else split(grad, mesh)
        optimizer.step()


def save(folder: str, mode: str, names: Sequence[str] | None = None, flat: bool = False, full: bool = False) -> None:
    """Three steps, and a checkpoint of each chain."""
    warnings.simplefilter("ignore")
    options = StateDictOptions(flatten_optimizer_state_dict=flat, full_state_dict=full, cpu_offload=full)
    for name in names or CHAINS:
        model, optimizer = made(CHAINS[name], mode, 1)
        train(model, optimizer, gradients(3, SHAPES), mode)
        state = {
            "model": get_model_state_dict(model, options=options),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        }
        place = f"{folder}/{name.replace('/', '_')}"
        if not full:
            checkpoint.save(state, checkpoint_id=place)
        elif dist.get_rank() == 0:
            torch.save(state, place)


def save_while_training(folder: str, names: Sequence[str]) -> list[str]:
    """As `save`, in the background of the steps that follow, with a process group of its own; these are as ever."""
    warnings.simplefilter("ignore")
    group, found = dist.new_group(backend="gloo"), []
    for name in names:
        model, optimizer = made(CHAINS[name], "fsdp", 1)
        train(model, optimizer, gradients(3, SHAPES), "fsdp")
        held, state = get_state_dict(model, optimizer)
        place = f"{folder}/{name.replace('/', '_')}"
        saving = checkpoint.async_save({"model": held, "optimizer": state}, checkpoint_id=place, process_group=group)
        train(model, optimizer, gradients(6, SHAPES)[3:], "fsdp")
        saving.result()
        found += _compared(name, CHAINS[name], model, optimizer)
    return found


def resume(
    folder: str, mode: str, names: Sequence[str] | None = None, flat: bool = False, full: bool = False
) -> list[str]:
    """The same model from the checkpoint, three more steps, against six steps in one piece."""
    warnings.simplefilter("ignore")
    options = StateDictOptions(
        flatten_optimizer_state_dict=flat, full_state_dict=full, broadcast_from_rank0=full and mode != "plain"
    )
    found: list[str] = []
    for name in names or CHAINS:
        model, optimizer = made(CHAINS[name], mode, 2)
        place = f"{folder}/{name.replace('/', '_')}"
        if full:
            first = dist.get_rank() == 0 or mode == "plain"
            state = torch.load(place, weights_only=False) if first else {"model": {}, "optimizer": {}}
        else:
            state = {
                "model": get_model_state_dict(model, options=options),
                "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
            }
            checkpoint.load(state, checkpoint_id=place)
        set_model_state_dict(model, state["model"], options=options)
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
        train(model, optimizer, gradients(6, SHAPES)[3:], mode)
        found += _compared(name, CHAINS[name], model, optimizer)
    return found


def _compared(name: str, chain: Chain, model: Model, optimizer: gradchain.Optimizer) -> list[str]:
    plain, reference = stepped(chain, tensors(1, SHAPES), gradients(6, SHAPES))
    found: list[str] = []
    for shape, ours, theirs, start in zip(SHAPES, model.held, plain, tensors(1, SHAPES), strict=True):
        if text := differences(ours, theirs, is_exact(chain), start):
            found.append(f"{name} {shape}: {text}")
        if optimizer.state[ours].keys() != reference.state[theirs].keys():
            found.append(f"{name} {shape}: slots {sorted(optimizer.state[ours])}")
        for key, slot in reference.state[theirs].items():
            if text := differences(optimizer.state[ours][key], slot, is_exact(chain)):
                found.append(f"{name} {shape} {key}: {text}")
    for _, _, key in chain.bindings.shared:
        ours, theirs = optimizer.param_groups[0][key], reference.param_groups[0][key]
        if not torch.allclose(torch.as_tensor(ours), theirs, rtol=1e-10):
            found.append(f"{name} {key}: {ours} for {theirs}")
    return found

"""What runs in each process: estimates of the Hessian for split parameters, given split or whole."""

from __future__ import annotations

import torch

import gradchain
from tests.distributed.sharded import differences, mesh_of, split
from tests.laws.running import gradients, tensors

SHAPES = [(7, 6), (5,), (1, 4), ()]


def given() -> list[str]:
    """In what the estimates, and the steps by them, differ from those of whole parameters; one estimate is not finite."""
    mesh, found = mesh_of("fsdp"), list[str]()
    estimates = [g.abs() for g in gradients(1, SHAPES)[0]]
    estimates[0][2, 3] = torch.inf
    for how in ("split", "whole"):
        chain = gradchain.recipe("sophia", eps=0.1)
        ours = [torch.nn.Parameter(split(p, mesh)) for p in tensors(1, SHAPES)]
        theirs = [torch.nn.Parameter(p) for p in tensors(1, SHAPES)]
        sharded, plain = (gradchain.Optimizer(params, chain, compile=False) for params in (ours, theirs))
        gradchain.give_hessian(plain, estimates)
        gradchain.give_hessian(sharded, [split(e, mesh) for e in estimates] if how == "split" else estimates)
        for a, b, g in zip(ours, theirs, gradients(1, SHAPES)[0], strict=True):
            a.grad, b.grad = split(g, mesh), g.clone()
        sharded.step()
        plain.step()
        for a, b in zip(ours, theirs, strict=True):
            pairs = {"": (a, b), **{key: (sharded.state[a][key], slot) for key, slot in plain.state[b].items()}}
            found += [
                f"{how} {tuple(b.shape)} {key}: {text}"
                for key, pair in pairs.items()
                if (text := differences(*pair, True))
            ]
    return found

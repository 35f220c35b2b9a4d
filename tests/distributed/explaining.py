"""What runs in each process: explanations of sharded parameters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from tests.distributed.training import loss_of, optimizer_of, sharded_model


def local(param: torch.Tensor) -> torch.Tensor:
    """The rows here."""
    return (param.to_local() if isinstance(param, DTensor) else param).detach().clone()


def explains_rows(names: Sequence[str]) -> list[str]:
    """The last row is the change of the rows that are here, bit for bit."""
    warnings.simplefilter("ignore")
    found: list[str] = []
    for name in names:
        model = sharded_model()
        optimizer = optimizer_of(name, model)
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model, step, dist.get_rank()).backward()
            changes = [optimizer.explain(param).change for param in model.parameters()]
            before = [local(param) for param in model.parameters()]
            optimizer.step()
            after = [local(param) for param in model.parameters()]
            found += [
                f"{name}, step {step}: {label}"
                for (label, _), change, old, new in zip(model.named_parameters(), changes, before, after, strict=True)
                if not torch.equal(change, new - old)
            ]
    return found

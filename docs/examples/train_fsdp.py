"""Train a small transformer under FSDP2, be killed half-way, and go on with another number of processes.

    torchrun --nproc-per-node 2 docs/examples/train_fsdp.py runs/fsdp --kill-at 50
    torchrun --nproc-per-node 3 docs/examples/train_fsdp.py runs/fsdp

The second command goes on from the last checkpoint and reaches the loss of a run that was never interrupted. It runs
with gloo on CPUs, and with nccl where each process has a GPU. The text is the documentation that comes with Python.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
import typer
from torch import distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradchain

BATCH, LENGTH, WIDTH = (
    12,
    32,
    48,
)  # 12 sequences, however many processes share them


class Block(nn.Module):
    """Attention to the past, and a layer of each position by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = (
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.qkv(self.norms[0](x))
            .unflatten(-1, (3, 4, -1))
            .permute(2, 0, 3, 1, 4)
        )
        seen = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True
        )
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Transformer(nn.Module):
    """Predicts the next letter; returns the loss."""

    def __init__(self, letters: int, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.place = (
            nn.Embedding(letters, WIDTH),
            nn.Embedding(LENGTH, WIDTH),
        )
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens[:, :-1]) + self.place.weight
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(
            self.head(x).flatten(0, 1), tokens[:, 1:].flatten()
        )


def sharded(letters: int, device: torch.device) -> Transformer:
    """The model, each block a unit of its own. All processes start from the same numbers."""
    torch.manual_seed(0)
    model = Transformer(letters).to(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def my_part(text: torch.Tensor, step: int) -> torch.Tensor:
    """The sequences of this process in the batch of a step, which does not depend on the number of processes."""
    starts = torch.randint(
        len(text) - LENGTH - 1,
        (BATCH,),
        generator=torch.Generator().manual_seed(step),
    )
    mine = starts.chunk(dist.get_world_size())[dist.get_rank()]
    return torch.stack(
        [text[start : start + LENGTH + 1] for start in mine.tolist()]
    )


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, sequences: torch.Tensor
) -> float:
    """One step; the loss over all processes."""
    optimizer.zero_grad()
    loss = model(sequences)
    loss.backward()
    optimizer.step()
    dist.all_reduce(total := loss.detach().clone())
    return total.item() / dist.get_world_size()


def save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Each process writes its own rows; the step is done when the file that says so is there."""
    held, state = get_state_dict(model, optimizer)
    checkpoint.save(
        {"model": held, "optimizer": state},
        checkpoint_id=folder / f"step{step}",
    )
    if dist.get_rank() == 0:
        (folder / "latest").write_text(str(step))


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """The last checkpoint, cut anew for this number of processes; the step that it is of, or 0."""
    if not (folder / "latest").exists():
        return 0
    step = int((folder / "latest").read_text())
    held, state = get_state_dict(model, optimizer)
    checkpoint.load(
        {"model": held, "optimizer": state},
        checkpoint_id=folder / f"step{step}",
    )
    set_state_dict(
        model, optimizer, model_state_dict=held, optim_state_dict=state
    )
    return step


def main(
    folder: Path,
    steps: int = 100,
    save_every: int = 20,
    kill_at: int = 0,
    recipe: str = "adams",
    lr: float = 3e-3,
) -> None:
    """Train until `steps`, or until all processes are killed after step `kill_at`."""
    device_type = (
        "cuda"
        if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        else "cpu"
    )
    device = torch.device(
        device_type,
        int(os.environ["LOCAL_RANK"]) if device_type == "cuda" else None,
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if BATCH % dist.get_world_size():
        raise typer.BadParameter(
            f"{BATCH} sequences cannot be shared evenly by {dist.get_world_size()} processes"
        )

    letters = "".join(topics.values())
    alphabet = {
        letter: number for number, letter in enumerate(sorted(set(letters)))
    }
    text = torch.tensor([alphabet[letter] for letter in letters])
    model = sharded(len(alphabet), device)
    optimizer = gradchain.optimizer(recipe, model, lr=lr)

    folder.mkdir(parents=True, exist_ok=True)
    first = load(folder, model, optimizer)
    for step in range(first + 1, steps + 1):
        loss = train_step(model, optimizer, my_part(text, step).to(device))
        if dist.get_rank() == 0 and (step % 10 == 0 or step == steps):
            print(
                f"step {step}: loss {loss:.4f}, {dist.get_world_size()} processes, from step {first}",
                flush=True,
            )
        if step % save_every == 0:
            save(folder, step, model, optimizer)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(
        0
    )  # without Python's teardown, in which a late thread of gloo can abort the process


if __name__ == "__main__":
    typer.run(main)

"""SAM of pytorch_optimizer 4.1, next to ours. It takes the norm of the gradients in float32, whatever the parameters."""

from __future__ import annotations

import pytest
import torch

import gradchain
from tests.test_extra_evaluation import closure_of, problem, values

pytorch_optimizer = pytest.importorskip("pytorch_optimizer", reason="pip install gradchain[parity]")


@pytest.mark.parametrize("adaptive", [False, True], ids=["sam", "asam"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_package_takes_the_same_steps(adaptive: bool, dtype: torch.dtype) -> None:
    (model, loss), (plain, its_loss) = problem(dtype), problem(dtype)
    ours = gradchain.Optimizer(model, gradchain.chain(gradchain.sam(0.1, adaptive), gradchain.recipe("adamw", lr=0.01)))
    theirs = pytorch_optimizer.SAM(
        plain.parameters(), base_optimizer=torch.optim.AdamW, rho=0.1, adaptive=adaptive, lr=0.01
    )
    for _ in range(20):
        ours.step(closure_of(ours, loss))
        closure_of(theirs, its_loss)()
        theirs.step(closure_of(theirs, its_loss))
    tolerance = 1e-8 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(values(model), values(plain), rtol=0, atol=tolerance)

"""Laws of chains that nobody wrote: built at random from a grammar."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradchain
from gradchain import Chain
from tests.laws.grammar import chains
from tests.laws.running import assert_all_close, functional, gradients, optimize, tensors

SHAPES = [(), (7,), (5, 1), (4, 6), (2, 3, 4)]
quick = settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(quick, max_examples=50)  # each chain is traced
few = settings(max_examples=12, derandomize=True, deadline=None)


@some
@given(chains, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_three_steps(chain: Chain, dtype: torch.dtype) -> None:
    params = tensors(1, SHAPES, dtype)
    stepped, optimizer = optimize(chain, params, gradients(3, SHAPES, dtype))
    for before, after in zip(params, stepped, strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert after.isfinite().all()
    assert any(not torch.equal(before, after) for before, after in zip(params, stepped, strict=True))
    held = {key for state in optimizer.state.values() for key in state}
    assert held == {"step"} | {
        f"{at}.{slot}" for at, stage in chain.addressed for slot in stage.known_slots if present(at, held)
    }


def present(address: str, held: set[str]) -> bool:
    """Whether any parameter came by the stage: a branch may have none, and masters are for other dtypes."""
    return any(key.rpartition(".")[0] == address for key in held)


@quick
@given(chains)
def test_round_trips(chain: Chain) -> None:
    config = chain.to_config()
    assert gradchain.Chain.from_config(config) == chain
    assert gradchain.Chain.from_config(json.loads(json.dumps(config))) == chain
    assert hash(gradchain.Chain.from_config(config)) == hash(chain)
    assert gradchain.Chain.from_config(config).hyperparameters == chain.hyperparameters
    if "partition" not in repr(chain):  # a branch need not stand alone, and renamed keys are not shown
        assert eval(repr(chain), vars(gradchain).copy()) == chain
    lines = str(chain).splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(chain.names)


@quick
@given(chains, chains)
def test_equal_chains_are_equal_configs(left: Chain, right: Chain) -> None:
    assert (left == right) == (left.to_config() == right.to_config())
    if left == right:
        assert hash(left) == hash(right)


@some
@given(chains)
def test_optimizer_and_functions_agree(chain: Chain) -> None:
    if any(getattr(stage, "storage", None) == "bf16" for stage in chain):
        chain = chain.with_options(**{f"{at}.storage": "fp32" for at, s in chain.addressed if hasattr(s, "storage")})
    params, grads = tensors(1, SHAPES), gradients(3, SHAPES)
    # Chains may end in a sign or divide by almost nothing, which enlarges differences of the last place.
    stepped, _ = optimize(chain, params, grads)
    assert_all_close(functional(chain, params, grads), stepped, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@few
@given(chains)
def test_eager_and_compiled_agree(chain: Chain) -> None:
    params, grads = tensors(1, SHAPES), gradients(3, SHAPES)
    eager, _ = optimize(chain, params, grads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no falling back to eager
        compiled, _ = optimize(chain, params, grads, compile=True)
    bf16 = any(getattr(stage, "storage", None) == "bf16" for stage in chain)
    rtol = 1e-2 if bf16 else 1e-5  # a slot may round to the other neighbour
    assert_all_close(compiled, eager, rtol=rtol, atol=rtol)

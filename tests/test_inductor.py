"""What the compiler is told."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch.fx import symbolic_trace

from gradchain._engine import inductor


def test_options_by_device() -> None:
    codes = [torch.empty(1 << 22, dtype=torch.uint8)]
    again = "realize_opcount_threshold"
    assert inductor.options_for(codes, inline=True)[0][again] == inductor.DECODED
    assert inductor.options_for([torch.empty(1 << 18)], inline=True)[0][again] == inductor.STEPS
    assert inductor.options_for([codes[0][:1000]], inline=True)[0][again] == inductor.NOISE
    small, large = torch.empty(10), torch.empty(1 << 18)
    assert inductor.options_for([small], inline=True)[0]["cpp.threads"] == 1
    assert "cpp.threads" not in inductor.options_for([small, large], inline=True)[0]
    assert "realize_reads_threshold" not in inductor.options_for([small], inline=False)[0]
    assert inductor.options_for([small], inline=False)[-1]["max_fusion_size"] == 1
    first, second, last = inductor.options_for([torch.empty(10, device="meta")], inline=True)
    assert second == {**last, "combo_kernels": True}
    assert first.items() > second.items()
    assert last.items() > inductor.EAGER.items(), "whatever fails, it rounds as eager steps do"
    import torch._inductor.config as settings

    for name in first:
        attrgetter(name)(settings)  # a misspelt option is no option
    with settings.patch(first):
        assert settings.eager_numerics.division_rounding
        assert settings.eager_numerics.disable_ftz


@pytest.mark.parametrize("late", [False, True], ids=["in inductor", "in a compiler of C++"])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_options_that_fail_give_way_to_the_next(failing: int, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def make(graph: Any, examples: Any, options: dict[str, Any], lined: int) -> Any:
        told.append(options)
        if not late:
            waited(None)
        return list

    def waited(code: Any) -> None:
        if len(told) <= failing:
            raise RuntimeError("no such fusion")

    monkeypatch.setattr(inductor, "_compile", make)
    monkeypatch.setattr(inductor, "wait_for", waited)
    graph, examples = symbolic_trace(torch.nn.Identity()), [torch.empty(3, device="meta")]
    if failing == 3:
        with pytest.raises(RuntimeError, match="no such fusion"):
            inductor.compile_graph(graph, examples)
    else:
        assert inductor.compile_graph(graph, examples)(1, 2) == [1, 2]
    assert len(told) == min(failing + 1, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_graphs_are_found_in_the_cache_on_disk(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    from torch._dynamo.utils import counters

    for expected in (0, 1):
        counters.clear()
        compiled = inductor.compile_graph(symbolic_trace(Twice()), [torch.ones(5)])
        assert torch.equal(compiled(torch.ones(5))[0], torch.full((5,), 2.0))
        assert counters["inductor"]["fxgraph_cache_hit"] == expected


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_what_is_used_twice_is_traced_once() -> None:
    """A hash uses each of its results twice: inductor alone follows 2^24 ways back to its input."""
    from unittest.mock import patch

    from torch._inductor.loop_body import LoopBodyBlock

    seen: list[int] = []
    made = LoopBodyBlock.__init__

    def count(self: Any, *args: Any) -> None:
        made(self, *args)
        seen.append(len(self.graph.nodes))

    def hashed(x: torch.Tensor) -> list[torch.Tensor]:
        for shift in range(24):
            x = x ^ (x >> (shift % 7 + 1))
        return [x]

    import torch._inductor.config as settings

    x = torch.arange(1 << 18, dtype=torch.int32)
    everything = patch.multiple(inductor, READS=1000, CODES=(torch.int32,))  # nothing is written in between
    with patch.object(LoopBodyBlock, "__init__", count), everything, settings.patch(force_disable_caches=True):
        compiled = inductor.compile_graph(inductor.trace(hashed, [x]), [x])
    assert torch.equal(compiled(x)[0], hashed(x)[0])
    assert 24 < max(seen) < 300


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_are_given_without_a_call(dtype: torch.dtype, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that calls a library keeps nothing in registers."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    special = torch.tensor([0.0, -0.0, 1.5, -1.5, math.inf, -math.inf, math.nan], dtype=dtype)
    sizes, signs = torch.cartesian_prod(special, torch.cat([special, -special])).unbind(1)  # no whole number of vectors
    examples = [sizes.contiguous(), signs.contiguous()]
    compiled = inductor.compile_graph(inductor.trace(lambda x, y: [torch.copysign(x, y)], examples), examples)
    found, expected = compiled(*examples)[0], torch.copysign(*examples)
    as_bits = torch.int32 if dtype == torch.float32 else torch.int64
    assert torch.equal(found.view(as_bits), expected.view(as_bits))
    sources = [path.read_text() for path in tmp_path.rglob("*.cpp")]
    assert sources
    assert not any("copysign" in source for source in sources)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_threads_share_the_outer_loop_around_a_short_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as settings

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x = torch.arange(1024 * 32 * 8, dtype=torch.int32).view(1024, 32, 8)  # sums of 32 for 8, which are no whole vector
    with settings.patch({"cpp.threads": 2}):
        compiled = inductor.compile_graph(inductor.trace(lambda x: [x.sum(1, dtype=torch.int32)], [x]), [x])
    assert torch.equal(compiled(x)[0], x.sum(1, dtype=torch.int32))
    (source,) = (text for path in tmp_path.rglob("*.cpp") if "omp for" in (text := path.read_text()))
    assert source.index("#pragma omp parallel") < source.index("for(int64_t x0"), "or threads are gathered 1024 times"


def test_what_is_cached_depends_on_how_we_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older version's kernels, which are right and slower, are not taken for ours."""
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    examples = [torch.randn(64)]
    graph = inductor.trace(lambda x: [x * 2 + 1], examples)

    def hits() -> int:
        inductor.compile_graph(graph, examples)
        return counters["inductor"]["fxgraph_cache_hit"]

    with fresh_cache():
        start = hits()
        assert hits() == start + 1
        monkeypatch.setattr(inductor, "_changes", lambda: "those of another version")
        assert hits() == start + 1
        assert hits() == start + 2

"""Numbers are read before loops: what is moved, and what has to stay."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import gradchain
from gradchain._engine import inductor
from gradchain._engine.numbers_once import hoisted

KERNEL = """extern "C" void kernel(const double* in_ptr0,
                       const float* in_ptr1,
                       float* out_ptr0)
{
    for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(8L); x0+=static_cast<int64_t>(1L))
    {
        #pragma GCC ivdep
        for(int64_t x1=static_cast<int64_t>(0L); x1<static_cast<int64_t>(64L); x1+=static_cast<int64_t>(16L))
        {
            auto tmp0 = in_ptr0[static_cast<int64_t>(3L)];
            auto tmp1 = in_ptr1[static_cast<int64_t>(x0)];
            auto tmp2 = out_ptr0[static_cast<int64_t>(x0)];
            auto tmp3 = in_ptr1[static_cast<int64_t>(2L)];
            WRITE
        }
    }
}
"""


def test_a_number_goes_to_the_top_and_one_of_a_block_before_its_loop() -> None:
    lines = [line.strip() for line in hoisted(KERNEL.replace("WRITE", "")).splitlines()]
    assert lines[lines.index("{") + 1] == "const auto in_ptr0_3 = in_ptr0[3];"
    pragma = lines.index("#pragma GCC ivdep")
    assert lines[pragma + 1].startswith("for(int64_t x1"), "a pragma stays with its loop"
    assert sum("[x0];" in line for line in lines[:pragma]) == 2
    assert [line.endswith("= in_ptr0_3;") for line in lines].count(True) == 1
    assert sum("in_ptr1[2];" in line for line in lines[:pragma]) == 1, (
        "no hyperparameter: it goes no further than it must"
    )


FLAT = """extern "C" void kernel(const float* in_ptr0,
                       float* out_ptr0,
                       double* out_ptr1)
{
    out_ptr1[static_cast<int64_t>(0L)] = static_cast<double>(tmp_acc0);
    #pragma omp for
    for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(64L); x0+=static_cast<int64_t>(16L))
    {
        auto tmp0 = out_ptr1[static_cast<int64_t>(0L)];
        auto tmp1 = std::sqrt(tmp0);
        WRITE
    }
}
"""


def test_a_total_is_read_before_the_loop_that_uses_it_and_after_it_was_made() -> None:
    lines = [line.strip() for line in hoisted(FLAT.replace("WRITE", "tmp1.store(out_ptr0 + x0);")).splitlines()]
    (read,) = (number for number, line in enumerate(lines) if line.endswith("= out_ptr1[0];"))
    assert lines[read - 1].startswith("out_ptr1[static_cast<int64_t>(0L)] = ")
    pragma = lines.index("#pragma omp for")
    assert read < pragma
    assert lines[pragma + 1].startswith("for(int64_t x0"), "a pragma stays with its loop"
    assert sum("out_ptr1[static_cast<int64_t>(0L)]" in line for line in lines) == 1


def test_a_total_that_the_loop_writes_is_read_in_it() -> None:
    code = hoisted(FLAT.replace("WRITE", "out_ptr1[static_cast<int64_t>(0L)] = tmp1;"))
    assert "auto tmp0 = out_ptr1[static_cast<int64_t>(0L)];" in code


@pytest.mark.parametrize(
    "write",
    [
        "out_ptr0[static_cast<int64_t>(x0)] = tmp1;",
        "tmp1.store(out_ptr0 + x1);",
        "atomic_add(&out_ptr0[static_cast<int64_t>(x1)], tmp1);",
    ],
)
def test_what_the_loop_writes_is_read_in_it(write: str) -> None:
    code = hoisted(KERNEL.replace("WRITE", write))
    assert "auto tmp2 = out_ptr0[static_cast<int64_t>(x0)];" in code
    assert "= in_ptr1[x0];" in code


@pytest.mark.parametrize("why", ["auto tmp4 = [&]\n            {", "#pragma omp for collapse(2)"])
def test_what_is_read_now_and_then_or_in_joint_loops_stays(why: str) -> None:
    code = hoisted(KERNEL.replace("WRITE", why))
    assert "auto tmp1 = in_ptr1[static_cast<int64_t>(x0)];" in code


PARTS = """extern "C" void kernel(const float* in_ptr0,
                       float* out_ptr0,
                       double* out_ptr1)
{
    for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(70L); x0+=static_cast<int64_t>(16L))
    {
        if(C10_LIKELY(x0 < static_cast<int64_t>(64L)))
        {
            auto tmp0 = out_ptr1[static_cast<int64_t>(0L)];
            auto tmp3 = at::vec::Vectorized<float>::loadu(in_ptr0 + static_cast<int64_t>(x0), static_cast<int64_t>(16));
            auto tmp1 = std::sqrt(tmp0);
            auto tmp2 = c10::convert<float>(tmp1);
            auto tmp4 = at::vec::Vectorized<float>(tmp2);
            auto tmp5 = tmp3 * tmp4;
            tmp5.store(out_ptr0 + static_cast<int64_t>(x0));
        }
        if(C10_UNLIKELY(x0 >= static_cast<int64_t>(64L)))
        {
            REST
        }
    }
}
"""


def test_what_is_made_of_numbers_is_made_once() -> None:
    code = hoisted(PARTS.replace("REST", "auto tmp0 = out_ptr1[static_cast<int64_t>(0L)];"))
    before, _, loop = code.partition("for(int64_t")
    made = [line.split("=")[1].strip() for line in before.splitlines() if "const auto tmp" in line]
    assert [value.partition("(")[0] for value in made[1:]] == ["std::sqrt", "c10::convert<float>"]
    assert "sqrt" not in loop
    assert not re.search(r"auto tmp[012] =", loop)
    assert "auto tmp4 = at::vec::Vectorized<float>(tmp2_" in loop


@pytest.mark.parametrize("rest", ["auto tmp1 = in_ptr0[static_cast<int64_t>(x0)];", "auto tmp1 =\n            [&]()"])
def test_a_name_for_two_things_is_left_where_it_is(rest: str) -> None:
    _, _, loop = hoisted(PARTS.replace("REST", rest)).partition("for(int64_t")
    assert "auto tmp1 = std::sqrt(" in loop
    assert "auto tmp2 = c10::convert<float>(tmp1);" in loop
    assert rest in loop


@pytest.mark.parametrize("storage", ["int8", "bf16"])
def test_steps_are_the_same_to_the_last_bit(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With moments that are kept in blocks with a scale each, and blocks that a tensor ends in the middle of."""
    import contextlib

    import torch._inductor.config as settings

    from gradchain._engine import call

    def stepped() -> list[torch.Tensor]:
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((64, 96), (600,))]
        kept = {"first_moment.storage": storage, "second_moment.storage": storage}
        optimizer = gradchain.Optimizer(params, gradchain.recipe("adamw").with_options(**kept), compile=True)
        for _ in range(2):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        assert optimizer.compile_report().fallbacks == ()
        return [*params, *(x for state in optimizer.state.values() for x in state.values())]

    made: list[Any] = []
    for without in (False, True):
        monkeypatch.setattr(call, "_kernels", call.Recent(call.KERNELS))
        if without:
            monkeypatch.setattr(inductor, "numbers_once", contextlib.nullcontext)
        with settings.patch(force_disable_caches=True):
            made.append(stepped())
    for ours, plain in zip(*made):
        assert torch.equal(ours, plain)

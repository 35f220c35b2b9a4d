"""Finding the vectors of a processor: those that torch computes with, and nothing is left behind for others who compile."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from torch._inductor import config, cpu_vec_isa

from gradchain._engine import isa

module: Any = cpu_vec_isa


class Vectors:
    """Stands for a set of instructions; `works` is what trying them out gives."""

    def __init__(self, name: str, works: bool, tried: list[str]) -> None:
        self.name, self.works, self.tried = name, works, tried

    def __str__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        self.tried.append(self.name)
        return self.works


SETS = ("missing avx512", "avx512 new amx_tile", "avx512 new", "avx512", "avx2")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str], None, None]:
    """The names of vectors that were tried. The processor has all but one."""
    tried: list[str] = []
    monkeypatch.setattr(module, "supported_vec_isa_list", [Vectors(name, "amx" not in name, tried) for name in SETS])
    monkeypatch.setattr(module, "x86_isa_checker", lambda: ["avx512", "new", "amx_tile", "avx2"])
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    isa._of_torch.cache_clear()
    module.valid_vec_isa_list.cache_clear()
    yield tried
    isa._of_torch.cache_clear()
    module.valid_vec_isa_list.cache_clear()


def names() -> list[str]:
    return [str(found) for found in module.valid_vec_isa_list()]


@pytest.mark.parametrize(("capability", "found"), [("AVX512", "avx512 new"), ("AVX2", "avx2")])
def test_those_of_torch_are_taken_untried(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, capability: str, found: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with isa.widest_vectors():
        assert names() == [found]
        assert all(module.valid_vec_isa_list())
    assert tried == []


def test_where_torch_has_others_inductor_looks_for_itself(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with isa.widest_vectors():
        assert names() == ["avx512 new", "avx512", "avx2"]
    assert tried


def test_others_find_all_of_them(tried: list[str]) -> None:
    before = module.valid_vec_isa_list
    with isa.widest_vectors():
        assert len(module.valid_vec_isa_list()) == 1
    assert module.valid_vec_isa_list is before
    assert names() == ["avx512 new", "avx512", "avx2"]


def test_what_is_known_is_not_looked_for_again(tried: list[str]) -> None:
    known = module.valid_vec_isa_list()
    tried.clear()
    with isa.widest_vectors():
        assert module.valid_vec_isa_list() is known
    assert tried == []


@pytest.mark.usefixtures("tried")
def test_whoever_asks_for_other_vectors_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = module.valid_vec_isa_list
    with config.patch({"cpp.simdlen": 256}), isa.widest_vectors():
        assert module.valid_vec_isa_list is before
    with config.patch({"cpp.vec_isa_ok": False}), isa.widest_vectors():
        assert module.valid_vec_isa_list is before
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with isa.widest_vectors():
        assert module.valid_vec_isa_list is before


def test_flags_are_those_of_a_trial() -> None:
    """Of the vectors of this processor, whichever they are."""
    isa._of_torch.cache_clear()
    for found in isa._of_torch():
        same = next(known for known in module.supported_vec_isa_list if str(known) == str(found))
        assert bool(same), "a trial finds that they work"
        assert found.build_arch_flags() == same.build_arch_flags()
        assert found.build_macro() == same.build_macro()
        assert found != module.invalid_vec_isa
        assert hash(found) == hash(same)

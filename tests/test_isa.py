"""Finding the vectors of a processor: the widest that work, and nothing is left behind for others who compile."""

from __future__ import annotations

import platform
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from torch._inductor import cpu_vec_isa

from gradchain._engine import isa

module: Any = cpu_vec_isa

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="one kind of vectors")


class Vectors:
    """Stands for a set of instructions; `works` is what trying them out gives."""

    def __init__(self, name: str, works: bool, tried: list[str]) -> None:
        self.name, self.works, self.tried = name, works, tried

    def __str__(self) -> str:
        return self.name

    def _probe_load(self, path: str) -> bool:
        return self.works

    def __bool__(self) -> bool:
        self.tried.append(self.name)
        return self.works


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str], None, None]:
    """The names of vectors that were tried; the processor has all but one, and the widest do not work."""
    tried: list[str] = []
    sets = [Vectors(*row, tried) for row in (("missing", True), ("wide new", False), ("wide", True), ("narrow", True))]
    monkeypatch.setattr(module, "supported_vec_isa_list", sets)
    monkeypatch.setattr(module, "x86_isa_checker", lambda: ["wide", "new", "narrow"])
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    isa._trial.cache_clear()
    module.valid_vec_isa_list.cache_clear()
    yield tried
    isa._trial.cache_clear()
    module.valid_vec_isa_list.cache_clear()


def test_the_widest_that_work_are_taken_and_no_others_tried(tried: list[str]) -> None:
    with isa.widest_vectors():
        for _ in range(2):
            assert [str(found) for found in module.valid_vec_isa_list()] == ["wide"]
    assert tried == ["wide new", "wide"]


def test_others_find_all_of_them(tried: list[str]) -> None:
    before = module.valid_vec_isa_list
    with isa.widest_vectors():
        module.valid_vec_isa_list()
    assert module.valid_vec_isa_list is before
    assert [str(found) for found in before()] == ["wide", "narrow"]


def test_what_is_known_is_not_looked_for_again(tried: list[str]) -> None:
    known = module.valid_vec_isa_list()
    tried.clear()
    with isa.widest_vectors():
        assert module.valid_vec_isa_list() is known
    assert tried == []


def test_whoever_asks_for_narrower_vectors_gets_them(tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with isa.widest_vectors():
        assert [str(found) for found in module.valid_vec_isa_list()] == ["wide", "narrow"]


def test_what_could_be_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    tried: list[str] = []

    def load(path: str) -> bool:
        tried.append(path)
        return "good" in path

    loads, good, bad = isa._loaded_once(load), str(tmp_path / "good.so"), str(tmp_path / "bad.so")
    assert [loads(path) for path in (good, good, bad, bad)] == [True, True, False, False]
    assert tried == [good, bad, bad]
    assert isa._loaded_once(load)(good), "in another process, too"
    assert len(tried) == 3


def test_a_look_ahead_is_the_only_look(tried: list[str]) -> None:
    isa.look_ahead()
    isa.look_ahead()
    with isa.widest_vectors():
        assert [str(found) for found in module.valid_vec_isa_list()] == ["wide"]
    assert tried == ["wide new", "wide"]
    assert not any("_probe_load" in vars(known) for known in module.supported_vec_isa_list)


def test_what_a_look_ahead_fails_with_is_raised_where_it_is_needed(
    tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[str]:
        raise OSError("no such processor")

    monkeypatch.setattr(module, "x86_isa_checker", fail)
    isa.look_ahead()
    with isa.widest_vectors(), pytest.raises(OSError, match="no such processor"):
        module.valid_vec_isa_list()

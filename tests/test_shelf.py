"""Compiled functions kept from run to run: a second process finds them without the compiler, and finds no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradchain._engine import shelf

SCRIPT = """
import json, sys
import torch, gradchain as gc
recipe, options, threads, how = json.loads(sys.argv[1])
torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
draw = lambda *shape: torch.randn(*shape, generator=generator)
params = [torch.nn.Parameter(draw(*shape)) for shape in [(24, 16), (24, 16), (40,), (16, 3, 2), (9000, 32)]]
optimizer = gc.Optimizer(params, gc.recipe(recipe).with_options(**options), compile=how)
for _ in range(4):
    for param in params:
        param.grad = draw(*param.shape)
    optimizer.step()
report = optimizer.compile_report()
assert not report.fallbacks, report
print(json.dumps({
    "params": [param.double().sum().item().hex() for param in params] + params[0].tolist(),
    "compiler": "torch._inductor.compile_fx" in sys.modules,
    "kernels": report.kernels,
}))
"""


def train(
    folder: Path,
    recipe: str = "adamw",
    threads: int = 1,
    around: dict[str, str] | None = None,
    compile: bool | str = True,
    **options: Any,
) -> dict[str, Any]:
    """Four compiled steps in a process of its own, with a cache in this folder."""
    command = [sys.executable, "-W", "error::gradchain.errors.CompileWarning", "-c", SCRIPT]
    surroundings = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), **(around or {})}
    given = json.dumps([recipe, options, threads, compile])
    done = subprocess.run([*command, given], env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "gradchain").glob("*.json"))


STORED = {
    "codes": {"first_moment.storage": "int8", "second_moment.storage": "bf16"},
    "factored": {"first_moment.storage": "factored", "second_moment.storage": "factored"},
}


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        pytest.param("adamw", {}, id="adamw"),
        *(pytest.param(recipe, {}, id=recipe, marks=pytest.mark.slow) for recipe in ("rose", "adams", "muon")),
        *(pytest.param("adamw", options, id=name, marks=pytest.mark.slow) for name, options in STORED.items()),
    ],
)
def test_a_second_process_does_without_the_compiler(tmp_path: Path, recipe: str, options: dict[str, Any]) -> None:
    first = train(tmp_path, recipe, threads=2, **options)
    assert first["compiler"]
    assert len(entries(tmp_path)) == first["kernels"]
    second = train(tmp_path, recipe, threads=2, **options)
    assert not second["compiler"]
    assert second["params"] == first["params"]


@pytest.mark.slow
def test_nothing_is_left_to_do_in_the_background(tmp_path: Path) -> None:
    first = train(tmp_path)
    second = train(tmp_path, compile="background")  # no warning that steps were eager
    assert not second["compiler"]
    assert second["params"] == first["params"]


@pytest.mark.slow
def test_what_is_not_the_same_is_compiled(tmp_path: Path) -> None:
    train(tmp_path)
    assert not train(tmp_path, **{"scale_by_learning_rate.lr": 0.5})["compiler"]  # an input
    assert train(tmp_path, recipe="rose")["compiler"]
    assert train(tmp_path, threads=2)["compiler"]
    assert train(tmp_path, around={"TORCHINDUCTOR_MAX_FUSION_SIZE": "9"})["compiler"]
    assert train(tmp_path, around={"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"})["compiler"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "not text", "no library"])
def test_what_is_damaged_is_compiled_again(tmp_path: Path, damage: str) -> None:
    first = train(tmp_path)
    for entry in entries(tmp_path):
        if damage == "cut":
            entry.write_text(entry.read_text()[:-20])
        elif damage == "not text":
            entry.write_bytes(b"\xff\x00" * 90)
        else:
            for path in json.loads(entry.read_text())["libraries"].values():
                (tmp_path / path).unlink()
    again = train(tmp_path)
    assert again["compiler"]
    assert again["params"] == first["params"]
    assert not train(tmp_path)["compiler"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def doubled(x: torch.Tensor) -> list[torch.Tensor]:
    return [x * 2]


EXAMPLES = [torch.ones(3)]


def code(source: str) -> Any:
    """What inductor might have made."""
    module: dict[str, Any] = {}
    exec(compile(source.replace("from torch._inductor", "#"), "inductor", "exec"), module)
    module["extern_kernels"] = SimpleNamespace(mm=torch.mm, bmm=torch.mm)
    return SimpleNamespace(current_callable=module["call"], constants={}, source_code=source)


PLAIN = """
from torch._inductor.select_algorithm import extern_kernels
import torch
def call(args):
    x, = args
    args.clear()
    return (extern_kernels.mm(x, x),)
"""


def test_what_is_kept_is_found(folder: Path) -> None:
    name = shelf.name_of(doubled, EXAMPLES)
    assert name is not None
    assert shelf.find(name) is None
    shelf.keep(name, code(PLAIN))
    assert [entry.stem for entry in entries(folder)] == [name]
    found = shelf.find(name)
    assert found is not None
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(found(square)[0], square @ square)


def test_what_it_calls_is_kept_with_it(folder: Path) -> None:
    """And what is chosen when it is loaded."""
    helped = PLAIN.replace("return (", "return helper(").replace(
        "import torch\n", "import torch\nif torch:\n    two = 2\ndef helper(x):\n    return [x * two]\n"
    )
    shelf.keep("one", code(helped))
    found = shelf.find("one")
    assert found is not None
    assert found(torch.eye(2))[0].sum() == 4


@pytest.mark.parametrize(
    "source",
    [
        PLAIN.replace("extern_kernels.mm", "extern_kernels.bmm"),
        PLAIN.replace("extern_kernels.mm", "extern_kernels.convolution"),
        PLAIN.replace("return (", "(extern_kernels,); return ("),
        PLAIN.replace("return (", "async_compile; return ("),
        PLAIN.replace("return (", "get_args; return (") + "def get_args():\n    return 3\n",
        PLAIN.replace("extern_kernels\n", "extern_kernels, realize_inputs\n").replace(
            "return (", "realize_inputs; return ("
        ),
    ],
    ids=["another product", "a convolution", "as a value", "the compiler", "a script", "a name"],
)
def test_what_needs_the_compiler_is_not_kept(folder: Path, source: str) -> None:
    shelf.keep("one", code(source))
    assert entries(folder) == []


def test_constants_are_not_kept(folder: Path) -> None:
    made = code(PLAIN)
    made.constants = {"constant0": torch.ones(3)}
    shelf.keep("one", made)
    assert entries(folder) == []


def test_what_another_version_makes_is_not_kept(folder: Path) -> None:
    made = code(PLAIN)
    del made.constants
    shelf.keep("one", made)
    shelf.keep("one", SimpleNamespace())
    assert entries(folder) == []


def test_a_folder_that_cannot_be_written_keeps_nothing(folder: Path) -> None:
    (folder / "gradchain").write_text("in the way")
    shelf.keep("one", code(PLAIN))
    assert shelf.find("one") is None


def test_a_name_is_of_all_that_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [shelf.name_of(doubled, EXAMPLES), shelf.name_of(doubled, EXAMPLES, 0, "an option")]
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "_built", lambda: "another version")
        names.append(shelf.name_of(doubled, EXAMPLES))
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "another")
        names.append(shelf.name_of(doubled, EXAMPLES))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        names.append(shelf.name_of(doubled, EXAMPLES))
    torch.set_default_dtype(torch.float64)
    try:
        names.append(shelf.name_of(doubled, EXAMPLES))
    finally:
        torch.set_default_dtype(torch.float32)
    assert None not in names
    assert len(set(names)) == len(names)
    assert shelf.name_of(doubled, EXAMPLES) == names[0]


def test_somebody_elses_settings_keep_nothing() -> None:
    import torch._inductor.config as settings

    assert shelf.name_of(doubled, EXAMPLES) is not None
    with settings.patch({"max_fusion_size": 3}):
        assert shelf.name_of(doubled, EXAMPLES) is None
    with settings.patch({"force_disable_caches": True}):
        assert shelf.name_of(doubled, EXAMPLES) is None
    assert shelf.name_of(doubled, EXAMPLES) is not None


def test_lines_of_any_number_are_told_from_numbers() -> None:
    """A kernel for any number of lines must not be that of a computation in which the number stands."""
    examples = [torch.ones(4, 8)]
    assert shelf.name_of(lambda x: [x / 4], examples) == shelf.name_of(lambda x: [x / x.shape[0]], examples)
    assert shelf.name_of(lambda x: [x / 4], examples, 1) != shelf.name_of(lambda x: [x / x.shape[0]], examples, 1)


def test_only_kernels_of_a_cpu_have_names() -> None:
    elsewhere = torch.ones(3, device="meta")
    assert shelf.name_of(doubled, [elsewhere]) is None
    assert shelf.name_of(doubled, [torch.ones(3), elsewhere]) is None


def test_a_user_without_a_name_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("getpass.getuser", nameless)
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    assert str(shelf.folder()) == default_cache_dir()


def test_the_folder_is_inductors(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    assert str(shelf.folder()) == default_cache_dir()

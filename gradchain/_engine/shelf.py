"""Compiled functions kept from run to run, and found without the compiler, whose import takes longer than a step.

Inductor keeps what it has compiled as well, but has to trace a graph to find it. Here it is found by the text of what is
computed (transcript.py), of this package and of the machine. What is kept is a small module that calls inductor's
libraries, in a folder beside theirs. Anything unknown in it, and it is not kept; anything amiss, and it is not found.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch

from gradchain._engine.transcript import transcript

Compiled: TypeAlias = "Callable[..., Sequence[torch.Tensor]]"
"""A compiled graph: from its inputs to its outputs. It does not raise the versions of what it writes in place."""

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")
"""What inductor calls of torch under names of its own."""

ENTRY = "call"
"""The function of inductor's modules."""

SCRIPT = ("get_args", "benchmark_compiled_module")
"""Functions for those who run them as scripts."""

COMPILERS = ("async_compile = AsyncCompile()", "async_compile.wait(globals())", "del async_compile")
"""What they do to get at their libraries."""

POINTER = "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"
"""Where inductor's libraries look for the function that tells where a tensor's memory is."""

OFF = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}
"""How inductor is told to keep nothing."""


def name_of(
    function: Callable[..., Any], examples: Sequence[torch.Tensor], lined: int = 0, *options: object
) -> str | None:
    """What a function is kept under: the same for equal computations on tensors like these, with equal options.

    The first `lined` of them may have any number of lines. None: nothing is to be kept, or what it does cannot be told.
    """
    if any(x.device.type != "cpu" for x in examples) or not _applies():
        return None
    try:
        texts = [transcript(function, each) for each in _of_some_sizes(examples, lined)]
    except Exception:  # the compiler's tracer will tell the user, if it is the stage's fault
        return None
    return hashlib.sha256("\n".join([*_machine(), repr((lined, options)), *texts]).encode()).hexdigest()


def _of_some_sizes(examples: Sequence[torch.Tensor], lined: int) -> list[Sequence[torch.Tensor]]:
    """Examples that tell apart what depends on the number of lines."""
    longer = [torch.empty((len(x) + 1, *x.shape[1:]), dtype=x.dtype, device="meta") for x in examples[:lined]]
    return [examples, [*longer, *examples[lined:]]] if lined else [examples]


def find(name: str) -> Compiled | None:
    """The function that is kept under a name, if there is one."""
    try:
        kept = json.loads(_place(name).read_text())
        base = folder()
        module: dict[str, Any] = {
            "extern_kernels": SimpleNamespace(**{name: getattr(torch, name) for name in PRODUCTS})
        }
        module |= {name: _loaded(base / path) for name, path in kept["libraries"].items()}
        exec(kept["source"], module)
        return _unboxed(module[ENTRY])
    except Exception:  # it is not there, or not whole: it is compiled, and kept again
        return None


def keep(name: str, code: Any) -> None:
    """Keep what inductor has compiled, if it is of a kind that can be found again."""
    try:
        entry: Any = code.current_callable
        module = getattr(entry, "__globals__", {})
        if code.constants or module.get(ENTRY) != entry:
            return
        source, names = _without_compiler(code.source_code, module)
        libraries = {name: os.path.relpath(module[name].__self__.__file__, folder()) for name in names}
        _write(_place(name), json.dumps({"source": source, "libraries": libraries}))
    except (ValueError, AttributeError, KeyError, OSError):  # of another version; or the folder cannot be written
        return


def folder() -> Path:
    """Inductor's folder, without asking it."""
    told = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if told is None:
        user = "".join("_" if letter in r'\/:*?"<>|' else letter for letter in _user())
        told = os.path.join(tempfile.gettempdir(), f"torchinductor_{user}")
    return Path(told).absolute()


def _user() -> str:
    import getpass  # here, since it imports what terminals need

    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # as in a container
        return f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"


def _write(place: Path, text: str) -> None:
    """Write a file as a whole or not at all, whoever else writes it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=place.parent)
    try:
        with open(handle, "w") as file:
            file.write(text)
        os.replace(scratch, place)
    except BaseException:
        os.unlink(scratch)
        raise


def _place(name: str) -> Path:
    return folder() / "gradchain" / f"{name}.json"


def _applies() -> bool:
    """Whether things are to be kept: not where somebody has changed inductor's settings, which is no text."""
    if any(os.environ.get(name) == value for name, value in OFF.items()):
        return False
    settings: Any = sys.modules.get("torch._inductor.config")
    if settings is None:
        return True
    try:
        return not settings.force_disable_caches and all(
            getattr(settings, name) == _default(entry)
            for name, entry in settings._config.items()
            if entry.alias is None
        )
    except Exception:  # another version's settings
        return False


def _default(entry: Any) -> Any:
    """A setting that nobody has changed in this process."""
    for value in (entry.env_value_force, entry.env_value_default):
        if type(value) is not object:  # inductor's sign of nothing
            return value
    return entry.default


def _machine() -> list[str]:
    """Whatever else compiled code depends on, as text."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith("TORCHINDUCTOR_") and name != "TORCHINDUCTOR_CACHE_DIR")
        or name in ("CXX", "ATEN_CPU_CAPABILITY")
    }
    modes = torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    return [_built(), repr(modes), repr(sorted(environment.items()))]


@functools.cache
def _built() -> str:
    """This package, torch, Python and the processor."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    versions = torch.__version__, str(torch.version.git_version), sys.implementation.cache_tag
    return repr((digest.hexdigest(), versions, platform.machine(), _processor()))


def _processor() -> str:
    """What a compiler sees of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.startswith(told))


def _loaded(path: Path) -> Callable[..., None]:
    """The function of one of inductor's libraries."""
    guards: Any = torch._C._dynamo.guards  # pyright: ignore
    os.environ[POINTER] = str(guards._torchinductor_pyobject_tensor_data_ptr)
    loader = importlib.machinery.ExtensionFileLoader(f"{path.stem}.kernel", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module: Any = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.kernel


def _unboxed(entry: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]) -> Compiled:
    """Of a function that empties the list that it takes, one that takes tensors."""
    return lambda *inputs: entry(list(inputs))


def _without_compiler(source: str, module: dict[str, Any]) -> tuple[str, list[str]]:
    """One of inductor's modules without what it needs of inductor, and the names of its libraries.

    Raises: ValueError: it needs something else of inductor.
    """
    kept: list[ast.stmt] = []
    libraries: list[str] = []
    gone: set[str] = {"async_compile"}
    for statement in ast.parse(source).body:
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("torch._inductor"):
            gone |= {alias.asname or alias.name for alias in statement.names}
        elif isinstance(statement, ast.Assign) and ".cpp_pybinding(" in ast.unparse(statement.value):
            libraries += [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.FunctionDef) and statement.name in SCRIPT:
            gone.add(statement.name)
        elif "__name__" not in names and ast.unparse(statement) not in COMPILERS:
            kept.append(statement)
    _check(kept, gone, module)
    return ast.unparse(ast.Module(kept, [])), libraries


def _check(kept: Sequence[ast.stmt], gone: set[str], module: dict[str, Any]) -> None:
    """Raise if statements need what is gone, but for products of matrices."""
    known: set[int] = set()
    for node in (node for statement in kept for node in ast.walk(statement)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "extern_kernels":
            if node.attr not in PRODUCTS or getattr(module["extern_kernels"], node.attr) is not getattr(
                torch, node.attr
            ):
                raise ValueError(node.attr)
            known.add(id(node.value))
        elif isinstance(node, ast.Name) and node.id in gone and id(node) not in known:
            raise ValueError(node.id)

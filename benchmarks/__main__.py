"""`python -m benchmarks`: measure pairs, print tables, write JSON and the page of the documentation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import page as pages
from benchmarks.pairs import PAIRS, Pair, pair
from benchmarks.shapes import LISTS, TITLES

ROOT = Path(__file__).parent.parent
QUICK = {"adamw-fused": ("gpt2", "small"), "adamw-eager": ("small",), "rose-fp32": ("gpt2",), "adams": ("gpt2",)}
LIMIT = 600
"""Seconds after which a process is given up."""

console = Console() if sys.stdout.isatty() else Console(width=160)
app = typer.Typer(add_completion=False)

Result = dict[str, Any]


def run_task(task: Result, cache: Path, limit: float = LIMIT) -> Result:
    """Do a task in a process of its own, with its own compiler cache."""
    threads = str(task["threads"])
    own = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "task.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(task))
        command = [sys.executable, "-m", "benchmarks.measure", str(asked), str(answered)]
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"failure": f"took more than {limit:.0f} s", "warnings": []}
        if answered.exists():
            return json.loads(answered.read_text())
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        return {"failure": f"died with code {ended.returncode}: {last[:200]}", "warnings": []}


def plan(lists: list[str], names: list[str], quick: bool) -> list[tuple[Pair, str]]:
    """Which pairs on which lists: those named, or each pair's own."""
    for name in lists:
        if name not in LISTS:
            raise typer.BadParameter(f"unknown list {name!r}; there are {', '.join(LISTS)}.")
    try:
        chosen = [pair(name) for name in names] or [p for p in PAIRS if not quick or p.name in QUICK]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    own = {p.name: QUICK.get(p.name, p.lists) if quick else p.lists for p in chosen}
    return [(p, name) for name in LISTS for p in chosen if name in (lists or own[p.name])]


def measure(work: list[tuple[Pair, str]], settings: Result, caches: Path) -> Iterator[Result]:
    """The results of all pairs, one after the other. A chain's pairs on a list share a compiler cache."""
    cold: dict[str, float | None] = {}
    for number, (p, name) in enumerate(work, start=1):
        common = {"pair": p.name, "list": name, **settings}
        key = f"{p.ours.label.replace(' ', '-')}-{name}"
        console.print(f"[{number}/{len(work)}] {p.ours.label} / {p.peer.label}, {TITLES[name]}", style="dim")
        if settings["cold"] and name == pages.WARM_LIST and p.ours.compiled and key not in cold:
            cold[key] = run_task({"what": "first step", **common}, caches / key).get("first_s")
        result = run_task({"what": "compare", **common}, caches / key)
        yield {
            "pair": p.name,
            "list": name,
            "ours": p.ours.label,
            "peer": p.peer.label,
            "compiled": p.ours.compiled,
            "differs": p.differs,
            "target": p.targets.get(name),
            "cold_s": cold.get(key),
            **result,
        }


def machine(device: str) -> Result:
    """What the numbers depend on; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30)),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions(work: list[tuple[Pair, str]]) -> dict[str, str]:
    """Of the packages that are compared with."""
    found: dict[str, str] = {}
    for package in sorted({p.peer.package for p, _ in work if p.peer.package} - {"torch"}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "(not installed)"
    return found


def run_all(work: list[tuple[Pair, str]], settings: Result, output: Path) -> Result:
    """Measure everything. What is there is written after each pair, so that an interrupted run leaves something."""
    start = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    data: Result = {
        "machine": machine(settings["device"]),
        "settings": settings,
        "peers": versions(work),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
    }
    with tempfile.TemporaryDirectory() as folder:
        speeds = run_task({"what": "bandwidth", **settings}, Path(folder))
        if "failure" in speeds:
            raise RuntimeError(f"the bandwidth could not be measured: {speeds['failure']}")
        data["bandwidth"] = {name: speeds[name] for name in ("triad", "triad_in_place")}
        data["results"] = []
        for result in measure(work, settings, Path(folder)):
            data["results"].append(result)
            data["minutes"] = (time.monotonic() - start) / 60
            output.write_text(json.dumps(data, indent=1) + "\n")
            console.print(
                f"    {result['failure'] if 'failure' in result else format(result['ratio'], '.2f')}", style="dim"
            )
    return data


def show(data: Result) -> None:
    for table in pages.tables(data):
        rich = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            rich.add_column(column, justify="left" if number < 2 else "right")
        for row in table.rows:
            rich.add_row(*(cell.replace("**", "").replace("\\|", "|") for cell in row))
        console.print(rich)


@app.command()
def main(
    lists: Annotated[list[str] | None, typer.Option("--list", help="A parameter list; may be repeated.")] = None,
    pairs: Annotated[list[str] | None, typer.Option("--pair", help="A pair; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of a pair, at most.")] = 40,
    seconds: Annotated[float, typer.Option(help="Seconds of timed steps of a pair, about.")] = 3.0,
    threads: Annotated[int, typer.Option(help="Threads; 0 for as many as there are cores.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, typer.Option(help="Few pairs, few rounds, no cold compiler caches.")] = False,
    cold: Annotated[
        bool, typer.Option(help="Measure first steps of the GPT-2-like list with a cold compiler cache.")
    ] = True,
    output: Annotated[Path, typer.Option(help="Where the results go.")] = ROOT / "runs" / "benchmarks.json",
    page: Annotated[Path | None, typer.Option(help="A page with markers to write the results into.")] = None,
    redraw: Annotated[bool, typer.Option(help="Measure nothing; show what `output` holds.")] = False,
) -> None:
    """Measure our chains against their peers, each pair in a process of its own, both sides in turns."""
    if redraw:
        data = json.loads(output.read_text())
    else:
        work = plan(lists or [], pairs or [], quick)
        settings = {"device": device, "threads": threads or os.cpu_count() or 1, "cold": cold and not quick}
        settings |= {"rounds": min(rounds, 8) if quick else rounds, "seconds": min(seconds, 1.0) if quick else seconds}
        data = run_all(work, settings, output)
    show(data)
    if page is not None:
        pages.write(data, page)


if __name__ == "__main__":
    app()

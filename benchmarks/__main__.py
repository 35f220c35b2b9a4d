"""`python -m benchmarks`: measure pairs, print tables, write the page of the documentation, or tell what moved since."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks import gpu, guard, measure, targets
from benchmarks import page as pages
from benchmarks.pairs import PAIRS, Pair, pair
from benchmarks.schedule import LIMIT, Budget, Measuring, Row, RunTask, Work, first_steps, in_order, tasks_of
from benchmarks.shapes import LISTS, TITLES
from benchmarks.tables import WARM_LIST, Table, tables

ROOT = Path(__file__).parent.parent
BASELINE = pages.results_of(ROOT / "docs" / "benchmarks.md")
RUNS = ROOT / "runs"
MINUTES = {"cpu": 24.0, "cuda": 60.0}
WORSE, INCOMPARABLE, NO_GPU = 1, 3, 4
"""Exit statuses; 0 is a run in which nothing got worse, 2 a wrong argument."""

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


def run_here(task: Result, cache: Path, limit: float = LIMIT) -> Result:
    """Do a task in this process, which has imported everything: quicker, but one task may weigh on the next."""
    result = measure.run(task)
    gc.collect()
    torch.cuda.empty_cache()
    return result


def plan(lists: Sequence[str], names: Sequence[str], quick: bool, device: str = "cpu") -> list[tuple[Pair, str]]:
    """Which pairs on which lists: those named, or each pair's own."""
    for name in lists:
        if name not in LISTS:
            raise typer.BadParameter(f"unknown list {name!r}; there are {', '.join(LISTS)}.")
    try:
        chosen = [pair(name) for name in names] or PAIRS
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    own = {p.name: p.quick if quick else p.cuda if device == "cuda" else p.lists for p in chosen}
    return [(p, name) for name in LISTS for p in chosen if name in (lists or own[p.name])]


def machine(device: str) -> Result:
    """What the numbers depend on; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    there = device == "cuda" and torch.cuda.is_available()
    return {
        "processor": torch.cuda.get_device_name() if there else processor(),
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


def versions(work: Work) -> dict[str, str]:
    """Of the packages that are compared with."""
    found: dict[str, str] = {}
    for package in sorted({p.peer.package for p, _ in work if p.peer.package} - {"torch"}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "(not installed)"
    return found


def run_all(
    work: Work,
    checks: Sequence[Result],
    settings: Result,
    output: Path,
    budget: Budget,
    caches: Path,
    run_task: RunTask = run_task,
    apart: RunTask | None = None,
) -> Result:
    """Measure everything. What is there is written after each task, so that an interrupted run leaves something.

    `apart`: how to do what other tasks go beside; by default like the others.
    """
    apart = apart or run_task
    data: Result = {
        "machine": machine(settings["device"]),
        "settings": settings,
        "peers": versions(work),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "minutes": 0.0,
    }
    speeds = run_task({"what": "bandwidth", **settings}, caches, LIMIT)
    if "failure" in speeds:
        raise RuntimeError(f"the bandwidth could not be measured: {speeds['failure']}")
    data["bandwidth"] = {name: speeds[name] for name in ("copy", "triad", "triad_in_place")}
    rows: dict[int, Result] = {}
    data["checks"] = []

    def keep() -> None:
        data["minutes"], data["results"] = budget.spent / 60, [rows[place] for place in sorted(rows)]
        pages.save(data, output)

    def compare(chosen: Sequence[Row]) -> None:
        for place, result in measuring.results(chosen):
            rows[place] = result
            tell(f"{result['ours']} / {result['peer']}, {TITLES[result['list']]}", result, len(rows), len(work))
            keep()

    def look(task: Result) -> None:
        run = run_task if task["check"] in gpu.TIMED else apart
        done = {**task, **budget.run(run, {**task, **settings}, caches / task["subject"].replace(" ", "-"))}
        data["checks"].append(done)
        tell(f"{task['check']} of {task['subject']}", done, len(data["checks"]), len(checks))
        keep()

    measuring = Measuring(settings, budget, caches, run_task)
    wanted, others = in_order(work)
    timed = [task for task in checks if task["check"] in gpu.TIMED]
    untimed = [task for task in checks if task not in timed]
    if settings.get("ahead", 1) > 1:  # nothing is timed yet, so that several go side by side
        filling = [] if settings["cold"] else first_steps(work, settings, caches)
        with ThreadPoolExecutor(settings["ahead"]) as pool:
            looks = [(look, task) for task in reversed(untimed)]  # what compiles longest comes last in the tables
            fills = [(apart, *each, LIMIT) for each in filling]
            wait([pool.submit(*job) for job in [*looks, *fills]])
        untimed = []
    compare(wanted)
    for task in [*timed, *untimed]:
        look(task)
    compare(others)
    return data


def tell(what: str, result: Result, number: int, of: int) -> None:
    ratio = format(result["ratio"], ".2f") if "ratio" in result else result.get("ok", "")
    console.print(f"[{number}/{of}] {what}: {result.get('failure', ratio)}", style="dim", highlight=False)


def show(*shown: Table) -> None:
    for table in shown:
        rich = RichTable(title=table.title, title_justify="left")
        for number, column in enumerate(table.columns):
            rich.add_column(column, justify="left" if number < 2 else "right")
        for row in table.rows:
            rich.add_row(*(cell.replace("**", "") for cell in row))
        console.print(rich)


def run_guard(work: Work, settings: Result, output: Path, baseline: Path, minutes: float) -> int:
    """Measure a few pairs and say what moved since the committed page. Returns: the exit status."""
    if not baseline.exists():
        console.print(f"nothing to compare with: {baseline.name} is missing; `make bench` writes it beside its page.")
        return INCOMPARABLE
    before, caches = json.loads(baseline.read_text(encoding="utf-8")), RUNS / "benchmark-caches"

    def take(chosen: Work, output: Path) -> Result:
        return run_all(chosen, (), settings, output, Budget(minutes, tasks_of(chosen, (), settings)), caches)

    def again(keys: Sequence[guard.Key]) -> Result:
        return take([(p, name) for p, name in work if (p.name, name) in keys], output.with_stem(f"{output.stem}-again"))

    now = take(work, output)
    found = guard.confirmed(before, now, again)
    show(guard.table(found))
    if differs := guard.unlike(before, now):
        console.print(f"Nothing follows from this, as the runs are of different machines: {'; '.join(differs)}.")
        return INCOMPARABLE
    return WORSE if guard.worse(found) else 0


@app.command()
def main(
    lists: Annotated[list[str] | None, typer.Option("--list", help="A parameter list; may be repeated.")] = None,
    pairs: Annotated[list[str] | None, typer.Option("--pair", help="A pair; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of a pair, at most.")] = 40,
    seconds: Annotated[float, typer.Option(help="Seconds of timed steps of a pair, about.")] = 3.0,
    minutes: Annotated[
        float, typer.Option(help="Minutes of the whole run; what comes too late is left out. 0: 24, or 60 on a GPU.")
    ] = 0.0,
    threads: Annotated[int, typer.Option(help="Threads; 0 for as many as there are cores.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rehearse: Annotated[bool, typer.Option(help="With cuda: go through the run on a CPU, over tiny tensors.")] = False,
    quick: Annotated[
        bool, typer.Option(help="A few pairs beside the committed page. Status 1: worse; 3: nothing to compare with.")
    ] = False,
    cold: Annotated[bool, typer.Option(help="Measure first steps with a cold compiler cache.")] = True,
    ahead: Annotated[
        int,
        typer.Option(
            help="So many processes at once go through what is not timed; without cold steps they compile too."
        ),
    ] = 1,
    checks: Annotated[bool | None, typer.Option(help="On a GPU: more than pairs; by default if none is named.")] = None,
    together: Annotated[
        bool, typer.Option(help="Time all pairs in one process, which is quicker and less clean.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Where the results go; by default beside the page.")] = None,
    page: Annotated[Path | None, typer.Option(help="A page with markers to write the results into.")] = None,
    baseline: Annotated[Path, typer.Option(help="The results that --quick compares with.")] = BASELINE,
    redraw: Annotated[bool, typer.Option(help="Measure nothing; show what `output` holds.")] = False,
) -> None:
    """Measure our chains against their peers, each pair in a process of its own, both sides in turns.

    Exit statuses: 0, all was measured and nothing got worse; 1, something got worse than on the committed page; 2, a wrong
    argument; 3, nothing to compare with, or another machine; 4, there is no GPU.
    """
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"unknown device {device!r}; there are cpu and cuda.")
    minutes = minutes or MINUTES[device]
    output = output or (RUNS / "benchmarks.json" if page is None else pages.results_of(page))
    if redraw:
        finish(json.loads(output.read_text(encoding="utf-8")) if output.exists() else None, page)
        return
    if device == "cuda" and not rehearse and not torch.cuda.is_available():
        console.print(
            f"No GPU: torch {torch.__version__} sees none here. Nothing was measured, and nothing was written. "
            "`--device cuda --rehearse` goes through the same lines on the CPU."
        )
        raise typer.Exit(NO_GPU)
    work = plan(lists or [], pairs or [], quick, device)
    settings = {"device": device, "threads": threads or os.cpu_count() or 1, "cold": cold and not quick}
    settings |= {"rounds": rounds, "seconds": min(seconds, 1.5) if quick else seconds, "rehearse": rehearse}
    settings |= {"ahead": ahead, "together": together}
    if quick:
        raise typer.Exit(run_guard(work, settings, output, baseline, minutes))
    looking = device == "cuda" and (not (lists or pairs) if checks is None else checks)
    tasks = gpu.tasks("tiny" if rehearse else WARM_LIST["cuda"]) if looking else []
    if rehearse:
        work = [(p, "tiny") for p in {p.name: p for p, _ in work}.values()]
    with tempfile.TemporaryDirectory() as folder:
        budget, caches = Budget(minutes, tasks_of(work, tasks, settings)), Path(folder)
        if together:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            run_all(
                work,
                tasks,
                settings,
                output,
                budget,
                caches,
                run_here,
                lambda task, _, limit: run_task(task, caches, limit),
            )
        else:
            run_all(work, tasks, settings, output, budget, caches)
    kept = json.loads(output.read_text(encoding="utf-8"))  # rounded: so it is drawn again alike
    finish(kept, page)


def finish(data: Result | None, page: Path | None) -> None:
    """Show what was measured, and write it into a page."""
    if data is not None:
        show(targets.table(data), *tables(data))
    if page is not None:
        pages.write(data, page)


if __name__ == "__main__":
    app()

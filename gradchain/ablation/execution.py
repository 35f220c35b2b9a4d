"""Who does the runs of a study: this process, several, or an executor that reaches other machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gradchain._chain.chain import Chain
from gradchain._core.text import Progress
from gradchain.ablation.errors import StudyError, extra
from gradchain.ablation.ledger import Ledger
from gradchain.ablation.run import Run, Settings, run_key, train
from gradchain.ablation.thresholds import Thresholds
from gradchain.errors import GradchainError

PAUSE = 0.2
"""Seconds between two looks at what others are doing."""


class Future(Protocol):
    """What an executor returns."""

    def done(self) -> bool: ...
    def result(self) -> Any: ...


class Executor(Protocol):
    """Whoever runs functions elsewhere: `concurrent.futures`, submitit, a dask client."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future: ...


@dataclass(frozen=True)
class Job:
    """One run to be done. `prune`: when to give it up."""

    chain: Chain
    settings: Settings
    seed: int
    arm: str
    key: str
    prune: Thresholds | None = None

    def run(self) -> Run:
        """Do it. Returns: its results."""
        return train(self.chain, self.settings, self.seed, self.arm, self.key, self.prune)


def job_of(chain: Chain, settings: Settings, seed: int, arm: str, prune: Thresholds | None = None) -> Job:
    """Make a job; its key is found here, since another process may not see where its functions come from."""
    key = run_key(chain, settings, seed) + (prune.key if prune else "")
    return Job(chain, settings, seed, arm, key, prune)


def work(job: Job, folder: str | None, since: int) -> Run | None:
    """Do a run in a process of an executor, which has not read the results yet. Returns: as `unless_known`."""
    return unless_known(job, None if folder is None else Ledger(Path(folder), since))


def unless_known(job: Job, ledger: Ledger | None) -> Run | None:
    """Do a run, unless its result is there. Returns: its results; `None` if another process is at it."""
    if ledger is None:
        return job.run()
    with ledger.claim(job.key) as ours:
        if not ours:
            return None
        ledger.refresh()
        known = ledger.get(job.key)
        if known is None:
            known = job.run()
            ledger.add(known)
        return known


class Worker:
    """Gets runs done, in this process or by an executor, and knows which were there already.

    Args:
        folder: of the results; `None` keeps nothing.
        fresh: results that are there already are not used.
        jobs: processes on this machine.
        executor: does the runs instead.
        watch: called before each run, and at the end of all.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        fresh: bool = False,
        jobs: int = 1,
        executor: Executor | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self.ledger = None if folder is None else Ledger(folder)
        self.since = self.ledger.size if self.ledger and fresh else 0
        if self.since and folder is not None:
            self.ledger = Ledger(folder, self.since)
        self.folder = None if folder is None else str(folder)
        self.jobs, self.executor, self.watch = jobs, executor, watch
        self.resumed = self.done = self.total = 0
        self._runs: dict[str, Run] = {}
        self._own: Any = None
        """The processes that were started here."""

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self._own is not None:
            self._own.shutdown(wait=kind is None, kill_workers=kind is not None)

    def expect(self, runs: int) -> None:
        """Say how many runs there will be, for the progress that is shown."""
        self.total = max(runs, self.done)

    def __call__(self, jobs: Sequence[Job]) -> list[Run]:
        """Get runs done. Returns: their results, in order; what was done before is not done again."""
        keys = [job.key for job in jobs]
        open_jobs: dict[str, Job] = {}
        for key, job in zip(keys, jobs):
            if key in self._runs or key in open_jobs:
                continue
            known = self.ledger and self.ledger.get(key)
            if known:
                self._finish(key, known, f"{job.arm}, seed {job.seed}")
                self.resumed += 1
            else:
                open_jobs[key] = job
        if self.executor is None and (self.jobs == 1 or len(open_jobs) < 2):
            self._here(open_jobs)
        else:
            self._there(open_jobs, self._pool())
        return [self._runs[key] for key in keys]

    def tell(self, text: str) -> None:
        if self.watch is not None:
            self.watch(Progress(self.done, self.total, text))

    def _finish(self, key: str, run: Run, text: str | None = None) -> None:
        if text is not None:
            self.tell(text)
        self._runs[key] = run
        self.done += 1
        self.total = max(self.total, self.done)

    def _here(self, jobs: dict[str, Job]) -> None:
        waiting = list(jobs.items())
        while waiting:
            busy: list[tuple[str, Job]] = []
            for key, job in waiting:
                self.tell(f"{job.arm}, seed {job.seed}")
                run = unless_known(job, self.ledger)
                if run is None:
                    busy.append((key, job))
                else:
                    self._finish(key, run)
            if len(busy) == len(waiting):
                time.sleep(PAUSE)
            waiting = busy

    def _there(self, jobs: dict[str, Job], pool: Executor) -> None:
        waiting = dict(jobs)
        running: dict[str, Future] = {}
        while waiting:
            for key, job in waiting.items():
                if key not in running:
                    running[key] = pool.submit(work, job, self.folder, self.since)
            time.sleep(PAUSE / 10)
            for key in [key for key, future in running.items() if future.done()]:
                run = _result(running.pop(key), waiting[key])
                if run is None:  # another process is at it: ask again, later
                    time.sleep(PAUSE)
                else:
                    job = waiting.pop(key)
                    self._finish(key, run, f"{job.arm}, seed {job.seed}")

    def _pool(self) -> Executor:
        if self.executor is not None:
            return self.executor
        if self._own is None:
            self._own = extra("loky").ProcessPoolExecutor(self.jobs)
        return self._own


def _result(future: Future, job: Job) -> Run | None:
    try:
        return future.result()
    except GradchainError:
        raise
    except Exception as error:  # the executor's, since what a training raises is part of its run
        said = " ".join(str(error).split())[:300]
        raise StudyError(
            f"{job.arm}, seed {job.seed}: the process that ran it was lost ({type(error).__name__}: {said}). "
            "Finished runs are kept; the same study goes on from them. If memory is short, use fewer jobs."
        ) from error


def check_executor(executor: object, jobs: int) -> None:
    """Raises: StudyError: not an executor, or both it and jobs are given."""
    if executor is None:
        return
    if not callable(getattr(executor, "submit", None)):
        raise StudyError("executor has no submit(function, *args); pass one as those of concurrent.futures.")
    if jobs != 1:
        raise StudyError(f"jobs = {jobs} and executor exclude each other: the executor has its own number of workers.")

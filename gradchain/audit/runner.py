"""Run a chain with and without each thing that should matter."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch

from gradchain._chain import recipes
from gradchain._chain.chain import Chain
from gradchain._chain.named import is_place
from gradchain._chain.recipes import Recipe
from gradchain._core.text import Progress
from gradchain.audit.changes import Edit, Item, companions, items_of
from gradchain.audit.probe import Effect, Probe, Subject, Trajectory, difference, make_probe
from gradchain.audit.report import Finding, Report, Verdict
from gradchain.errors import GradchainError

Outcome: TypeAlias = "Effect | Literal['refused', 'broken']"

# At most, in search of a company in which something matters.
_RUNS_PER_ITEM = 160
_EDITS_IN_COMPANY = 4


def check(chain: Chain | str, /, *, watch: Callable[[Progress], None] | None = None, **options: Any) -> Report:
    """Find stages, hyperparameters and options of a chain, or of a recipe, that change nothing.

    On a probe (small parameters of ranks 0 to 4, of every role, in float32 and bfloat16, a few steps with gradients that
    change sign, jump and vanish) it removes each stage, gives each hyperparameter and each option of each stage and of the
    recipe other values, and compares parameters and state bit for bit. What changes nothing is tried again together with
    other changes before it is called dead.

    Args:
        chain: a chain, the path of a config, or the name of a recipe.
        watch: called with each `Progress`.
        options: of the recipe, or of the chain as for `Chain.with_options`.

    A field may declare why it is inert, as in `static(inert="only the speed depends on it")`; a recipe declares it by
    `register_recipe(..., inert={"option": "reason"})`.

    Returns: the report; `report.ok` tells whether everything matters.
    Raises: OptionError: no chain, or an option that it does not have; ConfigError: a config that cannot be read.
    """
    started, threads = time.perf_counter(), torch.get_num_threads()
    name, subject, recipe = _subject(chain, options)
    runner = _Runner(subject)
    try:
        torch.set_num_threads(1)  # the tensors are tiny
        items = items_of(subject, recipe)
        findings = list(runner.soundness())
        for done, item in enumerate(items):
            if watch is not None:
                watch(Progress(done, len(items), f"{item.kind} {item.name}"))
            findings.append(runner.judge(item, items))
    finally:
        torch.set_num_threads(threads)
    return Report(name, tuple(findings), runner.runs, time.perf_counter() - started)


def _subject(chain: Chain | str, options: Mapping[str, Any]) -> tuple[str, Subject, Recipe | None]:
    made = recipes.load_chain(chain, options)
    if isinstance(chain, Chain) or recipes.is_path(chain) or is_place(chain):
        return "chain" if isinstance(chain, Chain) else chain, Subject(made), None
    return chain, Subject(made, options=tuple(options.items())), recipes.find_recipe(chain)


class _Runner:
    """The runs of one check; what other runs are compared with is kept."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.runs = subject, 0
        self._baselines: dict[Any, tuple[Probe, Trajectory]] = {}

    def soundness(self) -> Iterator[Finding]:
        """A finding if the chain as it stands cannot be judged."""
        if not self._baseline(self.subject)[1].is_finite():
            yield Finding("probe", "all stages", "BROKEN", "parameters become infinite or NaN")

    def _baseline(self, subject: Subject) -> tuple[Probe, Trajectory]:
        if subject.runs not in self._baselines:
            probe = make_probe(subject.chain)
            self.runs += 1
            self._baselines[subject.runs] = probe, Trajectory(probe, subject)
        return self._baselines[subject.runs]

    def _effect(self, subject: Subject, edit: Edit) -> tuple[Outcome, str]:
        """What a change does to the result."""
        try:
            edited = edit(subject)
            if edited.runs == subject.runs:
                return "nothing", ""
            probe, baseline = self._baseline(subject)
            self.runs += 1
            return difference(baseline, Trajectory(probe, edited)), ""
        except GradchainError as error:
            return "refused", str(error)
        except Exception as error:  # a value that is accepted and then makes the code trip is a finding
            return "broken", f"{type(error).__name__}: {error}"

    def judge(self, item: Item, items: Sequence[Item]) -> Finding:
        """Try the changes of an item until one has an effect."""

        def found(verdict: Verdict, because: str) -> Finding:
            return Finding(item.kind, item.name, verdict, because)

        outcomes: dict[Outcome, str] = {}
        for shown, edit in item.edits:
            effect, text = self._effect(self.subject, edit)
            outcomes.setdefault(effect, f"{shown}: {text}" if text else shown)
            if effect == "changes":
                # What a recipe declares holds for its defaults.
                wrong = item.reason and not (item.kind == "option" and self.subject.options)
                return (
                    found("NOT INERT", f"{shown}, yet: {item.reason}") if wrong else found("changes the update", shown)
                )
        if "broken" in outcomes:
            return found("BROKEN", outcomes["broken"])
        if not item.edits:
            return found("inert", item.reason) if item.reason else found("untried", "no other value is known")
        wanted: tuple[Outcome, ...] = ("changes",) if "state only" in outcomes else ("changes", "state only")
        company, idle = self._company(item, items, wanted)
        if "state only" not in outcomes and "nothing" not in outcomes and not (idle and company is None):
            return found("refused", f"live with {company}" if company else outcomes["refused"])
        if company is not None:
            return found("live with", f"{company}; given here without effect" if item.given else company)
        if "state only" in outcomes:
            return found("state only", outcomes["state only"])
        if item.reason:
            return found("inert", item.reason)
        if "nothing" not in outcomes:
            return found("DEAD", f"refused here, without effect with {idle}")
        return found("DEAD", f"tried {', '.join(shown for shown, _ in item.edits)}")

    def _company(self, item: Item, items: Sequence[Item], wanted: tuple[Outcome, ...]) -> tuple[str | None, str | None]:
        """The other change with which an item has an effect, if there is one; and one with which it had none."""
        start, idle = self.runs, None
        for label, companion in companions(item, items):
            if self.runs - start > _RUNS_PER_ITEM:
                break
            try:
                subject = companion(self.subject)
            except Exception:  # this company is not to be had
                continue
            for _, edit in item.edits[:_EDITS_IN_COMPANY]:
                effect, _ = self._effect(subject, edit)
                if effect in wanted:
                    return label, idle
                if effect == "nothing":
                    idle = idle or label
        return None, idle

"""Arms as a design collects them: no chain twice, each with what makes it of the reference."""

from __future__ import annotations

from gradchain._chain.chain import Chain
from gradchain._chain.diff import diff
from gradchain.ablation.arms import FULL, Arm, Contrast, Design, Kind
from gradchain.ablation.errors import StudyError
from gradchain.errors import ConfigError


class Collected:
    """The arms so far, the reference first."""

    def __init__(self, reference: Chain, label: str = FULL, kind: Kind = "full") -> None:
        self.arms = [Arm(label, reference, kind)]
        self.contrasts: list[Contrast] = []
        self.notes: list[str] = []

    @property
    def reference(self) -> Arm:
        return self.arms[0]

    def add(self, label: str, chain: Chain, kind: Kind = "edited") -> str:
        """Add an arm, unless its chain is there. Returns: the label of the arm that has it."""
        same = next((arm for arm in self.arms if arm.chain == chain), None)
        if same is not None:
            if same.label != label:
                self.notes.append(f"{label} is the same chain as the arm {same.label!r}: run once.")
            return same.label
        if any(arm.label == label for arm in self.arms):
            raise StudyError(f"two arms are called {label!r}. Give one of them another name.")
        self.arms.append(Arm(label, chain, kind, edits_between(self.reference.chain, chain)))
        return label

    def contrast(self, label: str, *weights: tuple[str, float]) -> None:
        self.contrasts.append(Contrast(label, weights))

    def design(self, what: str) -> Design:
        """The design of these arms. `StudyError` if there is nothing to compare; `what` says how to mend that."""
        if len(self.arms) < 2:
            raise StudyError(" ".join(filter(None, ("there is nothing to compare.", *self.notes, what))))
        return Design(tuple(self.arms), tuple(self.contrasts), tuple(self.notes))


def edits_between(reference: Chain, chain: Chain) -> str:
    """One line for an arm. Chains that no config can name are shown as they print."""
    try:
        return str(diff(reference, chain))
    except ConfigError:
        return repr(chain)

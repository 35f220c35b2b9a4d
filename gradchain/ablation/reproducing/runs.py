"""Runs of reproductions: single ones, outside of a study."""

from __future__ import annotations

from gradchain._chain.chain import Chain
from gradchain.ablation.run import Run, Settings, train
from gradchain.ablation.task import find_task, with_settings
from gradchain.ablation.trial import Training


def trained(task: str | Training, chain: Chain, seed: int, budget: int | None = None) -> Run:
    """Train once, on a task of ours. Returns: the run."""
    training = find_task(task) if isinstance(task, str) else task
    training = with_settings(training, epochs=None, batch_size=None, dtype=None, budget=budget)
    return train(chain, Settings(training, training.budget), seed, "")

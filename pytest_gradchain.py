"""The pytest plugin of gradchain: it marks the tests made by `gradchain.testing`, and counts the laws at the end.

A module of its own, because pytest imports it at every start: it needs neither gradchain nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

MARKER = "gradchain"
STATES = (("passed", "hold"), ("skipped", "do not apply"), ("failed", "broken"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: a law that gradchain.testing checks.")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        law = getattr(item, "callspec", None) and item.callspec.params.get("law")  # type: ignore[attr-defined]
        if getattr(getattr(item, "function", None), "gradchain_laws", False):
            item.add_marker(MARKER)
            item.user_properties.append((MARKER, getattr(law, "name", "")))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    def laws(state: str) -> list[Any]:
        reports = terminalreporter.stats.get(state, [])
        return [report for report in reports if MARKER in dict(getattr(report, "user_properties", ()))]

    counts = {text: laws(state) for state, text in STATES}
    if any(counts.values()):
        terminalreporter.write_sep("=", "laws of gradchain")
        terminalreporter.write_line(", ".join(f"{len(found)} {text}" for text, found in counts.items() if found))
        for report in counts["broken"]:
            terminalreporter.write_line(f"broken: {report.nodeid}")

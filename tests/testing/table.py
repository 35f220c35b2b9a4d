"""Which laws which optimizers keep: measured, kept in table.json, and written into docs/testing.md.

python -m tests.testing.table gradchain.optim torch.optim adv_optm    measures these packages, and writes
python -m tests.testing.table                                         only writes the page
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch

from gradchain.testing import check_optimizer
from gradchain.testing.law import OF_OPTIMIZERS, OF_TRANSFORMS
from tests.testing.peers import OURS, PEERS, TORCH, Peer

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "testing.md", Path(__file__).with_suffix(".json")

Found: TypeAlias = "dict[str, dict[str, dict[str, str]]]"
"""By package, optimizer and law: `"broken: why"` and `"not applicable"`; laws that hold are left out."""

ALL = [*OURS, *TORCH, *PEERS]
PACKAGES = list(dict.fromkeys(peer.package for peer in ALL))


def measure(peer: Peer) -> dict[str, str]:
    """The laws that do not hold."""
    report = check_optimizer(peer, cross_parameter=peer.cross_parameter, strict=False)
    return {
        row.law: f"broken: {row.why}" if row.status == "broken" else row.status
        for row in report.rows
        if row.status != "holds"
    }


def named(package: str) -> str:
    """The package with its version; none for ours, which is what is tested."""
    if package == "gradchain.optim":
        return package
    return (
        f"torch {torch.__version__.partition('+')[0]}" if package == "torch.optim" else f"{package} {version(package)}"
    )


def cell(laws: Mapping[str, Mapping[str, str]], law: str) -> str:
    """How many optimizers of a package keep a law, of those that it applies to."""
    said = [found.get(law, "holds") for found in laws.values()]
    judged = [state for state in said if state != "not applicable"]
    kept = [state for state in judged if state == "holds"]
    return "" if not judged else f"{len(kept)}" if len(kept) == len(judged) else f"**{len(kept)}** of {len(judged)}"


def meanings(laws: Mapping[str, Any]) -> list[str]:
    return ["| law | where it is broken |", "|---|---|", *(f"| `{law.name}` | {law.lost} |" for law in laws.values())]


def matrix(found: Found) -> list[str]:
    """One row a law, one column a package."""
    packages = [package for package in PACKAGES if package in found]
    heads = [package.replace("gradchain.optim", "gradchain").replace("_", "\\_") for package in packages]
    lines = [f"| law | {' | '.join(heads)} |", "|---" * (len(packages) + 1) + "|"]
    for law in OF_OPTIMIZERS:
        lines.append(f"| `{law}` | {' | '.join(cell(found[package]['optimizers'], law) for package in packages)} |")
    return lines


def breaches(found: Found) -> list[str]:
    """The broken laws of each optimizer."""
    lines = ["| package | optimizer | breaks |", "|---|---|---|"]
    for package in PACKAGES:
        for name, laws in found.get(package, {}).get("optimizers", {}).items():
            broken = [f"`{law}`" for law, said in laws.items() if said.startswith("broken")]
            lines.append(f"| {found[package]['name']} | {name} | {', '.join(broken) or 'none'} |")
    return lines


def written(page: str, found: Found) -> str:
    """The page with its tables replaced."""
    parts = {
        "optimizers": meanings(OF_OPTIMIZERS),
        "transforms": meanings(OF_TRANSFORMS),
        "matrix": matrix(found),
        "breaches": breaches(found),
    }
    for name, lines in parts.items():
        begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
        text = "\n".join([begin, "", *lines, "", end])
        page = re.sub(f"{begin}.*?{end}", lambda _, text=text: text, page, flags=re.S)
    return page


def main(packages: list[str]) -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for package in packages:
        peers = [peer for peer in ALL if peer.package == package]
        if not peers:
            raise SystemExit(f"no package {package!r}; there are {', '.join(PACKAGES)}")
        found[package] = {"name": named(package), "optimizers": {}}
        for peer in peers:
            found[package]["optimizers"][peer.name] = measure(peer)
            print(
                peer,
                ", ".join(law for law, said in found[package]["optimizers"][peer.name].items() if "broken" in said),
            )
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Writes docs/field.md: what every recipe and every transform asks for, where it is from, what holds it, what it costs.

python docs/hooks/field.py

All is found by running them on meta tensors, and in the registry, but for the evidence of a recipe, which is in
`evidence.py` beside this file: a recipe without has no row, but an error.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from tests.laws.cases import TRANSFORMS  # noqa: E402

import gradchain  # noqa: E402
from evidence import EVIDENCE  # noqa: E402
from gradchain import distributed, transforms  # noqa: E402
from gradchain._chain.functional import routed  # noqa: E402
from gradchain._chain.program import Program  # noqa: E402
from gradchain._chain.recipes import find_recipe  # noqa: E402
from gradchain._chain.stage import Stage  # noqa: E402
from gradchain._chain.tracing.watched import usual_numbers  # noqa: E402
from gradchain._core.autocast import no_autocast  # noqa: E402
from gradchain._core.reduce import Request  # noqa: E402

PAGE = ROOT / "docs" / "field.md"
WORLD, STEP, WIDTH = 8, 3, 512

FACTORS = {
    "linalg_qr": 4.0,
    "_linalg_eigh": 9.0,
    "_linalg_svd": 22.0,
    "linalg_cholesky_ex": 1 / 3,
    "linalg_inv_ex": 2.0,
}
"""Operations of a factorisation of an m x n matrix, n the shorter side, in units of m n^2."""


class Operations(TorchDispatchMode):
    """Counts operations: 2 for each multiply-add of a product, 1 for each element of all else in floating point."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, (tuple, list)) else made
        name = func._overloadpacket.__name__
        if func._overloadpacket in flop_registry:
            self.count += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=made)
        elif name in FACTORS:
            *batch, m, n = args[0].shape
            self.count += FACTORS[name] * torch.Size(batch).numel() * max(m, n) * min(m, n) ** 2
        elif isinstance(first, torch.Tensor) and first.is_floating_point():
            if torch.Tag.reduction in func.tags:
                self.count += args[0].numel()
            elif torch.Tag.pointwise in func.tags:
                self.count += first.numel()
        return made


class Gpt2(nn.Module):
    """The GPT-2-like list of the benchmarks, with names: 30,000 words, eight blocks, no head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(30_000, WIDTH), nn.Embedding(1_024, WIDTH)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "c_attn": nn.Linear(WIDTH, 3 * WIDTH),
                    "c_proj": nn.Linear(WIDTH, WIDTH),
                    "c_fc": nn.Linear(WIDTH, 4 * WIDTH, bias=False),
                    "c_out": nn.Linear(4 * WIDTH, WIDTH, bias=False),
                }
            )
            for _ in range(8)
        )
        self.ln_f = nn.LayerNorm(WIDTH)


@dataclass
class Seen:
    """What a stage did in one step of one parameter."""

    operations: float = 0.0
    asked: set[str] = field(default_factory=set[str])


def watched(program: Program, shape: torch.Size, dtype: torch.dtype = torch.float32) -> dict[str, Seen]:
    """A step on the meta device, stage by stage."""
    seen = {address: Seen() for address in (*program.addresses, "")}
    param = torch.empty(shape, dtype=dtype, device="meta")
    with torch.no_grad(), no_autocast(), Operations() as operations:

        def witness(address: str, *_: Any) -> None:
            seen[address].operations, operations.count = operations.count, 0.0

        state, numbers = program.init(param), usual_numbers(program, (STEP,))[STEP]
        key, operations.count = torch.empty((), dtype=torch.int32, device="meta"), 0.0
        running = program.run(param, torch.empty_like(param), state, numbers, noise_key=key, witness=witness)
        try:
            where, request = next(running)
            while True:
                seen[where.partition(".")[0]].asked.add(kind(request))
                where, request = running.send(request.local_totals())
        except StopIteration:
            seen[""].operations = operations.count
    return seen


def kind(request: Request) -> str:
    """What a request asks for, in words."""
    if type(request) is not Request:
        return words(type(request).__name__.removesuffix("Request")).replace("matrix", "whole matrix")
    return "totals of a tensor" if request.scope == "tensor" else "totals of several tensors"


def words(name: str) -> str:
    """`SharedNumbers` as `shared numbers`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def bases(stage: type[Stage]) -> list[str]:
    """The contracts that a stage has by its bases."""
    between = stage.__mro__[1 : stage.__mro__.index(Stage)]
    return [words(base.__name__) for base in between if base.__module__.startswith("gradchain._chain.")]


def contract(stages: Iterable[type[Stage]], seen: Iterable[Seen]) -> str:
    """What some stages ask for beyond the elements of a tensor."""
    asked = {what for one in seen for what in one.asked} | {base for stage in stages for base in bases(stage)}
    return ", ".join(sorted(asked)) or "elementwise"


# Rows.


def recipe_row(name: str, model: nn.Module) -> list[str]:
    """A recipe with default options, for the GPT-2-like list in float32."""
    if name not in EVIDENCE:
        raise SystemExit(
            f"recipe {name!r} has no evidence. Say in docs/hooks/evidence.py what its steps were compared with, and in "
            "which test: a published package that runs beside it, golden files, or the formula in float64."
        )
    chain, params = gradchain.recipe(name), dict(model.named_parameters())
    numel = sum(param.numel() for param in params.values())
    alike = Counter((program, param.shape) for program, param in routed(chain, params, None))
    seen = [(watched(*key), times) for key, times in alike.items()]
    operations = sum(times * sum(one.operations for one in each.values()) for each, times in seen)
    acting = [(type(stage), each[at]) for each, _ in seen for at, stage in chain.addressed if at in each]
    sent = distributed.cost(chain, model, WORLD)
    text, test = EVIDENCE[name]
    return [
        f"[`{name}`]({page_of(name)})",
        ", ".join(f"`{part}`" for part in dict.fromkeys(type(stage).__name__ for _, stage in chain.addressed)),
        contract(*zip(*acting)) if acting else "elementwise",
        find_recipe(name).source,
        f"{text} <small>`{test}`</small>",
        number(chain.state_bytes(model) / numel),
        number(operations / numel),
        f"{sent.collectives}, {size(sent.sent(WORLD))}" if sent.collectives else "none",
    ]


def page_of(recipe: str) -> str:
    """Where a recipe is described, from the documentation's root."""
    for page in sorted((ROOT / "docs" / "recipes").glob("*.md")):
        if f"<!-- algorithm: {recipe} -->" in page.read_text(encoding="utf-8"):
            return f"recipes/{page.name}#{recipe.replace('.', '')}"
    raise SystemExit(f"recipe {recipe!r} is described on no page of docs/recipes.")


def transform_row(name: str, users: list[str], pages: dict[str, str]) -> list[str]:
    """A transform on a 1024 x 1024 matrix, or on what its case in the laws sends to it; one that has none needs more."""
    cls: type[Stage] = getattr(transforms, name)
    seen, kept, operations = Seen(), "", ""
    case = next((case for key, case in TRANSFORMS.items() if key.split("/")[0] == name), None)
    for shape in ((1024,), (1024, 1024)) if case else ():
        param = torch.empty(shape, device="meta")
        program = case.chain.route("", param)
        at = next((at for at, its in program.stages if type(its) is cls), None)
        if at is not None:
            seen = watched(program, param.shape)[at]
            rows = case.chain.cost([param]).stages
            kept = number(sum(row.state_bytes for row in rows if row.stage == at) / param.numel())
            operations = number(seen.operations / param.numel())
    return [
        f"[`{name}`]({pages[name]})",
        contract([cls], [seen]),
        ", ".join(f"`{user}`" for user in users) or "by options, or your own",
        cls.source if isinstance(cls.source, str) and cls.source else "folklore",
        f"`{test_of(name, users, pages[name])}`",
        kept,
        operations,
    ]


def test_of(name: str, users: list[str], page: str) -> str:
    """The file of tests for a transform, of tests/transforms if any speaks of it; or of a recipe that uses it."""
    module = getattr(transforms, name).__module__.rpartition(".")[2]
    rank = {f"test_{Path(page.partition('#')[0]).stem}": 1, f"test_{module}": 2}  # named after its page, or its module
    mention = re.compile(rf"\b{name}\b" if "_" in name else rf"\b(gc|gradchain|t)\.{name}\b")
    for folder in ("tests/transforms", "tests"):
        files = sorted((ROOT / folder).glob("test_*.py"))
        found = {path: len(mention.findall(path.read_text(encoding="utf-8"))) for path in files}
        best = max(files, key=lambda path: (found[path] > 0, rank.get(path.stem, 0), found[path]))
        if found[best] and best.name != "test_field.py":
            return f"{folder}/{best.name}"
        if user := next((user for user in users if user in EVIDENCE), None):
            return EVIDENCE[user][1]
    return "tests/laws"  # which all transforms have


def number(value: float) -> str:
    """Three digits at most, without needless zeros."""
    return "0" if value == 0 else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


# The page.

RECIPES = ("recipe", "transforms", "contract", "source", "parity evidence", "state B", "FLOPs", "sent by each of 8")
STAGES = ("transform", "contract", "recipes", "source", "tests", "state B", "FLOPs")


def table(header: tuple[str, ...], rows: Iterable[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def tables() -> dict[str, str]:
    """The tables of the page, by the names of their places."""
    with torch.device("meta"):
        model = Gpt2()
    ours = our_recipes()
    users = {name: {type(stage).__name__ for _, stage in gradchain.recipe(name).addressed} for name in ours}
    pages = pages_of_transforms()
    stages = [(name, [user for user in ours if name in users[user]]) for name in transforms.__all__]
    return {
        "recipes": "\n".join(table(RECIPES, (recipe_row(name, model) for name in ours))),
        "transforms": "\n".join(table(STAGES, (transform_row(name, used, pages) for name, used in stages))),
    }


def our_recipes() -> list[str]:
    """Those of gradchain, of all that are registered."""
    return [name for name in gradchain.recipes() if find_recipe(name).build.__module__.startswith("gradchain.")]


def pages_of_transforms() -> dict[str, str]:
    """Where each transform is described, from the documentation's root."""
    found = re.compile(r"^::: gradchain\.(\w+)$", flags=re.M)
    return {
        name: f"transforms/{page.name}#{name}"
        for page in sorted((ROOT / "docs" / "transforms").glob("*.md"))
        for name in found.findall(page.read_text(encoding="utf-8"))
    }


def written() -> str:
    """The page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in tables().items():
        place = f"<!-- field: {name} -->"
        text = re.sub(
            rf"{place}.*?<!-- end -->", lambda _, whole=f"{place}\n\n{made}\n\n<!-- end -->": whole, text, flags=re.S
        )
    return text


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")

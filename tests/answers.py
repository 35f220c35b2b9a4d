"""What the command line answers without torch.

`python -m tests.answers` writes `gradchain_command/answers.json` anew, after a recipe, a transform or a storage has changed.
"""

from __future__ import annotations

import json
from typing import Any

from gradchain._chain.recipes import recipe, recipe_names
from gradchain.cli import names, page
from gradchain_command.answers import ANSWERS, sources

WRITE = "write it anew: python -m tests.answers"


def answers() -> dict[str, Any]:
    """As they are today."""
    return {"sources": sources(), "names": names(), "recipes": {name: answer(name) for name in recipe_names()}}


def answer(name: str) -> dict[str, Any]:
    """What is known of a recipe with its own options."""
    chain = recipe(name)
    return {**page(name, chain), "toml": chain.to_toml(), "json": chain.to_json()}


def written() -> str:
    return json.dumps(answers(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    ANSWERS.write_text(written(), encoding="utf-8")

"""Runs the studies of this folder and writes their commands, tables and pictures into its pages.

python docs/studies/make.py [NAME ...]            # all, or some; runs that are in runs/studies are not repeated
python docs/studies/make.py --redraw [NAME ...]   # tables and pictures only, of finished studies; nothing is trained

What is between `<!-- study: NAME -->` and `<!-- end -->` is written by this script, the rest by hand: read it again after a
run, as the words speak of the numbers.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

from PIL import Image
from rich.console import Console

from gradchain.ablation import plot, report
from gradchain.ablation.study import Study, load_study

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RUNS = Path("runs") / "studies"
WIDTH = 128  # of tables, which a page has room for

OPTIONS = "-o cautious=true -o orthogonal_gradient=flattened -o stochastic_rounding=false -o weight_decay=0.1"
STUDIES = {
    "rose": "rose --tune 6",
    "rose-wide": "rose --baseline none --tune 8 --tune-range 0.3,300"
    " --edit '-range_normalize; -cv_trust_gate; -divide'",
    "gyro": "gyro-adam --tune 6",
    "adams": "adams",
    "adv-lion": f"adv-lion --epochs 15 -o lr=0.001 {OPTIONS} -o freeze_on_flip=true -o clip_threshold=1",
    "adv-adamw": f"adv-adamw --epochs 20 --batch-size 128 --baseline none -o lr=0.005 {OPTIONS}"
    " -o use_atan2=true -o nesterov=true -o kourkoutas_beta=true",
    "stack": "docs/studies/stack.toml --epochs 20 --batch-size 128 --tune 6",
    "stack-factorial": "docs/studies/stack.toml --epochs 20 --batch-size 128 --baseline none --resolution 4"
    " --factorial clip,centralize,orthograd,nesterov,cautious,cautious_decay",
    "field": "adamw --beside muon,soap,schedule-free-adamw,lion,rose,adams,gyro-adam --task charlm --baseline none"
    " --metric loss --metric 'validation_loss<=1.8' --tune 8 --tune-range 0.1,30",
}
"""What follows `gradchain ablate`, besides the number of seeds and the folder."""


def command(name: str) -> list[str]:
    return ["ablate", *shlex.split(STUDIES[name]), "--seeds", "6", "--out", (RUNS / name).as_posix()]


def shown_command(name: str) -> str:
    """As one would type it, an option to a line where they are many."""
    words, lines = [*map(shlex.quote, command(name))], ["gradchain"]
    for place, word in enumerate(words):
        starts = word.startswith("-") and (place == 2 or not words[place - 1].startswith("-"))
        follows = lines[-1] + " " + " ".join(words[place : place + 2] if starts else [word])
        if starts and len(follows) > 76:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += " " + word
    return "\n".join(lines)


def made(name: str) -> str:
    results = ROOT / RUNS / name / "results.jsonl"
    day = datetime.fromtimestamp(results.stat().st_mtime, tz=timezone.utc).date()
    return f"Made on {day} with {os.cpu_count()} CPU cores, {platform.system()}, {platform.machine()}."


def draw(study: Study, path: Path) -> None:
    plot(study, path)
    Image.open(path).convert("RGB").quantize(255, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def block(name: str) -> str:
    """The part of a page that belongs to a study."""
    study = load_study(ROOT / RUNS / name)
    draw(study, FOLDER / f"{name}.png")
    text = StringIO()
    Console(file=text, width=WIDTH).print(report(study))
    table = "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
    return (
        f"```sh\n{shown_command(name)}\n```\n\n```text\n{table}\n```\n\n"
        f"![Differences to the full chain, with intervals and verdicts, and training curves]({name}.png)\n\n{made(name)}"
    )


def write(name: str) -> None:
    marked = re.compile(rf"(?<=<!-- study: {re.escape(name)} -->\n).*?(?=\n<!-- end -->)", flags=re.S)
    for page in FOLDER.glob("*.md"):
        old = marked.search(text := page.read_text(encoding="utf-8"))
        if old is not None:
            page.write_text(text[: old.start()] + block(name) + text[old.end() :], encoding="utf-8")


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--redraw"] or [*STUDIES]
    for study_name in asked:
        if "--redraw" not in sys.argv:
            subprocess.run([sys.executable, "-m", "gradchain", *command(study_name)], cwd=ROOT, check=True)
        write(study_name)

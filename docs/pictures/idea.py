"""Draws the picture of the landing page, in a light and in a dark version.

python docs/pictures/idea.py
"""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
COLOURS = {
    "light": {
        "ink": "#1b2733",
        "dim": "#5b6875",
        "box": "#ffffff",
        "edge": "#2f5687",
        "new": "#b2560b",
        "state": "#eef3f9",
    },
    "dark": {
        "ink": "#e7edf4",
        "dim": "#a4b1bf",
        "box": "#1f2733",
        "edge": "#7db4f0",
        "new": "#f0a35e",
        "state": "#2a3647",
    },
}
SANS = "font-family='Helvetica, Arial, sans-serif'"
MONO = "font-family='DejaVu Sans Mono, Menlo, Consolas, monospace'"

STAGES = (  # x, name, what it keeps, what comes out
    (120, "first_moment", "exp_avg", "m"),
    (316, "second_moment", "exp_avg_sq", "m | √v"),
    (512, "divide", "", "m / √v"),
    (708, "decoupled_decay", "", "u"),
)
WIDTH, HEIGHT, Y, W, H = 1010, 318, 124, 142, 46


def text(x: float, y: float, words: str, fill: str, size: int = 14, font: str = MONO, anchor: str = "middle") -> str:
    return f"<text x='{x}' y='{y}' fill='{fill}' font-size='{size}' text-anchor='{anchor}' {font}>{words}</text>"


def box(x: float, y: float, name: str, fill: str, edge: str, ink: str, dashed: bool = False) -> str:
    dashes = " stroke-dasharray='5 4'" if dashed else ""
    frame = f"<rect x='{x}' y='{y}' width='{W}' height='{H}' rx='7' fill='{fill}' stroke='{edge}' stroke-width='2'{dashes}/>"
    return frame + text(x + W / 2, y + H / 2 + 5, name, ink)


def arrow(x0: float, y0: float, x1: float, y1: float, colour: str) -> str:
    tip = f"marker-end='url(#{colour[1:]})'"
    return f"<path d='M{x0} {y0} L{x1} {y1}' stroke='{colour}' stroke-width='2' {tip} fill='none'/>"


def head(colour: str) -> str:
    tip = f"<path d='M0 0 L9 4.5 L0 9 z' fill='{colour}'/>"
    size = "markerWidth='9' markerHeight='9' refX='8' refY='4.5' markerUnits='userSpaceOnUse'"
    return f"<marker id='{colour[1:]}' {size} orient='auto'>{tip}</marker>"


def idea(c: dict[str, str]) -> str:
    middle = Y + H / 2
    drawn = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-labelledby='title'>",
        "<title id='title'>Adam as a chain of stages. One stage is put in front, one is exchanged, one is left out.</title>",
        f"<defs>{head(c['edge'])}{head(c['new'])}</defs>",
        text(36, middle - 10, "gradient", c["ink"], 15, SANS),
        text(36, middle + 12, "g", c["ink"], 16),
        arrow(72, middle, 116, middle, c["edge"]),
    ]
    for x, name, slot, out in STAGES:
        drawn.append(box(x, Y, name, c["box"], c["edge"], c["ink"], dashed=name == "decoupled_decay"))
        drawn.append(arrow(x + W, middle, x + 192, middle, c["edge"]))
        drawn.append(text(x + W + 25, middle - 10, out, c["dim"], 12))
        if slot:
            drawn.append(
                f"<rect x='{x + 22}' y='{Y + H + 14}' width='{W - 44}' height='26' rx='4' fill='{c['state']}'/>"
            )
            drawn.append(text(x + W / 2, Y + H + 32, slot, c["dim"], 12))
            drawn.append(f"<path d='M{x + W / 2} {Y + H} v14' stroke='{c['dim']}' stroke-width='1.5'/>")
    drawn += [
        text(955, middle - 3, "parameter", c["ink"], 15, SANS),
        text(955, middle + 18, "θ − lr · u", c["ink"], 14),
        # the three edits
        box(22, 30, "orthograd", c["box"], c["new"], c["ink"]),
        f"<path d='M93 76 V{middle - 6}' stroke='{c['new']}' stroke-width='2' marker-end='url(#{c['new'][1:]})'/>",
        text(176, 50, '.insert_before("first_moment",', c["new"], 13, MONO, "start"),
        text(176, 68, "               orthograd())", c["new"], 13, MONO, "start").replace(
            "<text", "<text xml:space='preserve'"
        ),
        box(512, 244, "atan2_scale", c["box"], c["new"], c["ink"]),
        arrow(512 + W / 2, 242, 512 + W / 2, Y + H + 4, c["new"]),
        text(496, 272, '.replace("divide", atan2_scale())', c["new"], 13, MONO, "end"),
        f"<path d='M{700} {Y - 6} L{708 + W + 8} {Y + H + 6}' stroke='{c['new']}' stroke-width='3' opacity='0.6'/>",
        text(708 + W / 2, 96, '.without("decoupled_decay")', c["new"], 13),
        text(676, 272, "kept between steps: two slots; the rest is arithmetic", c["dim"], 13, SANS, "start"),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


if __name__ == "__main__":
    for name, colours in COLOURS.items():
        (ASSETS / f"idea-{name}.svg").write_text(idea(colours), encoding="utf-8")

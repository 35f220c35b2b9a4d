"""What variables are called."""

from __future__ import annotations

from gradchain._export.graph import Node

WORDS = {
    "sqrt": "root", "square": "squares", "sum": "total", "mean": "mean", "amax": "high", "amin": "low", "norm": "norm",
    "abs": "sizes", "sign": "signs", "_random_bits": "bits", "where": "chosen", "view": "matrix", "flatten": "matrix",
    "outer": "product", "request": "totals_of_all", "broadcast_tensors": "pair", "_near_square": "sides",
    "/": "ratio", "*": "product", "-": "difference", "+": "shifted", "clamp": "bounded", "to": "cast", "add": "average",
    "reshape": "shaped", "&": "both", "|": "either", "==": "equal", "gather": "picked", "atan2": "angle",
    "<": "below", ">": "above", "cat": "joined",
}  # fmt: skip
"""What to call the results of operations that nobody has named."""


def hint_of(node: Node) -> str:
    """The name that a stage gave to a result; or else one by the operation."""
    if node.name:
        return node.name
    if node.op == "choice":
        return hint_of(node.args[2]) if node.args[2].op not in ("const", "leaf") else hint_of(node.args[1])
    if node.kind != "tensor":
        return "number"
    return WORDS.get("request" if node.op == "request" else str(node.target).rpartition(".")[2], "value")

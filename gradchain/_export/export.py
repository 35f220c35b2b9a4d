"""`gradchain.export`: a chain as the text of one file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from gradchain._chain.chain import Chain
from gradchain._export.cases import Cases
from gradchain._export.module import Described, Module
from gradchain._export.trace import Tracer


def export(chain: Chain, *, name: str = "Exported", origin: str = "a chain", dtypes: Sequence[str] = ("fp32", "fp64")) -> str:
    tracer = Tracer(chain)
    cases = Cases(tracer)
    step = cases.all(dtypes, (None,))
    share = tracer.share()
    module = Module(chain, tracer.graph, step, share, cases.unseen, tracer.mixed)
    return module.write(Described(name, f"{name}.", origin, version("gradchain")))

"""Names that an author may expect to mean something in a stage, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable

from gradchain.errors import OptionError

_SLOTS = "Declare what the stage keeps in `slots(self, p)`, as in {'exp_avg': gradchain.Slot()}"
_READS = "List the slots of others in `reads`, as in (gradchain.earlier('exp_avg'),)"
_CHECK = "Raise gradchain.ChainError in `check(self, before, after)`, which gets the stages around this one"
_FOUND = "Leave it out: gradchain finds it out by running the stage on small tensors"
_PRECISION = "Make the stage a subclass of gradchain.Precision"
_SHARED = "Make the stage a subclass of gradchain.SharedNumbers"

INSTEAD = {
    "init": _SLOTS,
    "init_for": _SLOTS,
    "init_shard": f"{_SLOTS}; Slot(fill) takes a function of the parameter and the shard",
    "splits": f"{_SLOTS}; Slot(..., per_row=True) is sharded with the parameter",
    "row_slots": f"{_SLOTS}; Slot(..., per_row=True) is sharded with the parameter",
    "nonnegative": f"{_SLOTS}; Slot(nonnegative=True) is never negative",
    "storage_of": f"{_SLOTS}; Slot(storage='bf16') says how it is kept",
    "requires": _READS,
    "optional": f"{_READS}, with optional=True",
    "reads_previous": f"{_READS}, and read them with ctx.previous('exp_avg')",
    "place": _CHECK,
    "check_place": _CHECK,
    "serves": _CHECK,
    "decays": "Make the stage a subclass of gradchain.Decay",
    "advice": "Call p.warn(text) in `slots(self, p)`",
    "pin": "Declare a field with gradchain.follow('lr', initial=True)",
    "inert": "Declare the field with gradchain.static(inert='the reason')",
    **dict.fromkeys(("elementwise", "random", "draws", "joint", "records"), _FOUND),
    **dict.fromkeys(("read", "write"), _PRECISION),
    **dict.fromkeys(("init_shared", "share", "override"), _SHARED),
}


def check_names(cls: type, fields: Iterable[str]) -> None:
    """Raise for a method or attribute that nobody would ask for, unless it is one of the `fields` or of a base."""
    for name, instead in INSTEAD.items():
        if name in vars(cls) and name not in fields and not hasattr(super(cls, cls), name):
            raise OptionError(f"{cls.__name__}.{name} would have no effect in a stage. {instead}.")

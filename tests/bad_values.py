"""Values that are no numbers, or numbers out of every range, and a check of what an error says about them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import gradchain

LONGEST = 1200


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class LongRepr:
    def __repr__(self) -> str:
        return "x" * 100_000


NO_NUMBERS: dict[str, Any] = {
    "text": "0.1",
    "long text": "x" * 100_000,
    "bytes": b"0.1",
    "true": True,
    "complex": 1j,
    "nan": math.nan,
    "minus infinity": -math.inf,
    "too large": 10**400,
    "too small": -(10**400),
    "fraction": Fraction(1, 10),
    "decimal": Decimal("0.1"),
    "list": [0.1],
    "dict": {},
    "object": object(),
    "function": len,
    "class": float,
    "no repr": NoRepr(),
    "long repr": LongRepr(),
    "array": np.ones(1000),
    "0-d array": np.array(0.1),
    "numpy nan": np.float32(math.nan),
    "numpy bool": np.bool_(True),
    "tensor of two": torch.ones(2),
    "large tensor": torch.ones(1000),
    "no element": torch.ones(0),
    "nan tensor": torch.tensor(math.nan),
    "bool tensor": torch.tensor(True),
    "complex tensor": torch.tensor(1j),
    "meta tensor": torch.ones((), device="meta"),
    "sparse tensor": torch.ones(1).to_sparse(),
}
"""What no numeric hyperparameter may be."""

NEGATIVE: dict[str, Any] = {
    "negative": -1.0,
    "negative numpy": np.float64(-1),
    "negative tensor": torch.tensor(-1.0),
    "negative one-element tensor": torch.tensor([-1.0]),
    "negative integer tensor": torch.tensor(-3),
}

NUMBERS: dict[str, Any] = {
    "float": 0.1,
    "int": 0,
    "minus zero": -0.0,
    "subnormal": 5e-324,
    "numpy float32": np.float32(0.1),
    "numpy float64": np.float64(0.1),
    "numpy int": np.int64(0),
    "tensor": torch.tensor(0.1),
    "double tensor": torch.tensor(0.1, dtype=torch.float64),
    "tensor of one": torch.tensor([0.1]),
    "integer tensor": torch.tensor(0),
}
"""Good neighbours."""


def refused(build: Callable[[], Any], error: type[Exception], words: Iterable[str] = ()) -> str:
    """Raises the error, with these words, short, and without the elements of a tensor."""
    with pytest.raises(gradchain.GradchainError) as info:
        build()
    message = str(info.value)
    assert isinstance(info.value, error), f"{type(info.value).__name__}: {message[:300]}"
    assert [word for word in words if word not in message] == [], message[:1000]
    assert len(message) < LONGEST
    assert not re.search(r"tensor\(\[[^\]]*,", message), "the elements of a tensor"
    assert len(message.split("\n")) == 1
    return message

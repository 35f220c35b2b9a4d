"""Optimizers of others that the kit is run on, by package: name, and how to make one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed as dist

from gradchain import optim


@dataclass(frozen=True)
class Peer:
    """An optimizer of a package."""

    package: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    cross_parameter: bool = False

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"

    @property
    def __name__(self) -> str:
        return self.name

    @property
    def module(self) -> Any:
        """The package. Raises: ModuleNotFoundError: it is not installed."""
        found = importlib.import_module({"adams_torch": "adams"}.get(self.package, self.package))
        if self.package == "heavyball":
            found.utils.compile_mode = None
        if self.package == "adams_torch" and not dist.is_initialized():  # which divides its state over processes
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return found

    def __call__(self, params: Any) -> torch.optim.Optimizer:
        return getattr(self.module, self.name)(params, **self.options)


def torchs(name: str, cross_parameter: bool = False, **options: Any) -> Peer:
    return Peer("torch.optim", name, options, cross_parameter)


def matrices_are_muon(name: str, param: torch.Tensor) -> str:
    """A role for Muon_adv, which takes the small matrices of the laws for vectors by itself."""
    return "muon" if param.ndim > 1 else "adam"


OPTIONS: dict[str, dict[str, Any]] = {
    **{key: {"role": matrices_are_muon} for key in ("Muon_adv", "AdaMuon_adv")},
    "Adafactor": {"eps": (1e-30, 1e-3)},  # as in torch, the default depends on the dtype
    "Lars": {"always_adapt": True},  # as in timm, the default is plain SGD unless there is decay
}
OURS = [Peer("gradchain.optim", name, OPTIONS.get(name, {})) for name in optim.CLASSES]

TORCH = [
    *map(torchs, ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD")),
    torchs("LBFGS", cross_parameter=True),
    *map(torchs, ("Muon", "NAdam", "RAdam", "RMSprop", "Rprop")),
    torchs("SGD", momentum=0.9),
]
"""All but SparseAdam, which takes no dense gradients."""

PEERS = [
    *(Peer("adv_optm", name) for name in ("AdamW_adv", "Adopt_adv", "Lion_adv", "SignSGD_adv")),
    Peer("adv_optm", "Prodigy_adv", cross_parameter=True),
    *(
        Peer("pytorch_optimizer", name)
        for name in ("ADOPT", "AdEMAMix", "Adan", "CAME", "Lamb", "Lion", "ROSE", "SOAP")
    ),
    Peer("pytorch_optimizer", "Prodigy", cross_parameter=True),
    Peer("pytorch_optimizer", "ScheduleFreeAdamW"),
    *(Peer("heavyball", name) for name in ("ADOPT", "AdamW", "Muon", "PSGDKron", "SFAdamW", "SOAP")),
    Peer("adams_torch", "Adams_ZeRO"),
]

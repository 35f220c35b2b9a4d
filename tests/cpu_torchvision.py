"""What a machine without a GPU needs to import torchvision, which timm and transformers do; importing this does it."""

from __future__ import annotations

import importlib
import importlib.util

import torch

if importlib.util.find_spec("torchvision") is not None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # Its operators are built for a torch with CUDA, and this torch is for CPUs. Once those are declared that it adds
        # shape rules to, all else can be imported; timm and transformers use none of them here.
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")

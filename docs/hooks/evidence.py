"""What the steps of each recipe were compared with, and in which test."""

EVIDENCE: dict[str, tuple[str, str]] = {
    # Those that torch has.
    "adamw": ("live beside `torch.optim.AdamW`; state moves in and out", "tests/transforms/test_moments.py"),
    "sgd": ("live beside `torch.optim.SGD`; state moves in and out", "tests/transforms/test_momentum.py"),
    "nadam": ("live beside `torch.optim.NAdam`; state moves in and out", "tests/transforms/test_nadam.py"),
    "radam": ("live beside `torch.optim.RAdam`; state moves in and out", "tests/transforms/test_radam.py"),
    "adafactor": ("live beside `torch.optim.Adafactor`", "tests/transforms/test_row_column.py"),
    "muon": ("live beside `torch.optim.Muon` and `AdamW`", "tests/transforms/test_muon.py"),
    # Originals that were run to record golden files.
    "rose": ("golden files of 1.0.0", "tests/parity/test_golden.py"),
    "rose-1.0.2": ("golden files of 1.0.2", "tests/parity/test_golden.py"),
    "gyro-adam": ("golden files, telemetry included", "tests/parity/test_golden.py"),
    "gyro-sgd": ("golden files, telemetry included", "tests/parity/test_golden.py"),
    "adams": ("golden files; live beside adams-torch, two processes too", "tests/parity/test_adams_zero.py"),
    # adv_optm: golden files of seven releases, and the package itself.
    "adv-adamw": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-adamw-orthograd": ("as `adv-adamw`, of which it sets options", "tests/parity/test_adv_optm.py"),
    "adv-adamw-scaled": ("as `adv-adamw`, of which it sets options", "tests/parity/test_adv_optm.py"),
    "adv-adopt": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-adopt-factored": ("as `adv-adopt`, of which it sets options", "tests/parity/test_adv_optm.py"),
    "adv-adopt-factored-ademamix": ("as `adv-adopt`, of which it sets options", "tests/parity/test_adv_optm.py"),
    "adv-prodigy": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-prodigy-factored": ("as `adv-prodigy`, of which it sets options", "tests/parity/test_adv_optm.py"),
    "adv-lion": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-lion-prodigy": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-signsgd": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    "adv-sinksgd": ("golden files; live beside adv-optm 2.5.16", "tests/parity/test_live.py"),
    # Well-kept packages, side by side.
    "lamb": ("live beside `timm.optim.Lamb`", "tests/parity/test_layerwise.py"),
    "lars": ("live beside `timm.optim.Lars`", "tests/parity/test_layerwise.py"),
    "mars-adamw": ("live beside a published package", "tests/parity/test_variants.py"),
    "adabelief": ("live beside a published package", "tests/parity/test_variants.py"),
    "laprop": ("live beside a published package", "tests/parity/test_variants.py"),
    "stable-adamw": ("live beside a published package", "tests/parity/test_variants.py"),
    "schedule-free-adamw": ("live beside `schedulefree`", "tests/parity/test_schedulefree.py"),
    "schedule-free-sgd": ("live beside `schedulefree`", "tests/parity/test_schedulefree.py"),
    "soap": (
        "live beside pytorch_optimizer's `SOAP`, as long as eigenvalues keep their order",
        "tests/parity/test_soap.py",
    ),
    # By the formula alone.
    "shampoo": ("formula in float64", "tests/transforms/test_shampoo.py"),
    "lion": ("formula in float64; state of pytorch_optimizer's `Lion` goes on here", "tests/parity/test_exchange.py"),
    "adam-atan2": ("formula in float64: no code was published", "tests/transforms/test_oracle.py"),
    "sinkgd": ("formula in float64", "tests/transforms/test_sinkhorn.py"),
}

"""`make fuzz` looks for new faults; `make test` runs a few examples, the same every time."""

import os

from hypothesis import HealthCheck, settings

examples = int(os.environ.get("FUZZ", "0"))
settings.register_profile(
    "fuzz",
    max_examples=examples or 60,
    derandomize=not examples,
    print_blob=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")

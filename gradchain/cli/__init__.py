"""The command line: `gradchain ablate`, `gradchain list`, `gradchain show` and the others."""

try:
    from gradchain.cli import ablate as ablate
    from gradchain.cli import bisect as bisect
    from gradchain.cli import report as report
    from gradchain.cli import reproduce as reproduce
    from gradchain.cli import warm as warm
    from gradchain.cli.app import app as app
    from gradchain.cli.app import names as names
    from gradchain.cli.app import page as page
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("gradchain"):
        raise
    raise SystemExit(
        f'{missing.name} is not installed. The command line needs it: pip install "gradchain[cli]"'
    ) from None

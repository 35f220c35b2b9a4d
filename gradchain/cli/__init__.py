"""The command line: `gradchain ablate`, `gradchain list`, `gradchain show` and the others."""

from gradchain.cli import ablate as ablate
from gradchain.cli import reproduce as reproduce
from gradchain.cli.app import app as app
from gradchain.cli.app import names as names
from gradchain.cli.app import page as page

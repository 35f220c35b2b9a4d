"""The `gradchain` command.

What is asked most, and is the same for all who have this version, is printed from `answers.json`; everything else goes to
`gradchain.cli`, which imports torch.
"""

from __future__ import annotations

import sys

from gradchain_command.answers import answer


def main() -> None:
    """Answer a command line."""
    if not answer(sys.argv[1:]):
        from gradchain.cli import app

        app(prog_name="gradchain")


if __name__ == "__main__":
    main()

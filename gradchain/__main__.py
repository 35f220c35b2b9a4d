"""`python -m gradchain` is the command line."""

from gradchain.cli import app

if __name__ == "__main__":
    app(prog_name="gradchain")

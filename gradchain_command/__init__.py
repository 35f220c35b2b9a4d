"""The `gradchain` command, as far as it needs no torch, whose import takes seconds."""

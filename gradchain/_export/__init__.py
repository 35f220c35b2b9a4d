"""A chain as one file without gradchain."""

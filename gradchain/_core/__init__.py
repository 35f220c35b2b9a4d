"""What everything stands on: updates, fields, reductions, shards, noise."""

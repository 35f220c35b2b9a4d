"""Parameters that several processes share: what is where, totals over it, checks, costs, and steps in the backward pass."""

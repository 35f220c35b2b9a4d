"""A chain as a torch optimizer: groups, state, saving and loading."""

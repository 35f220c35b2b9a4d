"""Many processes: where state lives, ZeRO, whether a stage may be split, what a step sends."""

"""What stages do, found out by a few steps of small tensors: nothing that a stage says of itself is taken on trust."""

from gradchain._chain.tracing.traits import Traits, reaching_out, sharing, traits_of

__all__ = ["Traits", "reaching_out", "sharing", "traits_of"]

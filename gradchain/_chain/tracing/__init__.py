"""Find out what stages do by running them on small tensors, without relying on declarations."""

from gradchain._chain.tracing.traits import Traits, reaching_out, sharing, traits_of

__all__ = ["Traits", "reaching_out", "sharing", "traits_of"]

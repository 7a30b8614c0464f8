"""Drawing: new sequences, and the missing parts of known ones."""

from rgen.sampling.sampler import Sampler, batches, belief, complete, conditional_nats, make_sampler, reorder, sample

__all__ = ["Sampler", "batches", "belief", "complete", "conditional_nats", "make_sampler", "reorder", "sample"]

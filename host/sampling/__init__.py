"""Accelerated sampling: wrappers on the MODEL, the sampler's probe, conditioning groups, memory, attention."""

"""The interface to an architecture's blocks, and the selection of their tokens."""

"""Sparse attention over keys: which key tiles each head of each layer attends to, in the course of one sampler run."""

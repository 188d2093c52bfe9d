"""Architectures: how the blocks of each model family run for selected tokens; any other model is a box."""

from .architecture import Architecture, describe, describe_box, with_token_steps

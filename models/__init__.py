"""Architectures: how the blocks of each model family run for selected tokens. Block classes are known by name."""

from .architecture import Architecture, describe, describe_box, supported

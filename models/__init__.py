"""How the blocks of each architecture run for selected rows. Block classes are known by name, not imported."""

from .architecture import Architecture, describe

__all__ = ["Architecture", "describe"]

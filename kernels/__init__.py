"""Attention on selected rows behind one signature."""

from .attention import attend

__all__ = ["attend"]

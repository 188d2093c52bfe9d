"""Candidates that a search starts from."""

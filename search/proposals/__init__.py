"""Proposals: candidates that a search evaluates."""

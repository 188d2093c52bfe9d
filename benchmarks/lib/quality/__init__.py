"""Candidates and figures of the quality tables."""

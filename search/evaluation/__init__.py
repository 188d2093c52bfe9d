"""Evaluation of candidates: runs and their log, costs, replay, expected gains."""

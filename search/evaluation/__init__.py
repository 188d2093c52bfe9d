"""Evaluation of candidates: replayed, run, remembered, and compared with the baseline."""

"""Entrants, timing and tables of the attention benchmark."""

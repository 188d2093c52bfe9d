"""Plots for the graph: the report of a run and the results of a search."""

"""Contestants, cases and tables of the search benchmarks."""

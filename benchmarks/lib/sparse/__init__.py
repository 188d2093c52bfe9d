"""Parts of the benchmarks of sparse attention."""

"""The host that benchmarks run in, its models, and the measuring of runs."""

"""One file per way to compute attention; `reference` defines the result."""

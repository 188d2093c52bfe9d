"""Order of candidates: what is expected of one before it has run, and what its runs have shown."""

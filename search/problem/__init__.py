"""The problem that a search solves, as data: sampling configuration, candidates, losses, options, results."""

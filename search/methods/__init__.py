"""Search methods, and the parts of the own one: evolution, and the search on small clips."""

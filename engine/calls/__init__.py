"""One class per kind of model call: full, reuse, token and the published method's."""

"""Planning of a run: the plan, its modes and cost model, and their resolution into settings."""

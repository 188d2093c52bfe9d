"""Pictures for the graph: a run's report and a search's results."""

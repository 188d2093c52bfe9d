"""raylight's own workers, for the scaling benchmark and the test of its real workers; also on a CPU."""

"""Finding a schedule for one model and way of sampling: what to try, how to judge it, what to keep. No host, no files
but the memo."""

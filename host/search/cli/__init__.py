"""The command `python search`."""

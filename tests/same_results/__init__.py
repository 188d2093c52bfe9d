"""A list of runs whose results two commits must share to the bit; `compare.py` is the command."""

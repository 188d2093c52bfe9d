"""Code that the benchmark commands share. Commands import from here; nothing here imports a command."""

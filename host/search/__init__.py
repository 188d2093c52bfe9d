"""The search as ComfyUI runs it: runner, sampling configuration, progress, saved files. cli/ is its command."""

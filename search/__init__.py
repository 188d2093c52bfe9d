"""Search for schedules of one model and sampling configuration: proposals, evaluation, choice.

No ComfyUI here but in the command, `__main__.py`, and no files except the run log.
"""

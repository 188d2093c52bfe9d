"""Search for schedules of one model and sampling configuration: proposals, evaluation, choice.

No ComfyUI here, and no files except the run log.
"""

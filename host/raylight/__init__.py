"""A plan inside raylight's workers: one clip over several GPUs. Neither raylight nor Ray is imported before it is used.

In ComfyUI's process: `workers`, `actors`. In each worker: `in_worker`, `ranks`, `shards`. Between them: `messages`.
"""

"""Facts about a sampler: its calls and steps, and the weights of predictions in its latents."""

"""The only code that imports comfy: accelerated sampling, schedule search, folders, latents."""

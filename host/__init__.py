"""The only code that imports comfy: wrappers on the MODEL, memory, folders."""

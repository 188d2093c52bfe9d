"""Schedule search on the user's own model: runs candidates in ComfyUI and saves what is found."""

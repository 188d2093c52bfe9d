"""Training and inspection of the embedded model. Not shipped."""

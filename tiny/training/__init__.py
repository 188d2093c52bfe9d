"""Training and inspection of the small models. Not shipped."""

"""The demo model that ships with the pack: its files, its words, and the decoder of its latents."""

"""Texts with entities: read from what tools write, checked, split, and laid in rows of tokens for tagging."""

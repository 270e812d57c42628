"""Pixels: one pure preprocessing function, and the cache of what it made."""

"""Frozen domain objects and pure functions: the standard library only, no files, no clock, no randomness of its own."""

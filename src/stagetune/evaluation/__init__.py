"""Measures on plain arrays, without Lightning."""

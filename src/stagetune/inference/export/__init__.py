"""Trained models in formats that others read, and what is checked before such a file gets its name."""

"""Losses: each module is one, its settings and its maths. None imports torch at its top."""

"""Data sets: each module reads one kind. None imports torch at its top."""

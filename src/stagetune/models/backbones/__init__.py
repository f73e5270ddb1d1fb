"""Families of backbones: each module is one, with its settings and how it is built. None imports torch at its top."""

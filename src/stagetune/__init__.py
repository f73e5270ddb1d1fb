"""Staged fine-tuning of pretrained backbones, right and fast."""

__version__ = "0.1.0"

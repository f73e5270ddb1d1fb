"""Backbones as named blocks, the heads on top of them, and where their weights come from."""

"""Losses on embeddings and identities."""

"""The configuration: its vocabulary, its checks, and how Hydra composes it."""

"""The feature cache: what a frozen prefix of the backbone gives is computed once."""

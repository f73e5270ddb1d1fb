"""What several losses have in common."""

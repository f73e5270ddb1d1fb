"""Data looked at before anything is trained on them: what is wrong with them, or odd, and which images show it."""

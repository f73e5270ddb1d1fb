"""What each task can be told, and how it is built of that. No module imports torch at its top."""

"""Errors, console, files and caches that all three packages share. Knows nothing of video."""

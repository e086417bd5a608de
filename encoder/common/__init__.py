"""Errors, console, files and caches that all three packages share; independent of video."""

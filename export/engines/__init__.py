"""Engines that run a clip's graphs in batches."""

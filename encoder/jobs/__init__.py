"""Fit many segments: GOPs, workers, interrupted runs, and the file that grows."""

"""Clips on the air: sources, decoding, timelines and outputs."""

"""Measure clips, and compare them with other codecs."""

"""Decode clips in batches and stream them to browsers over WebRTC. Imports no torch."""

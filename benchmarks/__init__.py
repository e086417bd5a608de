"""Measurements behind docs/explanation/results.md and docs/explanation/ablations.md."""

"""Read checkpoints that others published."""

"""Import of checkpoints that other projects published."""

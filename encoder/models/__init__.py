"""Networks that a clip can be fitted with, and the parts that they share."""

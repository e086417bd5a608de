"""The networks that a clip can be fitted with, and the parts that they share."""

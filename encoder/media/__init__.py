"""Sources of frames, and metrics that compare pictures: numpy and PyAV, without torch."""

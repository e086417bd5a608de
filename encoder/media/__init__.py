"""How a source becomes frames, and how pictures are compared with them: numpy and PyAV, without torch."""

"""Cut a video into segments: shots, global motion, masks, and the plan of all segments."""

"""Masks: which pixels of a video are unknown, and are filled by the network that was fitted to the others."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.codec.errors import SettingsError
from encoder.video import Video, read_video

WHITE = 128
"""Value from which on a pixel of a mask's picture counts as masked."""
GREY = 128
"""What stands where a pixel is unknown."""

Mask = NDArray[np.bool_]
"""Pixels that are masked, (T, H, W)."""


def read_mask(path: Path, video: Video) -> Mask:
    """Read a picture for all frames of a video, or a folder or video of a picture for each: white is masked.

    Raises SourceError for what cannot be read, SettingsError for another number of pictures, or one that masks everything.
    """
    frames, _, height, width = video.frames.shape
    pictures = read_video(path, size=(width, height)).frames
    if len(pictures) not in (1, frames):
        raise SettingsError(f"a mask has 1 or {frames} pictures, {path} has {len(pictures)}")
    mask = np.broadcast_to(pictures.max(1) >= WHITE, (frames, height, width)).copy()
    if mask.all((1, 2)).any():
        raise SettingsError(f"mask {path} leaves nothing of a frame")
    return mask


def masked(video: Video, mask: Mask) -> Video:
    """Return a video without what is masked, so that nothing of it can reach the network."""
    return Video(np.where(mask[:, None], np.uint8(GREY), video.frames), video.rate)

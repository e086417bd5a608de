"""Measure a file on disk against its source: every frame decoded from the file, after 8-bit rounding."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim

from encoder.codec.clip import Clip
from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.errors import SettingsError
from encoder.video import Video

MAX_PSNR_DB = 100.0
"""Reported for a frame without any error."""
WINDOWS = (11, 9, 7, 5, 3)
"""Sizes of MS-SSIM's window; small frames need a smaller one than its authors' 11."""
SCALES = 16
"""MS-SSIM halves a frame four times."""


@dataclass(frozen=True, kw_only=True)
class FrameQuality:
    """Quality of one frame."""

    psnr_db: float
    ms_ssim: float | None
    """None for a frame that is too small for it."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a file is worth."""

    psnr_db: float
    """Peak signal-to-noise ratio of the RGB pixels, mean over frames."""
    ms_ssim: float | None
    """Multi-scale structural similarity of the RGB pixels, mean over frames; None for frames of 32 pixels and less."""
    bits_per_pixel: float
    """Size of the file over the pixels of all frames."""
    file_bytes: int
    frames: int
    width: int
    height: int
    fps: float
    """Frames per second that the clip is shown at."""


def qualities(clip: Clip, source: Video) -> Iterator[FrameQuality]:
    """Yield the quality of each decoded frame; raises SettingsError if the source does not have as many."""
    if len(source.frames) != clip.header.frames:
        raise SettingsError(f"the clip has {clip.header.frames} frames, the source {len(source.frames)}")
    for decoded, original in zip(ReferenceDecoder(clip).frames(), source.frames, strict=True):
        yield FrameQuality(psnr_db=psnr_db(decoded, original), ms_ssim=_ms_ssim(decoded, original))


def evaluation(path: Path, clip: Clip, frames: list[FrameQuality]) -> Evaluation:
    """Return the figures of a file from those of its frames."""
    similarities = [frame.ms_ssim for frame in frames if frame.ms_ssim is not None]
    size = path.stat().st_size
    return Evaluation(
        psnr_db=float(np.mean([frame.psnr_db for frame in frames])),
        ms_ssim=float(np.mean(similarities)) if similarities else None,
        bits_per_pixel=8 * size / clip.header.pixels,
        file_bytes=size,
        frames=clip.header.frames,
        width=clip.header.width,
        height=clip.header.height,
        fps=float(clip.header.rate),
    )


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two pictures of the same shape."""
    error = np.mean(np.square(a.astype(np.float64) - b))
    return min(10 * log10(255**2 / error), MAX_PSNR_DB) if error else MAX_PSNR_DB


def _ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    window = next((size for size in WINDOWS if (size - 1) * SCALES < min(a.shape[1:])), None)
    if window is None:
        return None
    x, y = (torch.from_numpy(picture.astype(np.float32))[None] for picture in (a, b))
    return ms_ssim(x, y, data_range=255, win_size=window).item()

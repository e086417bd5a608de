"""Measure a file against its source, over all decoded frames after 8-bit rounding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.media.metrics import psnr_db
from encoder.media.video import Frames, check_count, frames_of
from encoder.segmentation.mask import Masked
from encoder.training.losses import ms_ssim_window

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in luma (BT.601)."""
YUV_WEIGHTS = (6 / 8, 1 / 8, 1 / 8)
"""Weights of the PSNR of luma and both chroma planes."""


@dataclass(frozen=True, kw_only=True)
class FrameQuality:
    """Quality of a frame, or the mean of several."""

    psnr_db: float
    """PSNR of the RGB pixels."""
    psnr_yuv_db: float
    """PSNR of luma and both chroma planes (BT.601, not subsampled), weighted 6:1:1."""
    ms_ssim: float | None
    """MS-SSIM of the RGB pixels; None for a frame that is too small for it."""
    psnr_masked_db: float | None = None
    """PSNR of the masked RGB pixels; None if no pixel is masked."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Quality and size of a file."""

    psnr_db: float
    """Peak signal-to-noise ratio (PSNR) of the RGB pixels, mean over frames."""
    psnr_yuv_db: float
    """PSNR of luma and both chroma planes, weighted 6:1:1, mean over frames."""
    ms_ssim: float | None
    """Multi-scale structural similarity of the RGB pixels, mean over frames.

    None for frames whose shorter side has 32 pixels or less.
    """
    psnr_masked_db: float | None
    """PSNR of the masked pixels, mean over frames; None without a mask."""
    bits_per_pixel: float
    """Bits of the file divided by the pixels of all frames."""
    picture_bits_per_pixel: float
    """The same without the bytes of sound, subtitles and metadata."""
    file_bytes: int
    audio_bytes: int
    """Bytes of the file that are for its sound; 0 without sound."""
    frames: int
    width: int
    height: int
    fps: float
    """Frame rate of the clip, in frames per second."""


def pictures(clip: Clip, source: Frames) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield each decoded frame (3, H, W) with the source's frame.

    Raises SettingsError if the source has another number of frames.
    """
    check_count(source, clip.header.frames)
    yield from zip(ReferenceDecoder(clip).frames(), frames_of(source), strict=True)


def qualities(clip: Clip, source: Frames, masked: Masked | None = None) -> Iterator[FrameQuality]:
    """Yield the quality of each decoded frame, and of its masked pixels if there is a mask.

    Raises SettingsError as `pictures` does.
    """
    for index, (decoded, original) in enumerate(pictures(clip, source)):
        yield frame_quality(
            decoded, original, None if masked is None else masked.mask(range(index, index + 1))[0]
        )


def frame_quality(
    decoded: NDArray[np.uint8], original: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None
) -> FrameQuality:
    """Return the quality of an RGB frame (3, H, W), and of its pixels in a mask (H, W)."""
    planes = [_yuv(picture) for picture in (decoded, original)]
    yuv = sum(weight * psnr_db(a, b) for weight, a, b in zip(YUV_WEIGHTS, *planes, strict=True))
    return FrameQuality(
        psnr_db=psnr_db(decoded, original),
        psnr_yuv_db=yuv,
        ms_ssim=_ms_ssim(decoded, original),
        psnr_masked_db=psnr_db(decoded[:, mask], original[:, mask])
        if mask is not None and mask.any()
        else None,
    )


def mean_quality(frames: Sequence[FrameQuality]) -> FrameQuality:
    """Return the mean of each figure over the frames that have it."""
    means: dict[str, float | None] = {}
    for name in ("psnr_db", "psnr_yuv_db", "ms_ssim", "psnr_masked_db"):
        values = [value for frame in frames if (value := getattr(frame, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return FrameQuality(**means)  # type: ignore[arg-type]


def evaluation(file_bytes: int, clip: Clip, frames: Sequence[FrameQuality]) -> Evaluation:
    """Return the figures of a file from its size and from those of its frames."""
    mean = mean_quality(frames)
    audio_bytes = 0 if clip.sound is None else clip.sound.file_bytes
    return Evaluation(
        psnr_db=mean.psnr_db,
        psnr_yuv_db=mean.psnr_yuv_db,
        ms_ssim=mean.ms_ssim,
        psnr_masked_db=mean.psnr_masked_db,
        bits_per_pixel=8 * file_bytes / clip.header.pixels,
        picture_bits_per_pixel=8 * (file_bytes - clip.extra_bytes) / clip.header.pixels,
        file_bytes=file_bytes,
        audio_bytes=audio_bytes,
        frames=clip.header.frames,
        width=clip.header.width,
        height=clip.header.height,
        fps=float(clip.header.rate),
    )


def _yuv(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Map an RGB picture (3, H, W) to luma and both chroma planes (3, H, W).

    Luma is in 0..255, chroma in -127.5..127.5.
    """
    red, _, blue = picture.astype(np.float64)
    luma = np.tensordot(LUMA, picture, 1)
    return np.stack([luma, (blue - luma) / (2 * (1 - LUMA[2])), (red - luma) / (2 * (1 - LUMA[0]))])


def _ms_ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    window = ms_ssim_window(*a.shape[1:])
    if window is None:
        return None
    x, y = (torch.from_numpy(picture.astype(np.float32))[None] for picture in (a, b))
    return ms_ssim(x, y, data_range=255, win_size=window).item()

"""Quality of frames and pixels that networks were not fitted to, with pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.fits import Measurement, make_encoder, run_fit
from benchmarks.points import Point
from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.compare.compare import halves
from encoder.compare.evaluation import qualities
from encoder.config import Budget, Compression
from encoder.media.metrics import psnr_db
from encoder.media.video import Frames, Video
from encoder.presets import find_preset
from encoder.segmentation.mask import Masked

IMAGES = Path(__file__).parents[1] / "docs" / "images"
"""Folder of the pictures."""
SHOWN_PRESETS = ("fast", "nerv++", "hnerv", "hnerv-boost")
SHOWN_FRAME = 32
"""Number of the frame in the picture, among the frames held out or among all."""
BOXES = 5
"""Number of boxes that are missing in all frames."""
BOX = 12
"""Height of a frame, as a multiple of a box's."""
CENTRE = 4
"""Sides of a frame, as a multiple of those of the missing box in its centre."""
COLUMNS = 3
"""Pictures in a row."""

Picture = NDArray[np.uint8]


def interpolation(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of frames halfway between those that networks were fitted to."""
    even, odd = halves(video)
    shown = {"source": odd.frames[SHOWN_FRAME]}
    for preset in SHOWN_PRESETS:
        clip = _fit(even, preset, seconds)
        decoder = ReferenceDecoder(clip)
        between = np.mean(
            [psnr_db(decoder.frame(index + 0.5), frame) for index, frame in enumerate(odd.frames)]
        )
        fitted = np.mean([quality.psnr_db for quality in qualities(clip, even)])
        yield {
            "preset": preset,
            "bytes": len(bytes(clip)),
            "psnr_db": float(fitted),
            "psnr_unseen_db": float(between),
        }
        shown[f"{preset}, {between:.2f} dB"] = decoder.frame(SHOWN_FRAME + 0.5)
    _show(shown, IMAGES / "interpolation.png")


def inpainting(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of masked pixels: of boxes all over the frame, and of one in the centre."""
    shown: dict[str, Picture] = {}
    for name, masked in (("boxes", _boxes(video)), ("centre", _centre(video))):
        shown[f"{name}: source"] = masked.read(range(SHOWN_FRAME, SHOWN_FRAME + 1))[0]
        for preset in ("fast", "hnerv"):
            clip = _fit(masked, preset, seconds)
            found = list(qualities(clip, video, masked))
            whole = np.mean([each.psnr_db for each in found])
            filled = np.mean([each.psnr_masked_db or 0.0 for each in found])
            yield {
                "mask": name,
                "preset": preset,
                "bytes": len(bytes(clip)),
                "psnr_db": float(whole),
                "psnr_unseen_db": float(filled),
            }
            shown[f"{name}: {preset}, {filled:.2f} dB"] = ReferenceDecoder(clip).frame(SHOWN_FRAME)
    _show(shown, IMAGES / "inpainting.png")


def _fit(video: Frames, name: str, seconds: int) -> Clip:
    encoder = make_encoder(video, find_preset(name), Compression())
    return run_fit(encoder, Budget(seconds=seconds))


def _boxes(video: Video) -> Masked:
    """Return a video without boxes at random places, which are the same in all frames."""
    width, height = video.size
    side = height // BOX
    picture = np.zeros((1, 3, height, width), np.uint8)
    places = np.random.default_rng(0).integers((height - side, width - side), size=(BOXES, 2))
    for row, column in places:
        picture[..., row : row + side, column : column + side] = 255
    return Masked(video, Video(picture, video.rate))


def _centre(video: Video) -> Masked:
    """Return a video without a box in the centre of each frame."""
    width, height = video.size
    top = (height - height // CENTRE) // 2
    left = (width - width // CENTRE) // 2
    picture = np.zeros((1, 3, height, width), np.uint8)
    picture[..., top : top + height // CENTRE, left : left + width // CENTRE] = 255
    return Masked(video, Video(picture, video.rate))


def _show(pictures: Mapping[str, Picture], path: Path) -> None:
    """Write pictures (3, H, W), three in a row, into a file."""
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, (title, picture) in zip(figure.axes, pictures.items(), strict=False):
        axes.imshow(picture.transpose(1, 2, 0))
        axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=100)


MEASUREMENTS: Mapping[str, Measurement] = {
    "interpolation": interpolation,
    "inpainting": inpainting,
}

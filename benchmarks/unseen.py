"""What networks make of frames and of pixels that they were not fitted to: measurements with a picture each."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from fits import encoder
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tables import Point

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.compare.compare import halves
from encoder.compare.evaluation import qualities
from encoder.config import Budget, Compression
from encoder.media.metrics import psnr_db
from encoder.media.video import Frames, Video
from encoder.presets import PRESETS
from encoder.segmentation.mask import Masked

FOLDER = Path(__file__).parent
SHOWN_PRESETS = ("fast", "nerv++", "hnerv", "hnerv-boost")
SHOWN_FRAME = 32
"""Number of the frame shown: of those held out, or of all."""
BOXES, BOX = 5, 12
"""Boxes that are missing of all frames, and a frame's height as a multiple of theirs."""
CENTRE = 4
"""A frame's sides, as a multiple of those of the box that is missing in its middle."""

Picture = NDArray[np.uint8]


def interpolation(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of frames halfway between those that networks were fitted to."""
    even, odd = halves(video)
    shown = {"source": odd.frames[SHOWN_FRAME]}
    for preset in SHOWN_PRESETS:
        clip = _fit(even, preset, seconds)
        decoder = ReferenceDecoder(clip)
        between = [
            psnr_db(decoder.frame(index + 0.5), frame) for index, frame in enumerate(odd.frames)
        ]
        fitted = [quality.psnr_db for quality in qualities(clip, even)]
        made = {"preset": preset, "bytes": len(bytes(clip)), "psnr_db": float(np.mean(fitted))}
        yield made | {"psnr_unseen_db": float(np.mean(between))}
        shown[f"{preset}, {np.mean(between):.2f} dB"] = decoder.frame(SHOWN_FRAME + 0.5)
    _show(shown, "interpolation.png")


def inpainting(video: Video, seconds: int) -> Iterator[Point]:
    """Yield the quality of pixels that were masked while fitting: of boxes all over the frame, and of one in the middle."""
    masks = {"boxes": _boxes(video), "centre": _centre(video)}
    shown: dict[str, Picture] = {}
    for name, masked in masks.items():
        shown[f"{name}: source"] = masked.read(range(SHOWN_FRAME, SHOWN_FRAME + 1))[0]
        for preset in ("fast", "hnerv"):
            clip = _fit(masked, preset, seconds)
            found = list(qualities(clip, video, masked))
            whole, filled = np.mean(
                [(each.psnr_db, each.psnr_masked_db) for each in found], axis=0
            ).tolist()
            made = {"mask": name, "preset": preset, "bytes": len(bytes(clip)), "psnr_db": whole}
            yield made | {"psnr_unseen_db": filled}
            shown[f"{name}: {preset}, {filled:.2f} dB"] = ReferenceDecoder(clip).frame(SHOWN_FRAME)
    _show(shown, "inpainting.png")


def _fit(video: Frames, name: str, seconds: int) -> Clip:
    """Return the clip of a fit, read from its bytes."""
    made = encoder(video, PRESETS[name], Compression())
    for _ in made.run(Budget(seconds=seconds)):
        pass
    return Clip.parse(bytes(made.clip()))


def _boxes(video: Video) -> Masked:
    """Return a video without boxes at random places, which are the same in all frames."""
    width, height = video.size
    side = height // BOX
    picture = np.zeros((1, 3, height, width), np.uint8)
    for row, column in np.random.default_rng(0).integers(
        (height - side, width - side), size=(BOXES, 2)
    ):
        picture[..., row : row + side, column : column + side] = 255
    return Masked(video, Video(picture, video.rate))


def _centre(video: Video) -> Masked:
    """Return a video without a box in the middle of each frame."""
    width, height = video.size
    top, left = (height - height // CENTRE) // 2, (width - width // CENTRE) // 2
    picture = np.zeros((1, 3, height, width), np.uint8)
    picture[..., top : top + height // CENTRE, left : left + width // CENTRE] = 255
    return Masked(video, Video(picture, video.rate))


def _show(pictures: Mapping[str, Picture], name: str) -> None:
    """Write pictures (3, H, W), three in a row, into a file beside this one."""
    columns = 3
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(4 * columns, 2.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, (title, picture) in zip(figure.axes, pictures.items(), strict=False):
        axes.imshow(picture.transpose(1, 2, 0))
        axes.set_title(title, fontsize=11)
    figure.savefig(FOLDER / name, dpi=100)

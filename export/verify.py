"""Comparison of engines with the reference decoder, frame by frame, and of both with the source."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder, to_8_bits
from encoder.media.metrics import psnr_db
from encoder.media.video import Frames, check_count, frames_of
from export.engines.base import Engine
from export.graph import TOLERANCE_STEPS
from export.passes.i420 import planes_of

Picture = NDArray[np.uint8]
"""RGB picture (3, H, W), or I420 picture (H * 3 / 2, W)."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Differences of an engine's frames from those of the reference decoder."""

    engine: str
    precision: str
    frames: int
    largest_difference: int
    """Largest difference of a pixel's colour component, in 8-bit steps."""
    tolerance: int
    """Largest difference that is allowed."""
    largest_difference_i420: int
    """Largest difference of the I420 frames, which are played, from the converted RGB frames of the
    reference. Rounding twice costs another step."""
    psnr_between_db: float
    """PSNR of the engine's RGB frames against the reference's, mean over frames; 100 if they are
    the same."""
    psnr_db: float | None
    """PSNR of the engine's frames against the source; None without a source."""
    reference_psnr_db: float | None
    """PSNR of the reference's frames against the source; None without a source."""

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance."""
        return (
            self.largest_difference <= self.tolerance
            and self.largest_difference_i420 <= self.tolerance + 1
        )


class _Tally:
    """Differences of an engine's frames so far."""

    def __init__(self, engine: Engine, played: Engine) -> None:
        self.engine = engine
        self._played = played
        self._largest = self._largest_i420 = 0
        self._between: list[float] = []
        self._source: list[float] = []

    def add(
        self,
        times: NDArray[np.float64],
        colours: Sequence[NDArray[np.float32]],
        expected: Sequence[Picture],
        source: Sequence[Picture],
    ) -> None:
        """Take the pictures at `times`: the reference's colours, its pictures, and the source's."""
        decoded = self.engine.frames(times)
        for picture, planes, reference, values in zip(
            decoded, self._played.frames(times), expected, colours, strict=True
        ):
            self._largest = max(
                self._largest, int(np.abs(picture.astype(np.int16) - reference).max())
            )
            self._largest_i420 = max(self._largest_i420, _largest(planes, values))
            self._between.append(psnr_db(picture, reference))
        self._source += (
            [psnr_db(*pair) for pair in zip(decoded, source, strict=True)] if source else []
        )

    def verdict(self, reference: Sequence[float], tolerance: int | None) -> Verdict:
        return Verdict(
            engine=self.engine.name,
            precision=self.engine.precision,
            frames=len(self._between),
            largest_difference=self._largest,
            largest_difference_i420=self._largest_i420,
            tolerance=TOLERANCE_STEPS[self.engine.precision] if tolerance is None else tolerance,
            psnr_between_db=float(np.mean(self._between)),
            psnr_db=float(np.mean(self._source)) if self._source else None,
            reference_psnr_db=float(np.mean(reference)) if reference else None,
        )


def verify(
    clip: Clip,
    engines: Sequence[tuple[Engine, Engine]],
    *,
    source: Frames | None = None,
    tolerance: int | None = None,
    report: Callable[[float], None],
) -> list[Verdict]:
    """Compare all coded frames of the reference decoder with those of engines.

    Each engine is a pair: one for RGB pictures, one for I420. `report` gets the number of frames
    that are done. Raises SettingsError if the source and the clip differ in their number of frames.
    Raises BitstreamError for a damaged clip.
    """
    count = clip.header.frames
    if source is not None:
        check_count(source, count)
    tallies = [_Tally(*pair) for pair in engines]
    quality: list[float] = []
    originals = None if source is None else frames_of(source)
    block = max(engine.batch for engine, _ in engines)
    decoded = ReferenceDecoder(clip).colours()
    for start in range(0, count, block):
        times = np.arange(start, min(start + block, count), dtype=np.float64)
        colours = _take(decoded, len(times))
        expected = [to_8_bits(values) for values in colours]
        compared = [] if originals is None else _take(originals, len(times))
        quality += (
            [psnr_db(*pair) for pair in zip(expected, compared, strict=True)] if compared else []
        )
        for tally in tallies:
            tally.add(times, colours, expected, compared)
        report(start + len(times))
    return [tally.verdict(quality, tolerance) for tally in tallies]


def _largest(planes: Picture, reference: NDArray[np.float32]) -> int:
    """Return the largest difference of an I420 picture from the reference's colours (3, H, W).

    It covers the area in which both have whole pixels of colour.
    """
    height, width = (side // 2 * 2 for side in reference.shape[1:])
    rows = planes.shape[0] * 2 // 3
    columns = planes.shape[1]
    colours = planes[rows:].reshape(2, rows // 2, columns // 2)[:, : height // 2, : width // 2]
    found = (planes[:height, :width], *colours)
    expected = planes_of(reference[:, :height, :width])
    return max(
        int(np.abs(a.astype(np.int16) - b).max()) for a, b in zip(found, expected, strict=True)
    )


def _take(frames: Iterator[Any], count: int) -> list[Any]:
    return [next(frames) for _ in range(count)]

"""The reference decoder: file -> ONNX -> ONNX Runtime on the CPU -> frames.

It is slow and simple; engines are tested against it.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.graph_names import TIME
from encoder.common.onnx_runtime import Session

BATCH = 8
"""Largest number of frames that `ReferenceDecoder.frames` decodes at once."""
BATCH_PIXELS = 1 << 22
"""Largest number of pixels that it decodes at once, unless a single frame has more."""


class ReferenceDecoder:
    """Decoder of a clip's frames, at any time."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._models = SegmentModels(clip)
        self._segment = -1
        self._session: Session | None = None

    def frame(self, time: float) -> NDArray[np.uint8]:
        """Return the RGB picture (3, H, W) at a time in frames since the clip's start.

        Raises BitstreamError if weights are damaged, EngineError if the network cannot be run.
        """
        segment, local = self._clip.locate(time)
        return self._pictures(segment, [local])[0]

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield every coded frame (3, H, W) in order. Raises the same errors as `frame`."""
        yield from map(to_8_bits, self.colours())

    def colours(self) -> Iterator[NDArray[np.float32]]:
        """Yield the colours (3, H, W) of every coded frame, before they are limited to 0..1.

        Raises the same errors as `frame`.
        """
        located = [self._clip.locate(time) for time in range(self._clip.header.frames)]
        batch = max(min(BATCH, BATCH_PIXELS // prod(self._clip.header.even_size)), 1)
        for segment, group in groupby(located, key=itemgetter(0)):
            times = [local for _, local in group]
            for start in range(0, len(times), batch):
                yield from self._colours(segment, times[start : start + batch])

    def at(self, times: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the RGB pictures (N, 3, H, W) at times (N,). Raises the same errors as `frame`."""
        header = self._clip.header
        pictures = np.empty((len(times), 3, header.height, header.width), np.uint8)
        located = enumerate(self._clip.locate(time) for time in times.tolist())
        batch = max(min(BATCH, BATCH_PIXELS // prod(header.even_size)), 1)
        for segment, group in groupby(located, key=lambda item: item[1][0]):
            places = list(group)
            for start in range(0, len(places), batch):
                part = places[start : start + batch]
                shown = self._pictures(segment, [local for _, (_, local) in part])
                pictures[[index for index, _ in part]] = shown
        return pictures

    def _pictures(self, segment: int, times: Sequence[float]) -> NDArray[np.uint8]:
        return to_8_bits(self._colours(segment, times))

    def _colours(self, segment: int, times: Sequence[float]) -> NDArray[np.float32]:
        """Return the colours (N, 3, H, W) of a segment at times in frames since its start."""
        if segment != self._segment or self._session is None:
            self._session = Session(self._models.model(segment))
            self._segment = segment
        height = self._clip.header.height
        width = self._clip.header.width
        rgb = self._session.run({TIME: np.array(times, np.float32)})[:, :, :height, :width]
        assert rgb.shape == (len(times), 3, height, width)  # guaranteed by the topology's check
        # An untrusted network may return NaN.
        return np.nan_to_num(rgb)


def to_8_bits(colours: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return colours of any shape, limited to 0..1, as steps of 8 bits."""
    return np.rint(colours.clip(0, 1) * 255).astype(np.uint8)

"""The reference decoder: file -> ONNX -> ONNX Runtime on the CPU -> frames. Slow and obvious; engines are tested against it."""

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
BATCH_PIXELS = 1 << 22
"""Frames that are decoded at once where all are asked for: at most this many, and of this many pixels."""


class ReferenceDecoder:
    """Decode frames of a clip, at any time of it."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._models = SegmentModels(clip)
        self._segment = -1
        self._session: Session | None = None

    def frame(self, time: float) -> NDArray[np.uint8]:
        """Return the RGB picture (3, H, W) at a time in frames since the clip's start.

        Raises BitstreamError for damaged weights, EngineError if the network cannot be run.
        """
        segment, local = self._clip.locate(time)
        return self._pictures(segment, [local])[0]

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield every coded frame in order, (3, H, W); raises as `frame` does."""
        located = [self._clip.locate(time) for time in range(self._clip.header.frames)]
        batch = max(min(BATCH, BATCH_PIXELS // prod(self._clip.header.even_size)), 1)
        for segment, group in groupby(located, key=itemgetter(0)):
            times = [local for _, local in group]
            for start in range(0, len(times), batch):
                yield from self._pictures(segment, times[start : start + batch])

    def _pictures(self, segment: int, times: Sequence[float]) -> NDArray[np.uint8]:
        """Return the RGB pictures (N, 3, H, W) of a segment at times in frames since its start."""
        if segment != self._segment or self._session is None:
            self._session = Session(self._models.model(segment))
            self._segment = segment
        height = self._clip.header.height
        width = self._clip.header.width
        rgb = self._session.run({TIME: np.array(times, np.float32)})[:, :, :height, :width]
        assert rgb.shape == (len(times), 3, height, width)  # what the topology's check promises
        # A network of a stranger may make what is no number.
        return np.rint(np.nan_to_num(rgb).clip(0, 1) * 255).astype(np.uint8)

"""The reference decoder: file -> ONNX -> ONNX Runtime on the CPU -> frames. Slow and obvious; engines are tested against it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.names import TIME
from encoder.codec.runtime import Session


class ReferenceDecoder:
    """Decode frames of a clip one at a time, at any time of it."""

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
        if segment != self._segment or self._session is None:
            self._session, self._segment = Session(self._models.model(segment)), segment
        rgb = self._session.run({TIME: np.array([local], np.float32)})
        height, width = self._clip.header.height, self._clip.header.width
        rgb = rgb[0, :, :height, :width]
        assert rgb.shape == (3, height, width)  # what the topology's check promises
        # A network of a stranger may make what is no number.
        return np.rint(np.nan_to_num(rgb).clip(0, 1) * 255).astype(np.uint8)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield every coded frame in order, (3, H, W)."""
        return (self.frame(time) for time in range(self._clip.header.frames))

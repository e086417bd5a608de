"""Files that must decode for ever, and what they decode to: `make_golden.py` wrote them.

A decoder that reads them differently is wrong, whatever the encoder of the day writes.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.reference_decoder import ReferenceDecoder

DATA = Path(__file__).parents[1] / "data"


def digest(clip: Clip) -> list[str]:
    """Return the SHA-256 of each segment's weights, as float32 in the topology's order."""
    models = SegmentModels(clip)
    weights = [models.weights(index) for index in range(len(clip.segments))]
    return [
        hashlib.sha256(b"".join(x.astype("<f4").tobytes() for x in each.values())).hexdigest()
        for each in weights
    ]


TIMES = [0, 5, 9.5, 15]
"""One of each segment, and one of them between two frames."""


def pictures(clip: Clip) -> NDArray[np.uint8]:
    """Return the pictures at TIMES."""
    decoder = ReferenceDecoder(clip)
    return np.stack([decoder.frame(time) for time in TIMES])

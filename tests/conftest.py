"""Small clips that the tests share: fitted for a moment, coded and read back."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import Pixels, fit_clip

from encoder.codec.clip import Clip

SAMPLE = Path(__file__).parents[1] / "player" / "data" / "bunny.nerv"


@pytest.fixture(scope="session")
def tiny_clip() -> Clip:
    """Two segments of three frames of 26x19 pixels: odd, and padded by the network."""
    return fit_clip("fast", frames=6, height=19, width=26, segment_frames=3)


@pytest.fixture(scope="session")
def sample_clip() -> Clip:
    """The clip that ships with the player."""
    return Clip.read(SAMPLE)


@pytest.fixture
def tiny_file(tiny_clip: Clip, tmp_path: Path) -> Path:
    """The tiny clip on disk."""
    path = tmp_path / "tiny.nerv"
    path.write_bytes(bytes(tiny_clip))
    return path


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes RGB frames (T, 3, H, W) as a lossless video."""

    def write(
        frames: Pixels, name: str = "video.mp4", *, pix_fmt: str = "yuv444p", pts: list[int] | None = None, options=None
    ) -> Path:
        path = tmp_path / name
        with av.open(path, "w", options=options) as container:
            stream = container.add_stream("libx264", 25, options={"qp": "0", "bf": "0"})
            stream.height, stream.width = frames.shape[2:]
            stream.pix_fmt = pix_fmt
            for index, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.transpose(1, 2, 0)), format="rgb24")
                picture.pts = index if pts is None else pts[index]
                picture.time_base = Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        return path

    return write

"""Small clips that the tests share: fitted for a moment, coded and read back."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from helpers import SAMPLE, Pixels, fit_clip

from encoder.codec.clip import Clip
from encoder.presets import PRESETS

USUAL_PRESETS = ("fast", "nerv++", "hnerv")
TESTS = Path(__file__).parent
CONNECTED = ("e2e", "soak")
"""Folders of the tests that connect to something; all others are unit tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Share the cores where tests run side by side: two of one thread each get more done than each with two.

    What is measured once per machine is measured once per run, and not left behind.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start
        return
    os.environ.setdefault(
        "MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")
    )  # whose fonts take seconds to find
    cache = TemporaryDirectory()
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `make soak` what is tried with more networks than three unlike ones."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = callspec.params.values() if callspec is not None else ()
        if any(
            isinstance(value, str) and value in PRESETS and value not in USUAL_PRESETS
            for value in values
        ):
            item.add_marker(pytest.mark.soak)


@pytest.fixture(autouse=True)
def without_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep unit tests off the network."""
    folder = request.path.relative_to(TESTS).parts[0]
    if folder not in CONNECTED and not request.node.get_closest_marker("alone"):
        for name in ("connect", "listen", "sendto"):
            monkeypatch.setattr(socket.socket, name, _refuse)


def _refuse(*_: object) -> None:
    raise AssertionError("a unit test connects to something")


@pytest.fixture(autouse=True)
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let OpenVINO compute in fp32 on every CPU: the tests of bf16 ask for it."""
    monkeypatch.setattr("export.engines.ov.OpenVino._has_bf16", lambda _: False)


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
        frames: Pixels,
        name: str = "video.mp4",
        *,
        pix_fmt: str = "yuv444p",
        pts: list[int] | None = None,
        unit: Fraction = Fraction(1, 25),
        last_duration: int = 1,
        rate: Fraction = Fraction(25),
        key_frames: Sequence[int] = (),
        options: dict[str, str] | None = None,
        coding: Mapping[str, str] = MappingProxyType({}),
    ) -> Path:
        path = tmp_path / name
        with av.open(path, "w", options=options) as container:
            webm = path.suffix == ".webm"
            stream = container.add_stream("libvpx-vp9" if webm else "libx264", rate)
            stream.options = {"lossless": "1"} if webm else {"qp": "0", "bf": "0"} | coding
            stream.height, stream.width = frames.shape[2:]
            stream.pix_fmt = pix_fmt
            stream.codec_context.time_base = unit
            packets = []
            for index, frame in enumerate(frames):
                picture = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(frame.transpose(1, 2, 0)), format="rgb24"
                )
                picture.pts, picture.time_base = index if pts is None else pts[index], unit
                picture.pict_type = PictureType.I if index in key_frames else PictureType.NONE
                packets += stream.encode(picture)
            packets += stream.encode(None)
            packets[-1].duration = round(last_duration * Fraction(1, 25) / packets[-1].time_base)
            container.mux(packets)
        return path

    return write

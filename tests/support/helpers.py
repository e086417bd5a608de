"""What several tests need to make."""

import contextlib
import io
import logging
import shlex
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from numpy.typing import NDArray

from encoder.codec.clip import Clip
from encoder.config import Budget, Compression, SizeName
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.video import Frames, Video
from encoder.models.base import VideoShape
from encoder.presets import PRESETS
from encoder.segmentation.plan import make_plan

Pixels = NDArray[np.uint8]
Network = Callable[[VideoShape, SizeName], torch.nn.Module]
COMMANDS = [
    "encoder",
    "encoder fit",
    "encoder compress",
    "encoder info",
    "encoder evaluate",
    "encoder models",
    "encoder import",
    "encoder compare",
    "encoder bench",
    "export",
    "export onnx",
    "export trt",
    "export web",
    "export bench",
    "export verify",
    "player",
    "player serve",
    "player publish",
    "player decode",
]
SAMPLE = Path(__file__).parents[2] / "player" / "data" / "bunny.nerv"
"""The clip that ships with the player."""


def moving_square(frames: int, height: int, width: int) -> Pixels:
    """Return RGB frames (T, 3, H, W) of a bright square that moves over a gradient."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 200 // height, columns * 200 // width, np.full((height, width), 60)])
    video = np.repeat(picture[None].astype(np.uint8), frames, 0)
    for index in range(frames):
        left = index * max(width - width // 4, 1) // max(frames, 1)
        video[index, :, height // 3 : height // 2, left : left + width // 4] = 250
    return video


def panning(frames: int, height: int, width: int) -> Pixels:
    """Return RGB frames (T, 3, H, W) cut from one picture, each a pixel further down and to the right."""
    random = np.random.default_rng(0)
    small = torch.from_numpy(random.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
    size = (height + frames, width + frames)
    picture = (
        torch.nn.functional.interpolate(small, size=size, mode="bicubic")
        .clamp(0, 255)[0]
        .numpy()
        .astype(np.uint8)
    )
    return np.stack(
        [picture[:, index : index + height, index : index + width] for index in range(frames)]
    )


def make_encoder(
    video: Frames,
    name: str = "fast",
    compression: Compression | None = None,
    *,
    segment_frames: int = 100,
    key_interval: int = 1,
    **options: Any,
) -> SegmentEncoder:
    """Return the encoder of a preset."""
    preset = PRESETS[name]
    plan = make_plan(video, preset, segment_frames=segment_frames, key_interval=key_interval)
    options = {"device": torch.device("cpu"), "settings": "--preset test"} | options
    return SegmentEncoder(video, preset, compression or Compression(), plan=plan, **options)


def fit_clip(
    preset: str, *, frames: int, height: int, width: int, segment_frames: int = 100
) -> Clip:
    """Fit a preset for two epochs and return the clip as it is read from its bytes."""
    video = Video(moving_square(frames, height, width), Fraction(25))
    encoder = make_encoder(video, preset, segment_frames=segment_frames)
    for _ in encoder.run(Budget(epochs=2)):
        pass
    return Clip.parse(bytes(encoder.clip()))


def repeated(clip: Clip, count: int, *, padding: int = 0) -> Clip:
    """Return a clip that shows the first segment of another again and again.

    A number of further bytes after each segment's code makes the file long.
    """
    key = clip.segments[0]
    segments = tuple(
        replace(key, start=index * key.frames, code=key.code + bytes(padding))
        for index in range(count)
    )
    return Clip(replace(clip.header, frames=count * key.frames), clip.topology, segments)


def run(command: str, folder: Path) -> SimpleNamespace:
    """Run a command of ours in a folder, but in this process, which has imported torch and traced networks before.

    Returns what subprocess.run does.
    """
    package, *arguments = shlex.split(command)
    out, err = io.StringIO(), io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(
            logging.getLogger(), "handlers", []
        ),  # the command adds its own, if there is none
    ):
        try:
            code = import_module(f"{package}.cli.main").main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, terminate)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def write_images(folder: Path, frames: Iterable[Pixels], name: str = "{:03}.png") -> None:
    """Write RGB frames (3, H, W) as a new folder of images."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(frame.transpose(1, 2, 0)), format="rgb24"
        )
        with av.open(folder / name.format(index), "w", format="image2") as container:
            stream = container.add_stream("png", 1)
            stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "rgb24"
            container.mux(stream.encode(picture))

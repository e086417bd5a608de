"""From a video in memory to a clip: cut into segments, fit each, quantise and code it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.codec.clip import MAX_BOUND, Clip, Segment
from encoder.codec.container import Header
from encoder.codec.errors import SettingsError
from encoder.codec.topology import Topology
from encoder.fit import Fit, Limit
from encoder.presets import Preset
from encoder.quantizer import Quantizer
from encoder.trace import trace
from encoder.video import Video

DeviceName = Literal["auto", "cpu", "cuda"]
POST_TRAINING_BOUND = 127
"""Largest code of a tensor that was fitted without a quantiser: 8 bits."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an encoding has come."""

    done: float
    """Share of all frames' fits that is done, 0..1."""
    segment: int
    """Number of the segment that is being fitted, from 0."""
    psnr_db: float
    """Of the training outputs of the latest epoch."""


class Encoder:
    """Encode a video with one network per segment, all of one topology."""

    def __init__(self, video: Video, preset: Preset, *, segment_frames: int, device: torch.device) -> None:
        """Raise SettingsError for a segment length below 1, BitstreamError for a video that the format cannot hold."""
        if segment_frames < 1:
            raise SettingsError(f"a segment needs at least 1 frame, got {segment_frames}")
        frames, _, height, width = video.frames.shape
        header = Header(width=width, height=height, frames=frames, rate=video.rate, continuous=preset.continuous, settings="")
        self._header = Header.parse(bytes(header))  # before the fit, not after it
        self._video, self._preset, self._device = video, preset, device
        self.runs = split(len(video.frames), segment_frames)
        self.topology: Topology = trace(self._network())
        self.segments: list[Segment] = []

    def run(self, limit: Limit) -> Iterator[Progress]:
        """Fit the segments in turn, each with its share of the time, yielding after each epoch."""
        total = len(self._video.frames)
        for index, run in enumerate(self.runs):
            seconds = None if limit.seconds is None else limit.seconds * len(run) / total
            fit = Fit(self._network().to(self._device), self._preset.recipe, replace(limit, seconds=seconds))
            frames = torch.from_numpy(_even(self._video.frames[run.start : run.stop])).to(self._device)
            for epoch in fit.epochs(frames):
                done = (run.start + epoch.progress * len(run)) / total
                yield Progress(done=done, segment=index, psnr_db=epoch.psnr_db)
            tensors = quantize(fit.network, fit.quantizer)
            names = dict(zip(self.topology.tensors, tensors.values(), strict=True))
            self.segments.append(Segment.encode(run.start, len(run), names, self.topology.tensors))

    def clip(self, settings: str) -> Clip:
        """Return the clip, once all segments are fitted."""
        return Clip(replace(self._header, settings=settings), self.topology, tuple(self.segments))

    def _network(self) -> nn.Module:
        _, _, height, width = self._video.frames.shape
        frames = max(map(len, self.runs))
        # Convolutions on a CPU run 1.4 times faster so.
        return self._preset.network(height, width, frames).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def split(frames: int, length: int) -> list[range]:
    """Cut frames into the fewest runs of at most a length, which differ by at most one frame."""
    count = -(-frames // length)
    bounds = [frames * index // count for index in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def quantize(network: nn.Module, quantizer: Quantizer | None) -> dict[str, tuple[NDArray[np.int32], float]]:
    """Return the codes of each parameter and their step: the learned one, or that of 8 bits."""
    tensors = {name: value.detach() for name, value in network.named_parameters()}
    learned = {} if quantizer is None else {name: step.item() for name, step in quantizer.steps(tensors).items()}
    return {name: _codes(value, learned.get(name)) for name, value in tensors.items()}


def _codes(tensor: Tensor, step: float | None) -> tuple[NDArray[np.int32], float]:
    largest = max(tensor.abs().max().item(), 1e-30)  # a tensor of zeros has codes of zero under any step
    if step is None:
        step = largest / POST_TRAINING_BOUND
    step = max(step, largest / MAX_BOUND)
    return (tensor / step).round().to(torch.int32).cpu().contiguous().numpy(), step


def _even(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the last row and column of frames (T, 3, H, W) of odd size, which 4:2:0 video cannot show otherwise."""
    height, width = frames.shape[2:]
    if height % 2 == width % 2 == 0:
        return frames
    return np.pad(frames, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; raises SettingsError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device here: use --device cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)

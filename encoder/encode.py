"""From a video in memory to a clip: cut into segments, fit each, quantise and code it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.checkpoint import State
from encoder.codec.clip import Clip
from encoder.codec.container import CHUNK_BYTES, SIGNATURE, Header
from encoder.codec.errors import SettingsError
from encoder.codec.index import COUNT, ENTRY
from encoder.codec.segment import PREFIX, Segment, Weights
from encoder.codec.tensor import RECORD
from encoder.codec.topology import Topology
from encoder.compression import Compression
from encoder.fit import Fit, Limit
from encoder.mask import Mask, masked
from encoder.motion import estimate_motion
from encoder.presets import DEFAULT_SIZE, Preset, Shape, SizeName
from encoder.quantizer import Quantizer, as_given
from encoder.rate import RateControl
from encoder.rounding import quantize
from encoder.trace import trace
from encoder.video import Video

DeviceName = Literal["auto", "cpu", "cuda"]
DEFAULT_BITS = 8
"""Bits of a weight of a network that was not fitted for a rate."""
DEFAULT_RATE_WEIGHT = 0.05
"""Weight of a bit per pixel to start from where a size is wanted of a preset that has none."""
FOREIGN = "the checkpoint is of another network, or of another video"
KEY_EVERY = 16
"""Segments from one key to the next, where each network starts from the one before."""
KEY_SIZE = 4
"""Bytes of a key, as a multiple of those of another segment, where sizes are given."""
FIRST_SHARE = 4
"""Share of the time of the first segment, as a multiple of the others', where these start from it."""
DISPLACEMENTS = "camera.displacements.values"
"""Where a network's state keeps the motion of the camera."""


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

    def __init__(
        self,
        video: Video,
        preset: Preset,
        compression: Compression,
        *,
        size: SizeName = DEFAULT_SIZE,
        segment_frames: int,
        device: torch.device,
        settings: str,
        seed: int = 0,
        states: Sequence[State] | None = None,
        mask: Mask | None = None,
        keep_states: bool = False,
    ) -> None:
        """Go on from the states of an earlier run, if given, and keep those of this one if told to.

        Pixels of the video that are masked are not looked at.

        Raises SettingsError for a segment or file too small, BitstreamError for a video that the format cannot hold.
        """
        if segment_frames < 1:
            raise SettingsError(f"a segment needs at least 1 frame, got {segment_frames}")
        frames, _, height, width = video.frames.shape
        header = Header(
            width=width, height=height, frames=frames, rate=video.rate, continuous=preset.continuous, settings=settings
        )
        self._header = Header.parse(bytes(header))  # before the fit, not after it
        video = video if mask is None else masked(video, mask)
        self._video, self._preset, self._compression, self._device, self._seed = video, preset, compression, device, seed
        self._size, self._mask, self._keep_states = size, mask, keep_states
        self.runs = split(len(video.frames), preset.group_frames or segment_frames)
        if states is not None and len(states) != len(self.runs):
            raise SettingsError(f"the checkpoint has {len(states)} segments, the video {len(self.runs)}")
        self._states = states
        began = time.perf_counter()
        self._motions = self._find_motions() if preset.camera else []
        margin = _margin(self._motions)
        even_height, even_width = self._header.even_size
        self.shape = Shape(height=even_height, width=even_width, frames=max(map(len, self.runs)), margin=margin)
        network = self.network(0)
        self.given = frozenset(name for name, x in network.named_parameters() if not x.requires_grad)
        """Names of tensors that are not learned, but coded."""
        self._names = [name for name, _ in network.named_parameters()]
        self.topology: Topology = trace(network)
        self._spent_seconds = time.perf_counter() - began
        if compression.file_bytes is not None and compression.file_bytes <= self._overhead_bytes:
            raise SettingsError(f"the file's size must be over {self._overhead_bytes}, which it has without weights")
        self.segments: list[Segment] = []
        self.states: list[State] = []
        """Of all networks, unrounded, if they are kept."""

    def run(self, limit: Limit, *, start: float = 0.0) -> Iterator[Progress]:
        """Fit the segments in turn, each with its share of the time, from a part of the schedule on; yield after each epoch."""
        torch.manual_seed(self._seed)
        shares = self._shares()
        before: Weights | None = None
        for index in range(len(self.runs)):
            seconds = limit.seconds
            if seconds is not None:
                seconds = max(seconds - self._spent_seconds, 0.1 * seconds) * shares[index]
            network = self._start(index, before)
            is_delta = self._chained and index % KEY_EVERY > 0
            fit = self._fit(index, network, replace(limit, seconds=seconds), start, before if is_delta else None)
            for epoch in fit.epochs(self._frames(self.runs[index]), self._masked(self.runs[index])):
                done = sum(shares[:index]) + shares[index] * epoch.progress
                yield Progress(done=done, segment=index, psnr_db=epoch.psnr_db)
            segment = self._segment(self.runs[index], network, fit.quantizer, before if is_delta else None)
            if self._chained:
                before = segment.weights(self.topology.tensors, before)
            self.segments.append(segment)
            if self._keep_states:
                self.states.append({name: x.detach().cpu() for name, x in (network.state_dict() | fit.unrounded).items()})

    @property
    def _chained(self) -> bool:
        """Whether each network starts from the one before."""
        return self._preset.group_frames is not None

    def _shares(self) -> list[float]:
        """Return the share of the time of each segment."""
        shares = [float(len(run)) for run in self.runs]
        if self._chained:
            shares[0] *= FIRST_SHARE
        return [share / sum(shares) for share in shares]

    def _start(self, index: int, before: Weights | None) -> nn.Module:
        """Return the network of a segment as the fit starts with it."""
        network = self.network(index).to(self._device)
        if self._states is not None:
            self._load(network, self._states[index])
        elif self._chained and before is not None:
            network.load_state_dict(self._tensors(before))
        return network

    def _tensors(self, weights: Weights) -> dict[str, Tensor]:
        """Return weights by the names that the network has for them."""
        values = (torch.from_numpy(weights[name]).to(self._device) for name in self.topology.tensors)
        return dict(zip(self._names, values, strict=True))

    def _fit(self, index: int, network: nn.Module, limit: Limit, start: float, before: Weights | None) -> Fit:
        make_encoder = self._preset.frame_encoder
        return Fit(
            network,
            self._preset.recipe,
            limit,
            before=None if before is None else self._tensors(before),
            # States have latents of their own, with which a new encoder would not agree.
            frame_encoder=make_encoder(network).to(self._device) if make_encoder and self._states is None else None,
            rate=self._rate(index),
            coded_bits=lambda quantizer: 8.0 * len(self._segment(self.runs[index], network, quantizer, before).code),
            prune=self._compression.prune,
            start=start,
        )

    def clip(self) -> Clip:
        """Return the clip, once all segments are fitted."""
        return Clip(self._header, self.topology, tuple(self.segments))

    def _segment(self, run: range, network: nn.Module, quantizer: Quantizer | None, before: Weights | None) -> Segment:
        compression = self._compression
        tensors = {name: x.detach() for name, x in network.named_parameters()}
        old = {} if before is None else self._tensors(before)
        changes = {name: tensors[name] - old[name] for name in old if name not in self.given}
        bits, huffman = compression.bits or DEFAULT_BITS, compression.coder == "huffman"
        quantized = quantize(tensors | changes, quantizer, bits, given=self.given, huffman=huffman)
        marked = [replace(quantized[name], delta=name in changes) for name in self._names]
        named = dict(zip(self.topology.tensors, marked, strict=True))
        return Segment.encode(run.start, len(run), named, self.topology.tensors, coder=compression.coder)

    def _sizes(self) -> list[float]:
        """Return the share of the bytes of each segment: keys take more than differences do."""
        sizes = [len(run) * (KEY_SIZE if self._chained and not index % KEY_EVERY else 1) for index, run in enumerate(self.runs)]
        return [size / sum(sizes) for size in sizes]

    def _rate(self, index: int) -> RateControl | None:
        compression = self._compression
        rate_weight = self._preset.recipe.rate_weight if compression.rate_weight is None else compression.rate_weight
        if compression.bits is not None or not (rate_weight or compression.file_bytes):
            return None
        target = None
        if compression.file_bytes is not None:
            payload = compression.file_bytes - self._overhead_bytes
            target = 8 * payload * self._sizes()[index]
        pixels = self._header.width * self._header.height * len(self.runs[index])
        return RateControl(rate_weight=rate_weight or DEFAULT_RATE_WEIGHT, pixels=pixels, target_bits=target)

    @property
    def _overhead_bytes(self) -> int:
        """Size of the file but for the weights."""
        count = len(self.runs)
        segment = PREFIX.size + len(self.topology.tensors) * RECORD.size
        head = SIGNATURE.size + len(bytes(self._header)) + len(self.topology.packed)
        return head + count * (segment + ENTRY.size) + COUNT.size + (count + 3) * CHUNK_BYTES

    def _load(self, network: nn.Module, state: State) -> None:
        try:
            network.load_state_dict(state)
        except RuntimeError:
            raise SettingsError(FOREIGN) from None

    def _find_motions(self) -> list[Tensor]:
        if self._states is None:
            # As the camera will have it, so that a run that goes on from this one's states finds the same canvas.
            return [as_given(estimate_motion(self._frames(run)).cpu()) for run in self.runs]
        motions = [state[DISPLACEMENTS] for state in self._states if DISPLACEMENTS in state]
        rows = max(*map(len, self.runs), 2)
        if any(motion.shape != (rows, 2, 2, 2) for motion in motions):
            raise SettingsError(FOREIGN)
        return motions

    def _frames(self, run: range) -> Tensor:
        return torch.from_numpy(_even(self._video.frames[run.start : run.stop])).to(self._device)

    def _masked(self, run: range) -> Tensor | None:
        if self._mask is None:
            return None
        return torch.from_numpy(_even(self._mask[run.start : run.stop, None])[:, 0]).to(self._device)

    def network(self, index: int) -> nn.Module:
        """Return the network of a segment, not fitted yet."""
        # Convolutions on a CPU run 1.4 times faster so.
        network = self._preset.network(self.shape, self._size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.shape.margin is not None:
            network.camera.aim(self._motions[index])
        if self._preset.prepare is not None:
            self._preset.prepare(network, self._frames(self.runs[index]))
        return network


def _margin(motions: Sequence[Tensor]) -> tuple[int, int] | None:
    """Return the pixels by which a canvas must be larger than a frame, downwards and to the right."""
    if not any(motion.any() for motion in motions):
        return None
    across, down = torch.stack([motion.abs().amax((0, 2, 3)) for motion in motions]).amax(0).tolist()
    return 2 * ceil(down), 2 * ceil(across)


def split(frames: int, length: int) -> list[range]:
    """Cut frames into the fewest runs of at most a length, which differ by at most one frame."""
    count = -(-frames // length)
    bounds = [frames * index // count for index in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _even(frames: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row and column of frames (T, C, H, W) of odd size, which 4:2:0 video cannot show otherwise."""
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

"""From a video in memory to a clip: cut into segments, fit each, quantise and code it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.checkpoint import State
from encoder.codec.clip import Clip
from encoder.codec.container import CHUNK_BYTES, SIGNATURE, Header
from encoder.codec.entropy import MAX_BOUND, Integers
from encoder.codec.errors import SettingsError
from encoder.codec.index import COUNT, ENTRY
from encoder.codec.segment import HUFFMAN_BOUND, PREFIX, CoderName, Quantized, Segment
from encoder.codec.tensor import MAX_OFFSET, NOTHING, RECORD, ZERO, channel_steps
from encoder.codec.topology import Topology
from encoder.fit import Fit, Limit
from encoder.motion import estimate_motion
from encoder.presets import Preset, Shape
from encoder.quantizer import GIVEN_STEP, Quantizer, as_given, channel_axis
from encoder.rate import RateControl
from encoder.trace import trace
from encoder.video import Video

DeviceName = Literal["auto", "cpu", "cuda"]
BITS = range(2, 13)
"""Bits that a weight may have which was not fitted for a rate."""
DEFAULT_BITS = 8
"""Bits of a weight of a network that was not fitted for a rate."""
DEFAULT_RATE_WEIGHT = 0.05
"""Weight of a bit per pixel to start from where a size is wanted of a preset that has none."""
SMALLEST = 2.0**-40
"""Stands for the largest weight of a tensor of smaller ones, so that its step is one that the format has."""
FOREIGN = "the checkpoint is of another network, or of another video"
DISPLACEMENTS = "camera.displacements.values"
"""Where a network's state keeps the motion of the camera."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How small, and by which means."""

    rate_weight: float | None = None
    """Weight of a bit per pixel against the distortion; None takes the preset's."""
    file_bytes: int | None = None
    """Size that the file shall have; None lets the weight decide."""
    bits: int | None = None
    """Bits of a weight, quantised after the fit; None fits for a rate, if the preset has one."""
    prune: float = 0.0
    """Share of the convolutions' weights that are set to zero, the smallest, before the last part of the fit."""
    coder: CoderName = "range"

    def __post_init__(self) -> None:
        """Raise SettingsError for what is out of range, or does not go together."""
        if self.rate_weight is not None and not 0 < self.rate_weight < float("inf"):
            raise SettingsError(f"the rate must be over 0, got {self.rate_weight:g}")
        if self.file_bytes is not None and self.file_bytes < 1:
            raise SettingsError(f"the file's size must be over 0, got {self.file_bytes}")
        if self.bits is not None and self.bits not in BITS:
            raise SettingsError(f"bits must be in {BITS[0]}..{BITS[-1]}, got {self.bits}")
        if not 0 <= self.prune < 1:
            raise SettingsError(f"the share to prune must be in 0..1, got {self.prune:g}")
        if self.bits is not None and (self.rate_weight is not None or self.file_bytes is not None):
            raise SettingsError("give either bits or a rate, not both")
        if self.coder == "huffman" and (self.bits is None or 2 ** (self.bits - 1) - 1 > HUFFMAN_BOUND):
            raise SettingsError("the huffman coder takes at most 8 bits: give --bits as well")
        if self.prune and self.bits is None:
            raise SettingsError("pruning needs --bits: fitted for a rate, weights that are of no use become zero by themselves")


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
        segment_frames: int,
        device: torch.device,
        settings: str,
        seed: int = 0,
        states: Sequence[State] | None = None,
    ) -> None:
        """Go on from the states of an earlier run, if given.

        Raises SettingsError for a segment or file too small, BitstreamError for a video that the format cannot hold.
        """
        if segment_frames < 1:
            raise SettingsError(f"a segment needs at least 1 frame, got {segment_frames}")
        frames, _, height, width = video.frames.shape
        header = Header(
            width=width, height=height, frames=frames, rate=video.rate, continuous=preset.continuous, settings=settings
        )
        self._header = Header.parse(bytes(header))  # before the fit, not after it
        self._video, self._preset, self._compression, self._device, self._seed = video, preset, compression, device, seed
        self.runs = split(len(video.frames), segment_frames)
        if states is not None and len(states) != len(self.runs):
            raise SettingsError(f"the checkpoint has {len(states)} segments, the video {len(self.runs)}")
        self._states = states
        began = time.perf_counter()
        self._motions = self._find_motions() if preset.camera else []
        margin = _margin(self._motions)
        even_height, even_width = self._header.even_size
        self._shape = Shape(height=even_height, width=even_width, frames=max(map(len, self.runs)), margin=margin)
        self.topology: Topology = trace(self.network(0))
        self._spent_seconds = time.perf_counter() - began
        if compression.file_bytes is not None and compression.file_bytes <= self._overhead_bytes:
            raise SettingsError(f"the file's size must be over {self._overhead_bytes}, which it has without weights")
        self.segments: list[Segment] = []
        self.states: list[State] = []

    def run(self, limit: Limit, *, start: float = 0.0) -> Iterator[Progress]:
        """Fit the segments in turn, each with its share of the time, from a part of the schedule on; yield after each epoch."""
        torch.manual_seed(self._seed)
        compression = self._compression
        total = len(self._video.frames)
        for index, run in enumerate(self.runs):
            seconds = limit.seconds
            if seconds is not None:
                seconds = max(seconds - self._spent_seconds, 0.1 * seconds) * len(run) / total
            network = self.network(index).to(self._device)
            if self._states is not None:
                self._load(network, self._states[index])
            rate = self._rate(run)
            part = replace(limit, seconds=seconds)
            coded = partial(self._coded_bits, run)
            fit = Fit(network, self._preset.recipe, part, rate=rate, coded_bits=coded, prune=compression.prune, start=start)
            for epoch in fit.epochs(self._frames(run)):
                done = (run.start + epoch.progress * len(run)) / total
                yield Progress(done=done, segment=index, psnr_db=epoch.psnr_db)
            tensors = quantize(dict(network.named_parameters()), fit.quantizer, compression.bits or DEFAULT_BITS)
            self.segments.append(self._segment(run, tensors, compression.coder))
            self.states.append({name: x.detach().cpu() for name, x in (network.state_dict() | fit.unrounded).items()})

    def clip(self) -> Clip:
        """Return the clip, once all segments are fitted."""
        return Clip(self._header, self.topology, tuple(self.segments))

    def _segment(self, run: range, tensors: Mapping[str, Quantized], coder: CoderName) -> Segment:
        names = dict(zip(self.topology.tensors, tensors.values(), strict=True))
        return Segment.encode(run.start, len(run), names, self.topology.tensors, coder=coder)

    def _coded_bits(self, run: range, tensors: Mapping[str, Tensor], quantizer: Quantizer) -> float:
        return 8 * len(self._segment(run, quantize(tensors, quantizer, DEFAULT_BITS), "range").code)

    def _rate(self, run: range) -> RateControl | None:
        compression = self._compression
        rate_weight = self._preset.recipe.rate_weight if compression.rate_weight is None else compression.rate_weight
        if compression.bits is not None or not (rate_weight or compression.file_bytes):
            return None
        target = None
        if compression.file_bytes is not None:
            payload = compression.file_bytes - self._overhead_bytes
            target = 8 * payload * len(run) / len(self._video.frames)
        pixels = self._header.width * self._header.height * len(run)
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

    def network(self, index: int) -> nn.Module:
        """Return the network of a segment, not fitted yet."""
        # Convolutions on a CPU run 1.4 times faster so.
        network = self._preset.network(self._shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._shape.margin is not None:
            network.camera.aim(self._motions[index])
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


def quantize(tensors: Mapping[str, Tensor], quantizer: Quantizer | None, bits: int) -> dict[str, Quantized]:
    """Return the integers of each tensor and their step: the learned one, or that of a number of bits.

    Tensors that are given, not learned, have a step of their own either way.
    """
    bound = 2 ** (bits - 1) - 1
    quantized: dict[str, Quantized] = {}
    for name, value in tensors.items():
        learned = quantizer.learned(name) if quantizer else None
        if learned:
            step, offsets = learned
            quantized[name] = _quantize(value, step, MAX_BOUND, offsets, channel_axis(name))
        elif value.requires_grad:
            quantized[name] = _quantize(value, 0.0, bound)
        else:
            quantized[name] = _quantize(value, GIVEN_STEP, max(bound, HUFFMAN_BOUND) if quantizer is None else MAX_BOUND)
    return quantized


def _quantize(tensor: Tensor, step: float, bound: int, offsets: Integers = ZERO, axis: int = 0) -> Quantized:
    """Round a tensor to multiples of the steps of its channels, or of the smallest that keep the integers within a bound."""
    values = tensor.detach().cpu().numpy()
    shift = int(np.median(offsets))  # the offsets that are left are small, and none if all are the same
    offsets = (offsets - shift).clip(-MAX_OFFSET, MAX_OFFSET)
    relative = channel_steps(1.0, offsets, axis, values.ndim)
    largest = max(float(np.abs(values / relative).max()), SMALLEST)
    step = float(np.float32(max(step * 2 ** (shift / 2), largest / bound)))
    integers = np.rint(values / (np.float32(step) * relative)).clip(-bound, bound).astype(np.int32)
    return Quantized(integers=integers, step=step, channels=offsets if offsets.any() else NOTHING, channel_axis=axis)


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

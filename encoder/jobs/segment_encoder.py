"""From a video to a clip: cut into segments, fit each from the one before, quantise and code it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.codec.clip import Clip, check_lengths
from encoder.codec.container import CHUNK_BYTES, COUNT, ENTRY, MAX_FILE_BYTES, SIGNATURE, Header
from encoder.codec.segment import PREFIX, Segment, Weights
from encoder.codec.tensor_header import RECORD
from encoder.codec.topology import Topology
from encoder.common.errors import SettingsError
from encoder.config import Budget, Compression
from encoder.jobs.checkpoint import State
from encoder.jobs.gop import Finished, Gop, Progress
from encoder.jobs.trace import trace
from encoder.media.video import Frames
from encoder.presets import DEFAULT_SIZE, Preset, Shape, SizeName
from encoder.segmentation.global_motion import Canvas
from encoder.segmentation.mask import Masked
from encoder.segmentation.plan import Plan
from encoder.training.ptq import quantize
from encoder.training.qat import QatQuantizer
from encoder.training.rate_control import RateControl
from encoder.training.step import FitState, TrainStep
from encoder.training.trainer import Trainer

DeviceName = Literal["auto", "cpu", "cuda"]
DEFAULT_BITS = 8
"""Bits of a weight of a network that was not fitted for a rate."""
DEFAULT_RATE_WEIGHT = 0.05
"""Weight of a bit per pixel to start from where a size is wanted of a preset that has none."""
FOREIGN = "the checkpoint is of another network, or of another video"
DISPLACEMENTS = "camera.displacements.values"
"""Where a network's state keeps the motion of the camera."""


class SegmentEncoder:
    """Encode a video with one network per segment, all of one topology."""

    def __init__(
        self,
        source: Frames,
        preset: Preset,
        compression: Compression,
        *,
        plan: Plan,
        size: SizeName = DEFAULT_SIZE,
        device: torch.device,
        settings: str,
        seed: int = 0,
        motions: Mapping[int, Tensor] | None = None,
        topology: Topology | None = None,
        states: Sequence[State] | None = None,
        keep_states: bool = False,
    ) -> None:
        """Go on from the states of an earlier run, if given, and keep those of this one if told to.

        The motions and the topology are those of another encoder of the same video.

        Raises SettingsError for a file too small, BitstreamError for a video that the format cannot hold, SourceError: before
        the fit, not after it.
        """
        began = time.perf_counter()
        width, height = source.size
        header = Header(
            width=width,
            height=height,
            frames=source.count,
            rate=source.rate,
            continuous=preset.continuous,
            settings=settings,
        )
        self.header = Header.parse(bytes(header))
        self._source = source
        self._preset = preset
        self._compression = compression
        self._device = device
        self.seed = seed
        self._size = size
        self._keep_states = keep_states
        self.plan = plan
        if states is not None and len(states) != len(plan.runs):
            raise SettingsError(
                f"the checkpoint has {len(states)} segments, the video {len(plan.runs)}"
            )
        self._states = states
        self._cached: tuple[int, Tensor] | None = None
        self.canvas = self._find_canvas(motions)
        even_height, even_width = self.header.even_size
        self.shape = Shape(
            height=even_height, width=even_width, frames=plan.longest, margin=self.canvas.margin
        )
        network = self.network(0)
        self.given = frozenset(
            name for name, x in network.named_parameters() if not x.requires_grad
        )
        """Names of tensors that are not learned, but coded."""
        self._names = [name for name, _ in network.named_parameters()]
        self.topology = topology or _topology(preset.network, self.shape, size)
        check_lengths(self.topology, len(plan.runs), max(map(len, plan.groups)))
        self._cached = None
        self.spent_seconds = time.perf_counter() - began
        """What was needed before the first fit."""
        if compression.file_bytes is not None and compression.file_bytes <= self._overhead_bytes:
            raise SettingsError(
                f"the file's size must be over {self._overhead_bytes}, which it has without weights"
            )
        if compression.file_bytes is not None and compression.file_bytes > MAX_FILE_BYTES:
            raise SettingsError(f"the file's size must be at most {MAX_FILE_BYTES}")
        self.finished: list[Finished] = []
        """What `run` made."""

    def run(self, limit: Budget, *, start: float = 0.0) -> Iterator[Progress]:
        """Fit all segments in turn, from a part of the schedule on, and keep them."""
        done = 0.0
        for group in range(len(self.plan.groups)):
            progress = None
            for progress in Gop(self, group, limit, start=start).run():
                if progress.finished is not None:
                    self.finished.append(progress.finished)
                yield replace(progress, done=done + progress.done)
            done += progress.done if progress else 0.0

    def start(self, index: int, before: Weights | None) -> nn.Module:
        """Return the network of a segment as its fit starts with it."""
        network = self.network(index).to(self._device)
        if self._states is not None:
            self._load(network, self._states[index])
        elif before is not None:
            learned = {
                name: values
                for name, values in self._tensors(before).items()
                if name not in self.given
            }
            network.load_state_dict(learned, strict=False)
        return network

    def fit(
        self,
        index: int,
        network: nn.Module,
        limit: Budget,
        *,
        start: float,
        before: Weights | None,
        frame_encoder: FitState | None,
    ) -> Trainer:
        """Return the fit of a segment's network, from a part of the schedule on.

        Its weights may be coded as differences from those of the segment before, whose frame encoder goes on if there was one.
        """
        maker = None
        # States have latents of their own, with which a new encoder would not agree.
        if self._preset.frame_encoder is not None and self._states is None:
            maker = self._preset.frame_encoder(network).to(self._device)
            if frame_encoder is not None:
                maker.load_state_dict(frame_encoder)
        training = TrainStep(
            network,
            self._preset.recipe,
            before=None if before is None else self._tensors(before),
            frame_encoder=maker,
            rate=self._rate(index),
            coded_bits=lambda quantizer: (
                8.0 * len(self.segment(index, network, quantizer, before).code)
            ),
            prune=self._compression.prune,
        )
        return Trainer(training, limit, start=start)

    def kept_state(self, training: TrainStep) -> State | None:
        """Return the state of a network before it was rounded for good, if states are kept."""
        if not self._keep_states:
            return None
        return {
            name: x.detach().cpu()
            for name, x in (training.network.state_dict() | training.unrounded).items()
        }

    def _tensors(self, weights: Weights) -> dict[str, Tensor]:
        """Return weights by the names that the network has for them."""
        values = (
            torch.from_numpy(weights[name]).to(self._device) for name in self.topology.tensors
        )
        return dict(zip(self._names, values, strict=True))

    def clip(self) -> Clip:
        """Return the clip, once all segments are fitted."""
        return Clip(self.header, self.topology, tuple(made.segment for made in self.finished))

    @property
    def states(self) -> list[State]:
        """Of all networks, unrounded, if they are kept."""
        return [made.state for made in self.finished if made.state is not None]

    def segment(
        self, index: int, network: nn.Module, quantizer: QatQuantizer | None, before: Weights | None
    ) -> Segment:
        """Return a segment, coded, of which what is shorter so is a difference from the one before."""
        run = self.plan.runs[index]
        compression = self._compression
        quantized = quantize(
            {name: x.detach() for name, x in network.named_parameters()},
            quantizer,
            compression.bits or DEFAULT_BITS,
            before=None if before is None else self._tensors(before),
            given=self.given,
            huffman=compression.coder == "huffman",
        )
        named = dict(
            zip(self.topology.tensors, (quantized[name] for name in self._names), strict=True)
        )
        return Segment.encode(
            run.start, len(run), named, self.topology.tensors, coder=compression.coder
        )

    def _rate(self, index: int) -> RateControl | None:
        compression = self._compression
        rate_weight = (
            self._preset.recipe.rate_weight
            if compression.rate_weight is None
            else compression.rate_weight
        )
        if compression.bits is not None or not (rate_weight or compression.file_bytes):
            return None
        target = None
        if compression.file_bytes is not None:
            target = 8 * (compression.file_bytes - self._overhead_bytes) * self.plan.shares[index]
        pixels = self.header.width * self.header.height * len(self.plan.runs[index])
        return RateControl(
            rate_weight=rate_weight or DEFAULT_RATE_WEIGHT, pixels=pixels, target_bits=target
        )

    @property
    def _overhead_bytes(self) -> int:
        """Size of the file but for the weights."""
        count = len(self.plan.runs)
        segment = PREFIX.size + len(self.topology.tensors) * RECORD.size
        head = SIGNATURE.size + len(bytes(self.header)) + len(self.topology.packed)
        return head + count * (segment + ENTRY.size) + COUNT.size + (count + 3) * CHUNK_BYTES

    def _load(self, network: nn.Module, state: State) -> None:
        try:
            network.load_state_dict(state)
        except RuntimeError:
            raise SettingsError(FOREIGN) from None

    def _find_canvas(self, motions: Mapping[int, Tensor] | None) -> Canvas:
        """Return the canvas for motions that are known, or else for those of the states, or of the video."""
        if motions is not None or not self._preset.camera:
            return Canvas(self.frames, motions or {})
        if self._states is None:
            return Canvas.look(self.frames, len(self.plan.runs))
        motions = {
            index: state[DISPLACEMENTS]
            for index, state in enumerate(self._states)
            if DISPLACEMENTS in state
        }
        if any(motion.shape != (max(self.plan.longest, 2), 2, 2, 2) for motion in motions.values()):
            raise SettingsError(FOREIGN)
        return Canvas(self.frames, motions)

    def frames(self, index: int) -> Tensor:
        """Return the frames of a segment; the latest are kept, since they are needed more than once."""
        if self._cached is None or self._cached[0] != index:
            self._cached = None  # or both would be in memory
            self._cached = (
                index,
                torch.from_numpy(_even(self._source.read(self.plan.runs[index]))).to(self._device),
            )
        return self._cached[1]

    def masked(self, index: int) -> Tensor | None:
        """Return which pixels of a segment's frames are masked (T, H, W), if any may be."""
        if not isinstance(self._source, Masked):
            return None
        mask = np.ascontiguousarray(_even(self._source.mask(self.plan.runs[index])[:, None])[:, 0])
        return torch.from_numpy(mask).to(self._device)

    def network(self, index: int) -> nn.Module:
        """Return the network of a segment, not fitted yet."""
        # Convolutions on a CPU run 1.4 times faster so.
        network = self._preset.network(self.shape, self._size).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.shape.margin is not None:
            network.camera.aim(self.canvas.motion(index))
        if self._preset.prepare is not None:
            self._preset.prepare(network, self.frames(index))
        return network


@lru_cache(maxsize=8)
def _topology(
    make: Callable[[Shape, SizeName], nn.Module], shape: Shape, size: SizeName
) -> Topology:
    """Return the topology of a network, for which the exporter takes seconds: a comparison fits many of the same."""
    return trace(make(shape, size))


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; raises SettingsError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("no CUDA device here: use --device cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _even(frames: NDArray[Any]) -> NDArray[Any]:
    """Repeat the last row and column of frames (T, C, H, W) of odd size, which 4:2:0 video cannot show otherwise."""
    height, width = frames.shape[2:]
    if height % 2 == width % 2 == 0:
        return frames
    return np.pad(frames, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")

"""Encoder of a video's segments: fit, quantize and code each, with one topology for all."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoder.codec.clip import Clip
from encoder.codec.clip_reader import check_lengths
from encoder.codec.container import MAX_FILE_BYTES, Header
from encoder.codec.segment import Segment, Weights
from encoder.codec.topology import Topology
from encoder.codec.writer import overhead_bytes
from encoder.common.errors import SettingsError
from encoder.config import DEFAULT_SIZE, Budget, Compression, PrecisionName, SizeName
from encoder.jobs.checkpoint import State
from encoder.jobs.gop import Finished, Gop, Progress
from encoder.jobs.trace import topology_of
from encoder.media.video import Frames
from encoder.models.base import VideoNetwork, VideoShape
from encoder.presets import Preset, build
from encoder.segmentation.global_motion import Canvas
from encoder.segmentation.mask import Masked
from encoder.segmentation.plan import Plan
from encoder.training.ptq import quantize
from encoder.training.qat import QatQuantizer
from encoder.training.rate_control import RateControl
from encoder.training.recorded_step import kind_of_step
from encoder.training.state import FitState
from encoder.training.step import TrainStep
from encoder.training.trainer import Trainer

DEFAULT_BITS = 8
"""Bits of a weight that is quantized after the fit."""
DEFAULT_LAMBDA = 0.05
"""Initial lambda of a fit that is steered, for presets without a lambda of their own."""
FOREIGN = "the checkpoint is of another network, or of another video"


class SegmentEncoder:
    """Encodes a video with one network for each segment."""

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
        precision: PrecisionName = "auto",
        train_step: Callable[..., TrainStep] | None = None,
    ) -> None:
        """Take the video and the settings of its encoding.

        `settings` is the record in the file. `motions` and `topology` are those of another encoder
        of the same video. `states` are the networks of an earlier run to go on from. `keep_states`
        keeps the states of this run's networks. `train_step` replaces the usual kind of steps.
        Raises SourceError, SettingsError for states or a file size that do not fit the video, and
        BitstreamError for a video that the format cannot hold.
        """
        began = time.perf_counter()
        self.header = _header(source, preset, settings)
        self._source = source
        self._preset = preset
        self._compression = compression
        self._device = device
        self.seed = seed
        self._size: SizeName = size
        self._keep_states = keep_states
        self._precision: PrecisionName = precision
        self._train_step = train_step or kind_of_step(preset.recipe, device)
        self.plan = plan
        if states is not None and len(states) != len(plan.runs):
            raise SettingsError(
                f"the checkpoint has {len(states)} segments, the video {len(plan.runs)}"
            )
        self._states = states
        self._cached: tuple[int, Tensor] | None = None
        self.canvas = self._find_canvas(motions)
        self.shape = self._shape(self.canvas.margin)
        network = self.network(0)
        self.given = network.names_of(network.given_parameters())
        """Names of the parameters that are given, not learned."""
        self._names = [name for name, _ in network.named_parameters()]
        self.topology = topology or topology_of(preset.network, self.shape, size)
        check_lengths(self.topology, len(plan.runs), max(map(len, plan.groups)))
        self._overhead = overhead_bytes(self.header, self.topology, len(plan.runs))
        self._cached = None
        self.spent_seconds = time.perf_counter() - began
        """Time spent before the first fit."""
        self._check_size()
        self.finished: list[Finished] = []
        """Segments that `run` has finished."""

    def run(self, budget: Budget, *, start: float = 0.0) -> Iterator[Progress]:
        """Fit all segments in turn and keep them; `start` is the schedule's progress at first."""
        done = 0.0
        for number in range(len(self.plan.groups)):
            progress = None
            for progress in Gop(self, number, budget, start=start).run():
                if progress.finished is not None:
                    self.finished.append(progress.finished)
                yield replace(progress, done=done + progress.done)
            done += progress.done if progress else 0.0

    def start(self, index: int, before: Weights | None) -> VideoNetwork:
        """Return the network with which a segment's fit starts.

        It has the weights of its state, if there are states, or else the learned ones of `before`,
        the previous segment. Raises SettingsError for states of another network.
        """
        network = self.network(index).to(self._device)
        if self._states is not None:
            try:
                network.load_state_dict(self._states[index])
            except RuntimeError:
                raise SettingsError(FOREIGN) from None
        elif before is not None:
            tensors = self._tensors(before)
            learned = {name: tensors[name] for name in tensors if name not in self.given}
            network.load_state_dict(learned, strict=False)
        return network

    def fit(
        self,
        index: int,
        network: VideoNetwork,
        budget: Budget,
        *,
        start: float,
        before: Weights | None,
        frame_encoder: FitState | None,
    ) -> Trainer:
        """Return the fit of a segment's network; `start` is the schedule's progress at first.

        `before` holds the weights of the previous segment, if differences from them may be coded.
        `frame_encoder` is the state of that segment's frame encoder, if it had one.
        """
        # A new frame encoder would not agree with the latents of the states.
        encoder = network.frame_encoder() if self._states is None else None
        if encoder is not None:
            encoder = encoder.to(self._device)
            if frame_encoder is not None:
                encoder.load_state_dict(frame_encoder)
        training = self._train_step(
            network,
            self._preset.recipe,
            before=None if before is None else self._tensors(before),
            frame_encoder=encoder,
            rate=self._rate(index),
            coded_bits=lambda quantizer: (
                8.0 * self.segment(index, network, quantizer, before).tensor_bytes
            ),
            prune=self._compression.prune,
            precision=self._precision,
        )
        return Trainer(training, budget, start=start)

    def kept_state(self, training: TrainStep) -> State | None:
        """Return the state of a network before its final rounding, if states are kept."""
        if not self._keep_states:
            return None
        state = training.network.state_dict() | training.unrounded
        return {name: x.detach().cpu() for name, x in state.items()}

    def clip(self) -> Clip:
        """Return the clip, once all segments are fitted."""
        return Clip(self.header, self.topology, tuple(made.segment for made in self.finished))

    @property
    def states(self) -> list[State]:
        """States of all networks before their final rounding, if they are kept."""
        return [made.state for made in self.finished if made.state is not None]

    def segment(
        self, index: int, network: nn.Module, quantizer: QatQuantizer | None, before: Weights | None
    ) -> Segment:
        """Return a coded segment; tensors are coded as differences if that is shorter."""
        run = self.plan.runs[index]
        coder = self._compression.coder
        quantized = quantize(
            {name: x.detach() for name, x in network.named_parameters()},
            quantizer,
            self._compression.bits or DEFAULT_BITS,
            before=None if before is None else self._tensors(before),
            given=self.given,
            huffman=coder == "huffman",
        )
        tensors = self.topology.tensors
        named = dict(zip(tensors, (quantized[name] for name in self._names), strict=True))
        modes = self._preset.recipe.quantization.coder_modes
        return Segment.encode(run.start, len(run), named, tensors, coder=coder, modes=modes)

    def frames(self, index: int) -> Tensor:
        """Return the uint8 frames (T, 3, H, W) of a segment; the latest segment's are cached."""
        if self._cached is None or self._cached[0] != index:
            self._cached = None  # otherwise both segments would be in memory
            self._cached = (index, self._on_device(self._source.read(self.plan.runs[index])))
        return self._cached[1]

    def masked(self, index: int) -> Tensor | None:
        """Return the mask (T, H, W) of a segment's frames, if the video has one."""
        if not isinstance(self._source, Masked):
            return None
        return self._on_device(self._source.mask(self.plan.runs[index])[:, None])[:, 0]

    def _on_device(self, frames: NDArray[Any]) -> Tensor:
        """Put frames (T, C, H, W) on the device, padded to even sizes for 4:2:0."""
        odd = [side % 2 for side in frames.shape[2:]]
        if any(odd):
            frames = np.pad(frames, ((0, 0), (0, 0), (0, odd[0]), (0, odd[1])), mode="edge")
        return torch.from_numpy(np.ascontiguousarray(frames)).to(self._device)

    def network(self, index: int) -> VideoNetwork:
        """Return the network of a segment before its fit, with its given parameters."""
        network = build(self._preset, self.shape, self._size)
        motion = None if self.shape.margin is None else self.canvas.motion(index)
        network.prepare(lambda: self.frames(index), motion)
        return network

    def _tensors(self, weights: Weights) -> dict[str, Tensor]:
        """Return weights by the names of the network's parameters."""
        values = (torch.from_numpy(weights[name]) for name in self.topology.tensors)
        return {
            name: value.to(self._device) for name, value in zip(self._names, values, strict=True)
        }

    def _rate(self, index: int) -> RateControl | None:
        compression = self._compression
        lambda_ = compression.lambda_
        if lambda_ is None:
            lambda_ = self._preset.recipe.lambda_
        if compression.bits or not any((lambda_, compression.file_bytes, compression.psnr)):
            return None
        target = None
        if compression.file_bytes is not None:
            target = 8 * (compression.file_bytes - self._overhead) * self.plan.shares[index]
        return RateControl(
            lambda_=lambda_ or DEFAULT_LAMBDA,
            pixels=self.header.width * self.header.height * len(self.plan.runs[index]),
            target_bits=target,
            target_db=compression.psnr,
            steering=self._preset.recipe.steering,
        )

    def _check_size(self) -> None:
        """Raise SettingsError for a target size that no file can have."""
        wanted = self._compression.file_bytes
        if wanted is not None and wanted <= self._overhead:
            raise SettingsError(
                f"the file's size must be over {self._overhead}, which it has without weights"
            )
        if wanted is not None and wanted > MAX_FILE_BYTES:
            raise SettingsError(f"the file's size must be at most {MAX_FILE_BYTES}")

    def _shape(self, margin: tuple[int, int] | None) -> VideoShape:
        return self.plan.shape(self.header.even_size, margin)

    def _find_canvas(self, motions: Mapping[int, Tensor] | None) -> Canvas:
        """Return the canvas: of known motions, or of the states, or of the video."""
        if motions is not None or not self._preset.camera:
            return Canvas(self.frames, motions or {})
        if self._states is None:
            return Canvas.look(self.frames, len(self.plan.runs))
        with torch.device("meta"):
            network = build(self._preset, self._shape((0, 0)), self._size)
        displacements = network.displacements()
        assert displacements is not None  # the preset has a camera
        (name,) = network.names_of([displacements])
        motions = {index: state[name] for index, state in enumerate(self._states) if name in state}
        if any(motion.shape != displacements.shape for motion in motions.values()):
            raise SettingsError(FOREIGN)
        return Canvas(self.frames, motions)


def _header(source: Frames, preset: Preset, settings: str) -> Header:
    """Return the header of a video's file; raises BitstreamError."""
    width, height = source.size
    header = Header(
        width=width,
        height=height,
        frames=source.count,
        rate=source.rate,
        continuous=preset.continuous,
        settings=settings,
    )
    return Header.parse(bytes(header))

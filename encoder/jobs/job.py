"""A job: all that decides on a clip's bytes, in a form that can be sent to whoever fits a part of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from encoder.codec.topology import Topology
from encoder.config import Budget, Compression
from encoder.jobs.segment_encoder import DeviceName, SegmentEncoder, pick_device
from encoder.media.reading import DEFAULT_READING, Reading
from encoder.media.source import Source
from encoder.media.video import Frames
from encoder.presets import SizeName, find_preset
from encoder.segmentation.mask import read_mask
from encoder.segmentation.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to fit, and how."""

    source: Path
    """Video file or folder."""
    width: int
    """Width of a frame, in pixels."""
    height: int
    """Height of a frame, in pixels."""
    mask: Path | None
    preset: str
    size: SizeName
    compression: Compression
    plan: Plan
    limit: Budget
    """Of all segments, fitted one after the other."""
    device: DeviceName
    """Resolved where the job is made, so that all workers have the same."""
    seed: int
    threads: int
    """Threads of a worker on a CPU, on which the bytes depend."""
    settings: str
    """What the file says about how it was made."""
    keep_states: bool
    reading: Reading = DEFAULT_READING
    """How the source is read."""
    motions: Mapping[int, Tensor] = field(default_factory=dict)
    """What an encoder of this job has found of the camera's motion."""
    topology: Topology | None = None
    """What it has traced, which takes seconds."""

    def open(self) -> Frames:
        """Return the video, masked; raises SourceError, SettingsError."""
        source = Source(self.source, size=(self.width, self.height), reading=self.reading)
        return source if self.mask is None else read_mask(self.mask, source)

    def encoder(self, *, worker: int = 0) -> SegmentEncoder:
        """Return the encoder of the job, on the device of a worker; raises SettingsError, SourceError, BitstreamError."""
        torch.set_num_threads(self.threads)
        device = pick_device(self.device)
        if device.type == "cuda":
            device = torch.device("cuda", worker % torch.cuda.device_count())
        return SegmentEncoder(
            self.open(),
            find_preset(self.preset),
            self.compression,
            plan=self.plan,
            size=self.size,
            device=device,
            settings=self.settings,
            seed=self.seed,
            motions=self.motions or None,
            topology=self.topology,
            keep_states=self.keep_states,
        )

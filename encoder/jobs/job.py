"""A job: all settings that decide on a clip's bytes, in a form that can be sent to workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder.codec.about import About
from encoder.codec.extras import Extras
from encoder.codec.sound import cut
from encoder.codec.topology import Topology
from encoder.common.errors import SettingsError
from encoder.common.memory import keep_freed_memory
from encoder.config import Budget, Compression, DeviceName, FitConfig
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.metadata import read_about
from encoder.media.size import Size
from encoder.media.sound import read_sound
from encoder.media.source import Source
from encoder.media.subtitles import read_subtitles
from encoder.media.tracks import Track
from encoder.media.video import Frames
from encoder.presets import Preset, find_preset
from encoder.segmentation.mask import read_mask
from encoder.segmentation.plan import Plan, make_plan
from encoder.training.device import pick_device


@dataclass(frozen=True, kw_only=True)
class Job:
    """A fit of all segments of a video."""

    source: Path
    """Video file or folder."""
    size: Size
    """Width and height of a frame, in pixels."""
    track: Track | None = None
    """Track of the source, if it is open already: reading all packets of a film takes a while."""
    config: FitConfig
    plan: Plan
    budget: Budget
    """Budget of all segments, fitted one after the other."""
    device: DeviceName
    """Resolved device, so that all workers have the same."""
    threads: int
    """CPU threads of a worker; the bytes depend on it."""
    settings: str
    """Record in the file."""
    keep_states: bool
    """Whether a checkpoint is written at the end."""
    extras: Extras = field(default_factory=Extras)
    """Sound, in a part for each segment, subtitles, and facts about the film."""
    motions: Mapping[int, Tensor] = field(default_factory=dict)
    """Camera motion by segment, if another encoder of this job has found it."""
    topology: Topology | None = None
    """Topology, if another encoder of this job has traced it, which takes seconds."""

    def encoder(self, *, worker: int = 0) -> SegmentEncoder:
        """Return the encoder of the job, on the device of a worker.

        Raises SettingsError, SourceError, BitstreamError.
        """
        torch.set_num_threads(self.threads)
        device = pick_device(self.device)
        if device.type == "cuda":
            device = torch.device("cuda", worker % torch.cuda.device_count())
        return open_encoder(
            Source(self.source, size=self.size, reading=self.config.reading, track=self.track),
            self.config,
            device=device,
            plan=self.plan,
            settings=self.settings,
            motions=self.motions or None,
            topology=self.topology,
            keep_states=self.keep_states,
            extras=self.extras,
        )


def open_encoder(
    video: Frames,
    config: FitConfig,
    *,
    device: torch.device,
    preset: Preset | None = None,
    plan: Plan | None = None,
    settings: str | None = None,
    extras: Extras | None = None,
    **options: Any,
) -> SegmentEncoder:
    """Return the encoder of a video in this process; options are those of SegmentEncoder.

    A preset replaces that of the settings. Without a plan, the video is searched for scenes.
    A wanted file size includes the extras.
    Raises SettingsError, SourceError, BitstreamError.
    """
    keep_freed_memory()
    preset = preset or find_preset(config.preset)
    video = masked(video, config)
    plan = plan or plan_of(video, config, preset)
    compression = check_room(video, config, plan, extras or Extras())
    return SegmentEncoder(
        video,
        preset,
        compression,
        plan=plan,
        size=config.size,
        device=device,
        settings=config.text(video) if settings is None else settings,
        seed=config.seed,
        precision=config.precision,
        **options,
    )


def check_room(video: Frames, config: FitConfig, plan: Plan, extras: Extras) -> Compression:
    """Return the compression of a fit's pictures, whose size is that of the file less its extras.

    Raises SettingsError if they leave nothing.
    """
    compression = config.compression(video)
    taken = extras.file_bytes(_stops(video, plan))
    wanted = compression.file_bytes
    if wanted is None or not taken:
        return compression
    if wanted <= taken:
        raise SettingsError(
            f"the file's size must be over {taken}, which sound, subtitles and metadata take"
        )
    return replace(compression, file_bytes=wanted - taken)


def _stops(video: Frames, plan: Plan) -> list[Fraction]:
    """Return the times at which the segments of a plan end, in seconds."""
    return [run.stop / video.rate for run in plan.runs]


def extras_of(video: Frames, config: FitConfig, plan: Plan) -> Extras:
    """Return a video file's sound, subtitles and metadata, for the segments of a plan.

    Raises SourceError.
    """
    if not isinstance(video, Source):
        return Extras()
    sound = None if config.sound is None else read_sound(video, config.sound)
    if sound is not None:
        sound = cut(sound, _stops(video, plan))
    about = read_about(video) if config.metadata else About()
    return Extras(sound, read_subtitles(video, config.subtitles), about)


def masked(video: Frames, config: FitConfig) -> Frames:
    """Return a video with the mask of a fit, if it has one; raises SourceError, SettingsError."""
    return video if config.mask is None else read_mask(Path(config.mask), video)


def plan_of(
    video: Frames,
    config: FitConfig,
    preset: Preset,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Plan:
    """Return the segments of a video; raises SettingsError, SourceError."""
    return make_plan(
        video,
        preset,
        size=config.size,
        segment_frames=config.segment_frames,
        key_interval=config.key_interval,
        on_progress=on_progress,
    )

"""Plan of a video's segments: their frames, key segments, and hardness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.codec.clip_reader import MAX_CHAIN_WEIGHTS
from encoder.codec.topology import MAX_WEIGHTS
from encoder.common.errors import SettingsError
from encoder.config import DEFAULT_SIZE, SizeName
from encoder.media.video import Frames, check_memory
from encoder.models.base import VideoShape
from encoder.presets import Preset
from encoder.segmentation.global_motion import MAX_MARGIN
from encoder.segmentation.shots import changes, cuts, split, unsteadiness

UNSTEADY = 2.25
"""Smallest error of coarse pictures that are interpolated in time, in a video of high
motion, of 255.

Carphone has 1.98 and is better off with few times; every second frame of Bunny has 2.51 and is not.
"""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Shares of time and bytes among the segments."""

    still_frames: int = 50
    """Fixed part of each segment's share, as a number of frames of mean hardness.

    The longest segment's length bounds it: networks of shorter segments are smaller.
    """
    still_change: float = 10.0
    """Change of a frame, of 255, that is as hard to fit as the picture itself."""
    group_key_share: float = 4.0
    """Share of a key segment relative to a delta segment, for presets with a fixed short length."""
    group_key_interval: int = 16
    """Number of segments from one key segment to the next, for these presets."""


DEFAULT = Allocation()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The segments of a video."""

    runs: tuple[range, ...]
    """Frames of each segment."""
    keys: frozenset[int]
    """Numbers of the key segments; each group (GOP) begins with one."""
    hardness: tuple[float, ...]
    """Mean hardness of a frame of each segment, 1 on average."""
    key_share: float = 1.0
    """Share of a key segment relative to a delta segment."""
    still_frames: int = DEFAULT.still_frames
    """Fixed part of each segment's share, in frames."""
    unsteadiness: float = 0.0
    """Error of coarse pictures that are interpolated in time, of 255."""

    @property
    def longest(self) -> int:
        """Number of frames of the longest segment."""
        return max(map(len, self.runs))

    def shape(self, size: tuple[int, int], margin: tuple[int, int] | None) -> VideoShape:
        """Return the shape of the networks for frames of a height and width, with a margin."""
        height, width = size
        return VideoShape(
            height=height,
            width=width,
            frames=self.longest,
            margin=margin,
            high_motion=self.unsteadiness > UNSTEADY,
        )

    @cached_property
    def groups(self) -> list[range]:
        """Numbers of the segments of each group (GOP), which is coded independently."""
        bounds = [*sorted(self.keys), len(self.runs)]
        return [range(start, stop) for start, stop in pairwise(bounds)]

    @cached_property
    def shares(self) -> list[float]:
        """Share of each segment of the time and of the bytes."""
        still = min(self.still_frames, self.longest)
        parts = [
            (still + len(run) * hard) * (self.key_share if index in self.keys else 1.0)
            for index, (run, hard) in enumerate(zip(self.runs, self.hardness, strict=True))
        ]
        whole = sum(parts)
        return [part / whole for part in parts]


def make_plan(
    source: Frames,
    preset: Preset,
    *,
    size: SizeName = DEFAULT_SIZE,
    segment_frames: int,
    key_interval: int,
    allocation: Allocation = DEFAULT,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Plan:
    """Cut a video into segments at shot boundaries, by its thumbnails.

    Segments have at most `segment_frames` frames, unless the preset has a fixed length. For frames
    so large that a clip could not hold the weights, segments are shorter and keys closer together.
    `on_progress` takes the share of the video that has been read.

    Raises SourceError, and SettingsError for lengths under 1 or a network that is too large.
    """
    if segment_frames < 1:
        raise SettingsError(f"a segment needs at least 1 frame, got {segment_frames}")
    if key_interval < 1:
        raise SettingsError(f"a key is needed every 1 segment at least, got {key_interval}")
    longest = preset.group_frames or segment_frames
    while (weights := _most_weights(preset, size, source, longest)) > MAX_WEIGHTS:
        if preset.group_frames or longest == 1:
            width, height = source.size
            raise SettingsError(
                f"a network of size {size} has too many weights for frames of {width}x{height}"
            )
        longest = longest * 7 // 8
    check_memory(min(longest, source.count), source.size, shorter=" or fewer --segment-frames")
    differences = changes(source.thumbnails(), on_progress)
    starts = cuts(differences.mean)
    runs = split(source.count, longest, starts)
    begins = {0, *starts}
    keys = list[int]()
    interval = min(
        allocation.group_key_interval if preset.group_frames else key_interval,
        MAX_CHAIN_WEIGHTS // weights,
    )
    for index, run in enumerate(runs):
        if run.start in begins or index - keys[-1] >= interval:
            keys.append(index)
    return Plan(
        runs=tuple(runs),
        keys=frozenset(keys),
        hardness=_hardness(differences.root_mean_square, runs, allocation.still_change),
        key_share=allocation.group_key_share if preset.group_frames else 1.0,
        still_frames=allocation.still_frames,
        unsteadiness=unsteadiness(differences, starts),
    )


def _most_weights(preset: Preset, size: SizeName, source: Frames, frames: int) -> int:
    """Return the number of weights of a segment, with the largest canvas and the most latents."""
    width, height = source.size
    across, down = (2 * ceil(MAX_MARGIN * side) for side in (width, height))
    shape = VideoShape(
        height=height,
        width=width,
        frames=frames,
        margin=(down, across) if preset.camera else None,
        high_motion=True,
    )
    with torch.device("meta"):  # without memory for the weights
        return sum(x.numel() for x in preset.network(shape, size).parameters())


def _hardness(
    differences: NDArray[np.float64], runs: Sequence[range], still_change: float
) -> tuple[float, ...]:
    """Return the mean hardness of a frame of each run: 1 for a still picture, more for changes."""
    # The first difference of a run is to the last frame of the run before it.
    hard = [
        1 + float(np.mean(differences[run.start + 1 : run.stop])) / still_change
        if len(run) > 1
        else 1.0
        for run in runs
    ]
    mean = sum(value * len(run) for value, run in zip(hard, runs, strict=True)) / sum(
        map(len, runs)
    )
    return tuple(value / mean for value in hard)

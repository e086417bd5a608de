"""How a video is encoded piece by piece: its segments, which of them are keys, and how hard each is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.codec.clip import MAX_CHAIN_WEIGHTS
from encoder.codec.topology import MAX_WEIGHTS
from encoder.common.errors import SettingsError
from encoder.media.video import Frames, check_memory
from encoder.presets import DEFAULT_SIZE, Preset, Shape, SizeName
from encoder.segmentation.global_motion import MAX_MARGIN
from encoder.segmentation.shots import changes, cuts, split

GROUP_KEY_SHARE = 4.0
"""Share of a key segment of presets whose segments are a few frames, as a multiple of that of another one, ..."""
GROUP_KEY_INTERVAL = 16
"""... and from one key of theirs to the next."""
STILL_FRAMES = 50
"""Frames of middling hardness whose share is as large as what the network of any segment needs, however short and still it is;
at most as many as the longest segment has, since networks of shorter ones are smaller."""
STILL = 10.0
"""Change of a frame, of 255, that is as hard as the picture itself."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The segments of a video."""

    runs: tuple[range, ...]
    """Frames of each."""
    keys: frozenset[int]
    """Numbers of the segments that are coded alone: each group begins with one."""
    hardness: tuple[float, ...]
    """How hard a frame of each is, 1 on average."""
    key_share: float = 1.0
    """Share of a key segment, as a multiple of that of one which starts from the segment before."""

    @property
    def longest(self) -> int:
        """Frames of the longest segment."""
        return max(map(len, self.runs))

    @cached_property
    def groups(self) -> list[range]:
        """Numbers of the segments of each group, which needs no other."""
        bounds = [*sorted(self.keys), len(self.runs)]
        return [range(start, stop) for start, stop in pairwise(bounds)]

    @cached_property
    def shares(self) -> list[float]:
        """Share of each segment of the time, and of the bytes."""
        still = min(STILL_FRAMES, self.longest)
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
    show: Callable[[float], None] = lambda _: None,
) -> Plan:
    """Look at all of a video, made small, and cut it into segments, of at most so many frames unless the preset has a length.

    They are shorter, and keys closer together, where frames are so large that a clip could not hold the weights. What is shown
    is the share of the video that has been looked at. Raises SettingsError for lengths under 1 and for a network that is too
    large for any, SourceError.
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
    differences = changes(source.thumbnails(), show)
    starts = cuts(differences.mean)
    runs = split(source.count, longest, starts)
    begins = {0, *starts}
    keys = list[int]()
    interval = min(
        GROUP_KEY_INTERVAL if preset.group_frames else key_interval, MAX_CHAIN_WEIGHTS // weights
    )
    for index, run in enumerate(runs):
        if run.start in begins or index - keys[-1] >= interval:
            keys.append(index)
    return Plan(
        runs=tuple(runs),
        keys=frozenset(keys),
        hardness=_hardness(differences.root_mean_square, runs),
        key_share=GROUP_KEY_SHARE if preset.group_frames else 1.0,
    )


def _most_weights(preset: Preset, size: SizeName, source: Frames, frames: int) -> int:
    """Return the weights of a segment of some frames, wherever the camera goes."""
    width, height = source.size
    across, down = (2 * ceil(MAX_MARGIN * side) for side in (width, height))
    shape = Shape(
        height=height, width=width, frames=frames, margin=(down, across) if preset.camera else None
    )
    with torch.device("meta"):  # which takes neither memory nor time
        return sum(x.numel() for x in preset.network(shape, size).parameters())


def _hardness(differences: NDArray[np.float64], runs: Sequence[range]) -> tuple[float, ...]:
    """Return how hard a frame of each run is: what stands still is fitted once, what moves again and again."""
    # The first difference of a run is that from another one.
    hard = [
        1 + float(np.mean(differences[run.start + 1 : run.stop])) / STILL if len(run) > 1 else 1.0
        for run in runs
    ]
    mean = sum(value * len(run) for value, run in zip(hard, runs, strict=True)) / sum(
        map(len, runs)
    )
    return tuple(value / mean for value in hard)

"""Contenders of a comparison: networks and classic codecs that encode at several rates."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.codec.clip import Clip
from encoder.codec.reference_decoder import ReferenceDecoder
from encoder.common.errors import SettingsError
from encoder.compare import anchors
from encoder.compare.anchors import find_codec
from encoder.config import DEFAULT_SIZE, SIZES, FitConfig, SizeName
from encoder.jobs.gop import Progress
from encoder.jobs.job import open_encoder
from encoder.media.video import Video
from encoder.presets import complexity, find_preset

LAMBDAS = (0.02, 0.3)
"""Smallest and largest lambda of presets with a rate term."""

Pictures = Iterator[NDArray[np.uint8]]
"""RGB pictures (3, H, W)."""
Show = Callable[[Progress], None]
"""Function that takes the progress of a fit."""


@dataclass(frozen=True)
class File:
    """A video as a system has encoded it."""

    data: bytes
    macs_per_pixel: float | None = None
    """Multiplications of decoding per pixel; None for a classic codec."""


class Contender(ABC):
    """A system that encodes a video at several rates."""

    name: str
    rates: Sequence[str]
    suffix: str

    @abstractmethod
    def encode(self, video: Video, rate: str, show: Show) -> File:
        """Encode a video at a rate; `show` takes the progress."""

    @abstractmethod
    def decode(self, data: bytes, video: Video) -> Pictures:
        """Yield the decoded frames of a file; `video` is its source."""

    @abstractmethod
    def at(self, data: bytes, video: Video, times: Sequence[float]) -> Pictures:
        """Yield the frames of a file at rising times, in frames.

        Raises SettingsError for times between frames that the system cannot decode.
        """

    def file_name(self, rate: str) -> str:
        """Return a file name for a rate, safe for shells and file systems."""
        return f"{self.name}-{rate.replace(' ', '-')}{self.suffix}".replace("*", "star")


class AnchorContender(Contender):
    """A classic codec at several constant rate factors."""

    def __init__(self, name: str, rates: int) -> None:
        """Raise SettingsError for an unknown codec."""
        self.name = name
        self._codec = find_codec(name)
        self.rates = [f"crf {factor}" for factor in self._codec.rates(rates)]
        self.suffix = f".{self._codec.form}"

    def encode(self, video: Video, rate: str, show: Show) -> File:
        """Encode a video; raises SettingsError if the codec cannot."""
        del show
        return File(anchors.encode(video, self._codec, int(rate.removeprefix("crf "))))

    def decode(self, data: bytes, video: Video) -> Pictures:
        """Yield the frames of a file."""
        height, width = video.frames.shape[2:]
        return anchors.decode(data, self._codec, height=height, width=width)

    def at(self, data: bytes, video: Video, times: Sequence[float]) -> Pictures:
        """Yield the frames at times; raises SettingsError for times between frames."""
        if not all(float(time).is_integer() for time in times):
            raise SettingsError("classic codecs have no frames in between: leave --codecs out")
        return (frame for index, frame in enumerate(self.decode(data, video)) if index in times)


class NetworkContender(Contender):
    """A preset at several lambdas, or, without a rate term, in several sizes as in papers."""

    suffix = ".nerv"

    def __init__(self, name: str, rates: int, config: FitConfig, device: torch.device) -> None:
        """Raise SettingsError for an unknown preset, or more rates than it has sizes."""
        self.name = name
        self._preset = find_preset(name)
        self._config = replace(config, preset=name)
        self._device = device
        if self._preset.recipe.lambda_ and config.bits is None:
            self.rates = [f"lambda {weight:.3g}" for weight in np.geomspace(*LAMBDAS, rates)]
        elif rates > len(SIZES):
            raise SettingsError(f"preset {name} has {len(SIZES)} sizes, got {rates} rates")
        else:
            self.rates = [f"size {size}" for size in SIZES[:rates]]

    def encode(self, video: Video, rate: str, show: Show) -> File:
        """Fit the preset's network to a video and encode it."""
        lambda_ = float(rate.split()[1]) if rate.startswith("lambda") else None
        sizes: dict[str, SizeName] = {f"size {size}": size for size in SIZES}
        config = replace(self._config, lambda_=lambda_, size=sizes.get(rate, DEFAULT_SIZE))
        budget = config.limit(video.count)
        encoder = open_encoder(
            video,
            config,
            device=self._device,
            settings=f"compare --preset {self.name}, {rate}, {budget}, seed {config.seed}",
        )
        for progress in encoder.run(budget):
            show(progress)
        found = complexity(self._preset, config.size, encoder.shape)
        return File(bytes(encoder.clip()), found.macs_per_pixel)

    def decode(self, data: bytes, video: Video) -> Pictures:
        """Yield the frames of a file, by the reference decoder."""
        del video
        return ReferenceDecoder(Clip.parse(data)).frames()

    def at(self, data: bytes, video: Video, times: Sequence[float]) -> Pictures:
        """Yield the frames at times.

        Raises SettingsError for times between frames if the preset is not continuous.
        """
        del video
        if not (self._preset.continuous or all(float(time).is_integer() for time in times)):
            raise SettingsError(f"preset {self.name} has no frames in between")
        return map(ReferenceDecoder(Clip.parse(data)).frame, times)


def frame_at(system: str, data: bytes, video: Video, time: float) -> NDArray[np.uint8]:
    """Return the frame (3, H, W) of a system's file at a time, in frames."""
    if system in anchors.CODECS:
        return next(AnchorContender(system, 1).at(data, video, [time]))
    return ReferenceDecoder(Clip.parse(data)).frame(time)

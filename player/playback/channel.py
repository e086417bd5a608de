"""Channels: a clip, or several clips one after another, for viewers to choose from."""

import contextlib
import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from encoder.common.errors import CodecError
from player.metrics import Metrics
from player.playback.clip_source import ClipSource
from player.playback.playout import Playout
from player.playback.thumbnail import jpeg
from player.rtc.video_encoder import pick_bitrate

LEAST_BITRATE = 100_000
"""Least bits per second of a ladder's rung."""
ALL_CLIPS = "all clips"
"""Name of the channel that plays all clips."""

logger = logging.getLogger(__name__)


class Channel:
    """A clip or a playlist: the playout that its viewers share, and private ones."""

    def __init__(
        self,
        name: str,
        sources: Sequence[ClipSource],
        metrics: Metrics,
        *,
        bitrate: int | None = None,
        stamp: bool = False,
        keep: bool = False,
    ) -> None:
        """Take the options of the shared playout, which are those of `Playout`."""
        self.name = name
        self.sources = sources
        self.counts = metrics.of(name)
        self._open = partial(Playout, sources, self.counts, bitrate=bitrate, stamp=stamp)
        self.shared = self._open(keep=keep)
        self.private: set[Playout] = set()
        """Playouts of one viewer each."""
        self.family: Sequence[Channel] = [self]
        """The channels of all rungs of a ladder, the lowest first; or the channel alone."""
        self.thumbnail: bytes | None = None
        """A small JPEG of the clip; None until it is decoded."""

    @property
    def is_playlist(self) -> bool:
        """Whether it plays more than one clip."""
        return len(self.sources) > 1

    @property
    def rung(self) -> int:
        """Number of its rung, from 0, the lowest."""
        return self.family.index(self)

    @property
    def active(self) -> "Channel":
        """The channel itself, or another rung with viewers if it has none."""
        watched = [each for each in (self, *self.family) if each.shared.viewers]
        return watched[0] if watched else self

    def in_step(self, playout: Playout) -> list[Playout]:
        """Return the other playouts with the timeline of one of this channel's.

        The shared playouts of all rungs have the same timeline.
        """
        if playout is not self.shared:
            return []
        return [each.shared for each in self.family if each is not self]

    @property
    def streams(self) -> list[Playout]:
        """All playouts that may have viewers."""
        return [self.shared, *self.private]

    def open_private(self, spare: Playout | None = None) -> Playout:
        """Return a private playout, which starts where the shared one is.

        `spare` is a former private playout of this channel, to be reused unless it is closed.
        """
        stream = self._open() if spare is None or spare.is_closed else spare
        if stream.source is not self.shared.source:
            stream.play_source(self.sources.index(self.shared.source))
        leader = self.active.shared
        stream.seek(leader.frame)
        stream.playing = leader.playing
        stream.loop = leader.loop
        stream.set_speed(leader.speed)
        self.private.add(stream)
        return stream

    def draw_thumbnail(self) -> None:
        """Decode a picture for the thumbnail, which takes seconds."""
        source = self.sources[0]
        try:
            with contextlib.closing(source.open_engine(())) as engine:
                time = np.array([source.clip.end // 3], np.float64)
                self.thumbnail = jpeg(engine.frames(time)[0])
        except CodecError as error:
            logger.warning("no small picture of %s: %s", self.name, error)
        except Exception:
            # The thumbnails of other channels follow all the same.
            logger.exception("no small picture of %s", self.name)

    def close(self) -> None:
        """End all threads and wait for them."""
        for stream in self.streams:
            stream.close()
        for source in self.sources:
            source.close()


def make_channels(
    sources: Sequence[ClipSource],
    metrics: Metrics,
    *,
    bitrate: int | None = None,
    stamp: bool = False,
) -> dict[str, Channel]:
    """Return channels by name: one for each clip, and one for all clips if there are several.

    The first channel keeps its engine while it has no viewers.
    """
    make = partial(Channel, metrics=metrics, stamp=stamp)
    channels: dict[str, Channel] = {}
    for index, source in enumerate(sources):
        rungs = source.rungs or [source]
        middle = len(rungs) // 2
        family = [
            make(
                source.name,
                [rung],
                bitrate=_bitrate(rung, rungs, bitrate),
                keep=index == 0 and place == middle,
            )
            for place, rung in enumerate(rungs)
        ]
        for channel in family:
            channel.family = family
        channels[source.name] = family[middle]
    if len(sources) > 1:
        name = ALL_CLIPS
        while name in channels:
            name += "+"
        channels[name] = make(name, sources, bitrate=bitrate)
    return channels


def _bitrate(rung: ClipSource, rungs: Sequence[ClipSource], bitrate: int | None) -> int | None:
    """Return the bitrate of a rung: smaller frames, and smaller files of them, get less of it."""
    if len(rungs) == 1:
        return bitrate

    def usual(source: ClipSource) -> int:
        header = source.clip.header
        return pick_bitrate(header.width, header.height, header.rate)

    def picture_bytes(source: ClipSource) -> int:
        return max(source.file_bytes - source.clip.extra_bytes, 1)

    size = rung.clip.header.even_size
    equal = [each for each in rungs if each.clip.header.even_size == size]
    share = picture_bytes(rung) / max(map(picture_bytes, equal))
    if bitrate is not None:
        share *= bitrate / max(map(usual, rungs))
    return max(round(usual(rung) * share), LEAST_BITRATE)

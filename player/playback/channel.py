"""What viewers choose among: a clip, or several that are played one after another."""

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

ALL_CLIPS = "all clips"
"""The channel that plays all."""

logger = logging.getLogger(__name__)


class Channel:
    """A clip or a playlist: the stream that its viewers share, and streams of their own."""

    def __init__(
        self,
        name: str,
        items: Sequence[ClipSource],
        metrics: Metrics,
        *,
        bitrate: int | None = None,
        stamp: bool = False,
        keep: bool = False,
    ) -> None:
        """Take options of the streams: see `Stream`."""
        self.name = name
        self.items = items
        self.counts = metrics.of(name)
        self._open = partial(Playout, items, self.counts, bitrate=bitrate, stamp=stamp)
        self.shared = self._open(keep=keep)
        self.private: set[Playout] = set()
        """Streams of one viewer each."""
        self.thumbnail: bytes | None = None
        """JPEG, once it is decoded."""

    @property
    def is_playlist(self) -> bool:
        """Whether it plays more than one clip."""
        return len(self.items) > 1

    @property
    def streams(self) -> list[Playout]:
        """All streams."""
        return [self.shared, *self.private]

    def open_private(self, spare: Playout | None = None) -> Playout:
        """Return a stream of its own timeline, which starts where the shared one is: a new one, or one that was left."""
        stream = self._open() if spare is None else spare
        if stream.item is not self.shared.item:
            stream.play_item(self.shared.items.index(self.shared.item))
        stream.seek(self.shared.frame)
        stream.playing = self.shared.playing
        stream.loop = self.shared.loop
        stream.set_speed(self.shared.speed)
        self.private.add(stream)
        return stream

    def draw_thumbnail(self) -> None:
        """Decode a picture; takes a while."""
        item = self.items[0]
        try:
            with contextlib.closing(item.open_engine(())) as engine:
                self.thumbnail = jpeg(engine.frames(np.array([item.clip.end // 3], np.float64))[0])
        except CodecError as error:
            logger.warning("no small picture of %s: %s", self.name, error)
        except Exception:
            logger.exception(
                "no small picture of %s", self.name
            )  # those of the others come all the same

    def close(self) -> None:
        """End all threads, and wait for them."""
        for stream in self.streams:
            stream.close()
        for item in self.items:
            item.close()


def make_channels(
    items: Sequence[ClipSource],
    metrics: Metrics,
    *,
    bitrate: int | None = None,
    stamp: bool = False,
) -> dict[str, Channel]:
    """Return a channel for each clip, and one that plays all if there are several; the first keeps its engine."""
    make = partial(Channel, metrics=metrics, bitrate=bitrate, stamp=stamp)
    channels = {
        item.name: make(item.name, [item], keep=index == 0) for index, item in enumerate(items)
    }
    if len(items) > 1:
        name = ALL_CLIPS
        while name in channels:
            name += "+"
        channels[name] = make(name, items)
    return channels

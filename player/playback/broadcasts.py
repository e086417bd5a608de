"""The output of a playout: a broadcast for each codec."""

import asyncio
from collections.abc import Mapping
from fractions import Fraction

from export.engines.base import Frames
from player.metrics import ClipMetrics
from player.playback.clock import SYSTEM_CLOCK, Clock
from player.playback.latency_stamp import stamped
from player.rtc.fanout import Broadcast, ViewerTrack
from player.rtc.sound_sender import Part
from player.rtc.video_encoder import CODECS, CodecName

MAX_INTERVAL_SECONDS = 1.0
"""Bound of the measured time between two pictures; longer times are pauses without viewers."""


class Broadcasts:
    """The broadcasts of all codecs, each an encoder with its viewers."""

    def __init__(
        self,
        counts: ClipMetrics,
        *,
        bitrate: int | None = None,
        stamp: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Encode at a number of bits per second, or at one that fits the size of the pictures.

        Draw the time into each picture if `stamp` is true.
        """
        self.stamp = stamp
        self._counts = counts
        self._clock = clock
        self._broadcasts: Mapping[CodecName, Broadcast] = {
            codec: Broadcast(codec, counts, bitrate=bitrate) for codec in CODECS
        }
        self._sent_at = clock.monotonic()

    @property
    def viewers(self) -> list[ViewerTrack]:
        """The viewers of all codecs; for the event loop's thread."""
        return [viewer for broadcast in self._broadcasts.values() for viewer in broadcast.viewers]

    @property
    def has_viewers(self) -> bool:
        """Whether somebody watches; for any thread."""
        return any(broadcast.viewers for broadcast in self._broadcasts.values())

    @property
    def encode_fps(self) -> float:
        """Frames per second of the fastest encoder without waiting."""
        return max(broadcast.meter.per_busy_second for broadcast in self._broadcasts.values())

    @property
    def bitrate(self) -> float:
        """Bits per second of all encoders together."""
        return sum(broadcast.bits.per_second for broadcast in self._broadcasts.values())

    def join(self, viewer: ViewerTrack) -> None:
        """Send packets of the viewer's codec to a viewer; for the event loop's thread."""
        self._broadcasts[viewer.codec].join(viewer)

    def leave(self, viewer: ViewerTrack) -> None:
        """Send no more packets to a viewer; for the event loop's thread."""
        self._broadcasts[viewer.codec].leave(viewer)

    def send(
        self,
        picture: Frames,
        pts: int,
        rate: Fraction,
        events: asyncio.AbstractEventLoop,
        sound: Part | None = None,
    ) -> None:
        """Encode an I420 picture (H * 3 / 2, W) for each codec that has viewers.

        `pts` is its time in units of 1 / CLOCK_RATE seconds; `rate` is in frames per second.
        `sound` plays with it.
        """
        pixels = stamped(picture, self._clock.unix()) if self.stamp else picture
        now = self._clock.monotonic()
        self._counts.interval_seconds.observe(min(now - self._sent_at, MAX_INTERVAL_SECONDS))
        self._sent_at = now
        for broadcast in self._broadcasts.values():
            if broadcast.viewers:
                broadcast.send(pixels, pts, rate, events, sound)

    def rest(self) -> None:
        """Give the encoders back."""
        for broadcast in self._broadcasts.values():
            broadcast.rest()

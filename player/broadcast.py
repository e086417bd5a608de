"""One encode for all viewers of a codec: packets are handed to each, and key frames made when one asks."""

import asyncio
from collections.abc import Callable
from fractions import Fraction

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from export.engine import Frames
from player.meter import Meter
from player.video_encoder import CLOCK_RATE, CodecName, Packet, VideoEncoder

KEYFRAME_TICKS = CLOCK_RATE // 2
"""Least time from one key frame to the next, however many viewers ask."""


class Viewer(MediaStreamTrack):
    """One viewer's track."""

    kind = "video"

    def __init__(self, limit: int, request_keyframe: Callable[[], None]) -> None:
        """Let at most `limit` packets wait."""
        super().__init__()
        self.meter = Meter()
        """Frames that were handed to RTP."""
        self.dropped = 0
        """Packets that this viewer was too slow for."""
        self.request_keyframe = request_keyframe
        self._limit = limit
        self._packets: asyncio.Queue[Packet | None] = asyncio.Queue()
        self._needs_keyframe = True

    def push(self, packet: Packet) -> None:
        """Queue a packet. A viewer who falls behind loses what waits and goes on at the next key frame."""
        if self._needs_keyframe and not packet.is_keyframe:
            return
        if self._packets.qsize() >= self._limit:
            self.dropped += self._packets.qsize() + 1
            while not self._packets.empty():
                self._packets.get_nowait()
            self._needs_keyframe = True
            self.request_keyframe()
            return
        self._needs_keyframe = False
        self._packets.put_nowait(packet)

    async def recv(self) -> Packet:
        """Return the next packet: aiortc calls it, and sends packets as they are."""
        packet = await self._packets.get()
        if packet is None:
            raise MediaStreamError
        self.meter.add(1)
        return packet

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self._packets.put_nowait(None)


class Broadcast:
    """The viewers of a codec, and the encoder that works for them while there are any."""

    def __init__(self, codec: CodecName, width: int, height: int, rate: Fraction) -> None:
        self.viewers: set[Viewer] = set()
        self.meter = Meter()
        """Frames that were encoded."""
        self.bits = Meter()
        """Bits that came out."""
        self._make_encoder = lambda: VideoEncoder(codec, width, height, rate)
        self._encoder: VideoEncoder | None = None
        self._wanted = False
        self._last_keyframe: int | None = None

    def request_keyframe(self) -> None:
        """Make one of the next frames a key frame; may be called from any thread."""
        self._wanted = True

    def send(self, picture: Frames, pts: int, events: asyncio.AbstractEventLoop) -> None:
        """Encode a picture, shown at a time in ticks of CLOCK_RATE, and let the event loop hand it to the viewers."""
        if self._encoder is None:
            self._encoder = self._make_encoder()
        keyframe = self._wanted and (self._last_keyframe is None or pts - self._last_keyframe >= KEYFRAME_TICKS)
        if keyframe:
            self._wanted, self._last_keyframe = False, pts
        with self.meter.measure(1):
            packets = self._encoder.encode(picture, pts, keyframe=keyframe)
        self.bits.add(8 * sum(packet.size for packet in packets))
        events.call_soon_threadsafe(self._push, packets)

    def _push(self, packets: list[Packet]) -> None:
        for packet in packets:
            for viewer in self.viewers:
                viewer.push(packet)

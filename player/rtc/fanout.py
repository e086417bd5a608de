"""One encode for all viewers of a codec: packets are handed to each, and key frames made when one asks."""

import asyncio
from fractions import Fraction

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from export.engines.base import Frames
from player.metrics import ClipMetrics, Meter
from player.rtc.rtp_sender import EncodedFrame, Packetizer
from player.rtc.video_encoder import CLOCK_RATE, CodecName, VideoEncoder

WAITING_PACKETS = 15
"""Packets that may wait for a viewer before he counts as too slow."""
LOSS_TICKS = CLOCK_RATE // 2
"""Least time from one key frame to the next, however many viewers have lost packets."""
JOIN_TICKS = CLOCK_RATE // 10
"""Least time from one key frame to the next for viewers who have no picture yet."""


class ViewerTrack(MediaStreamTrack):
    """One viewer's track; he may change from one broadcast to another."""

    kind = "video"

    def __init__(self, codec: CodecName, *, limit: int = WAITING_PACKETS) -> None:
        """Let at most `limit` packets wait."""
        super().__init__()
        self.codec: CodecName = codec
        self.meter = Meter()
        """Frames that were handed to RTP."""
        self.dropped = 0
        """Packets that this viewer was too slow for."""
        self.broadcast: Broadcast | None = None
        self.payload_type: int | None = None
        """Number that the viewer gave to packets of this codec, if it is not the connection's."""
        self._limit = limit
        self._packets: asyncio.Queue[EncodedFrame | None] = asyncio.Queue()
        self._needs_keyframe = True

    @property
    def waiting(self) -> int:
        """Number of packets that wait."""
        return self._packets.qsize()

    def picture_lost(self) -> None:
        """Ask for a key frame, as aiortc does for a receiver who lost a picture."""
        if self.broadcast is not None:
            self.broadcast.counts.pictures_lost.inc()
            self.broadcast.request_keyframe()

    def push(self, packet: EncodedFrame) -> None:
        """Queue a frame. A viewer who falls behind loses what waits and goes on at the next key frame."""
        if self._needs_keyframe and not packet.is_keyframe:
            return
        if self._packets.qsize() >= self._limit:
            lost = self._packets.qsize() + 1
            self.dropped += lost
            self.flush()
            if self.broadcast is not None:
                self.broadcast.counts.dropped.inc(lost)
                self.broadcast.request_keyframe()
            return
        self._needs_keyframe = False
        self._packets.put_nowait(packet)

    def flush(self) -> None:
        """Forget what waits, and take nothing before a key frame."""
        while not self._packets.empty():
            self._packets.get_nowait()
        self._needs_keyframe = True

    async def recv(self) -> EncodedFrame:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next frame; raises MediaStreamError at the end."""
        packet = await self._packets.get()
        if packet is None:
            raise MediaStreamError
        self.meter.add(1)
        if self.broadcast is not None:
            self.broadcast.counts.sent.inc()
            self.broadcast.counts.sent_bytes.inc(packet.size)
        return packet

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self.flush()
        self._packets.put_nowait(None)


class Broadcast:
    """The viewers of a codec, and the encoder that works for them while there are any."""

    def __init__(
        self, codec: CodecName, counts: ClipMetrics, *, bitrate: int | None = None
    ) -> None:
        """Take bits per second, or leave them to the encoder."""
        self.viewers: set[ViewerTrack] = set()
        self.counts = counts
        self.meter = Meter(observe=counts.encode_seconds(codec))
        """Frames that were encoded."""
        self.bits = Meter()
        """Bits that came out."""
        self._encoded = counts.encoded(codec)
        self._keyframes = counts.keyframes(codec)
        self._codec: CodecName = codec
        self._bitrate = bitrate
        self._cutter = Packetizer(codec)
        self._encoder: VideoEncoder | None = None
        self._makes: tuple[tuple[int, ...], Fraction] | None = None
        """Shape of a picture and the rate that the encoder is for."""
        self._lost = self._joined = False
        self._last_keyframe: int | None = None

    def join(self, viewer: ViewerTrack) -> None:
        """Send packets to a viewer, from a key frame on."""
        viewer.flush()
        viewer.broadcast = self
        self.viewers.add(viewer)
        self._joined = True

    def leave(self, viewer: ViewerTrack) -> None:
        """Send no more packets to a viewer."""
        self.viewers.discard(viewer)
        if viewer.broadcast is self:
            viewer.broadcast = None

    def request_keyframe(self) -> None:
        """Make one of the next frames a key frame; may be called from any thread."""
        self._lost = True

    def send(
        self, picture: Frames, pts: int, rate: Fraction, events: asyncio.AbstractEventLoop
    ) -> None:
        """Encode a picture, shown at a time in ticks of CLOCK_RATE, and let the event loop hand it to the viewers."""
        if self._encoder is None or self._makes != (picture.shape, rate):
            self._makes = picture.shape, rate
            self._encoder = VideoEncoder(
                self._codec,
                picture.shape[1],
                picture.shape[0] * 2 // 3,
                rate,
                bitrate=self._bitrate,
            )
            self._last_keyframe = None
        keyframe = self._is_keyframe_due(pts)
        if keyframe:
            self._lost = self._joined = False
            self._last_keyframe = pts
            self._keyframes.inc()
        with self.meter.measure(1):
            packets = self._encoder.encode(picture, pts, keyframe=keyframe)
        self._encoded.inc()
        self.bits.add(8 * sum(packet.size for packet in packets))
        events.call_soon_threadsafe(self._push, list(map(self._cutter.cut, packets)))

    def rest(self) -> None:
        """Give the encoder back, since nobody watches."""
        self._encoder = None

    def _is_keyframe_due(self, pts: int) -> bool:
        if self._last_keyframe is None:
            return True
        waited = pts - self._last_keyframe
        return (self._joined and waited >= JOIN_TICKS) or (self._lost and waited >= LOSS_TICKS)

    def _push(self, packets: list[EncodedFrame]) -> None:
        for packet in packets:
            for viewer in self.viewers:
                viewer.push(packet)

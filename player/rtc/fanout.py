"""One encode for all viewers of a codec: each frame goes to every viewer's queue."""

import asyncio
from fractions import Fraction

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from export.engines.base import Frames
from player.metrics import ClipMetrics, Meter
from player.rtc.rtp_sender import EncodedFrame, Packetizer
from player.rtc.sound_sender import Part, SoundSender
from player.rtc.video_encoder import CLOCK_RATE, CodecName, VideoEncoder

QUEUE_FRAMES = 15
"""Encoded frames that may wait for a viewer, before the viewer counts as too slow."""
LOSS_TICKS = CLOCK_RATE // 2
"""Least time between two key frames, however many viewers have lost a picture."""
JOIN_TICKS = CLOCK_RATE // 10
"""Least time between two key frames for viewers that have no picture yet."""


class ViewerTrack(MediaStreamTrack):
    """The track of one viewer, which can change from one broadcast to another."""

    kind = "video"

    def __init__(self, codec: CodecName, *, limit: int = QUEUE_FRAMES) -> None:
        """Let at most `limit` frames wait."""
        super().__init__()
        self.codec: CodecName = codec
        self.meter = Meter()
        """Frames that were handed to RTP."""
        self.dropped = 0
        """Frames that this viewer was too slow for."""
        self.pictures_lost = 0
        """Requests of its receiver for key frames."""
        self.packets_lost = 0
        """Requests of its receiver for packets that were lost."""
        self.broadcast: Broadcast | None = None
        self.sound: SoundSender | None = None
        """Sender of the sound, if the viewer takes any."""
        self.payload_type: int | None = None
        """RTP payload type that the viewer gave to the codec, if it is not the connection's."""
        self._limit = limit
        self._frames: asyncio.Queue[EncodedFrame | None] = asyncio.Queue()
        self._needs_keyframe = True

    @property
    def waiting(self) -> int:
        """Number of frames that wait."""
        return self._frames.qsize()

    def picture_lost(self) -> None:
        """Ask for a key frame, as a receiver's PLI or FIR does."""
        self.pictures_lost += 1
        if self.broadcast is not None:
            self.broadcast.counts.pictures_lost.inc()
            self.broadcast.request_keyframe()

    def packet_lost(self) -> None:
        """Note that a packet is asked for again, by a receiver's NACK."""
        self.packets_lost += 1

    def push(self, frame: EncodedFrame) -> None:
        """Queue a frame. A viewer that falls behind loses its queue and waits for a key frame."""
        if self._needs_keyframe and not frame.is_keyframe:
            return
        if self._frames.qsize() >= self._limit:
            lost = self._frames.qsize() + 1
            self.dropped += lost
            self.flush()
            if self.broadcast is not None:
                self.broadcast.counts.dropped.inc(lost)
                self.broadcast.request_keyframe()
            return
        self._needs_keyframe = False
        self._frames.put_nowait(frame)

    def flush(self) -> None:
        """Empty the queue, and take nothing before the next key frame."""
        while not self._frames.empty():
            self._frames.get_nowait()
        self._needs_keyframe = True

    async def recv(self) -> EncodedFrame:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the next frame; raises MediaStreamError at the end."""
        frame = await self._frames.get()
        if frame is None:
            raise MediaStreamError
        self.meter.add(1)
        if self.broadcast is not None:
            self.broadcast.counts.sent.inc()
            self.broadcast.counts.sent_bytes.inc(frame.size)
        return frame

    def stop(self) -> None:
        """End the track."""
        super().stop()
        self.flush()
        self._frames.put_nowait(None)


class Broadcast:
    """The viewers of one codec, and the video encoder that runs while there are any."""

    def __init__(
        self, codec: CodecName, counts: ClipMetrics, *, bitrate: int | None = None
    ) -> None:
        """Encode at a bitrate in bits per second, or at one that fits the picture."""
        self.viewers: set[ViewerTrack] = set()
        self.counts = counts
        self.meter = Meter(observe=counts.encode_seconds(codec).observe)
        """Encoded frames."""
        self.bits = Meter()
        """Bits of the encoded frames."""
        self._encoded = counts.encoded(codec)
        self._keyframes = counts.keyframes(codec)
        self._codec: CodecName = codec
        self._bitrate = bitrate
        self._packetizer = Packetizer(codec)
        self._encoder: VideoEncoder | None = None
        self._encodes: tuple[tuple[int, ...], Fraction] | None = None
        """Picture shape and frame rate that the encoder was opened for."""
        self._is_picture_lost = False
        self._has_newcomer = False
        self._last_keyframe: int | None = None
        """Time of the last key frame, in ticks of CLOCK_RATE."""

    def join(self, viewer: ViewerTrack) -> None:
        """Send frames to a viewer, from the next key frame on."""
        viewer.flush()
        viewer.broadcast = self
        self.viewers.add(viewer)
        self._has_newcomer = True

    def leave(self, viewer: ViewerTrack) -> None:
        """Send no more frames to a viewer."""
        self.viewers.discard(viewer)
        if viewer.broadcast is self:
            viewer.broadcast = None

    def request_keyframe(self) -> None:
        """Make one of the next frames a key frame; may be called from any thread."""
        self._is_picture_lost = True

    def send(
        self,
        picture: Frames,
        pts: int,
        frame_rate: Fraction,
        events: asyncio.AbstractEventLoop,
        sound: Part | None = None,
    ) -> None:
        """Encode an I420 picture (H * 3 / 2, W), and let the event loop queue it for the viewers.

        The presentation time is in ticks of CLOCK_RATE. `sound` plays with the picture.
        """
        encoder = self._encoder
        if encoder is None or self._encodes != (picture.shape, frame_rate):
            encoder = self._open_encoder(picture, frame_rate)
        is_keyframe = self._is_keyframe_due(pts)
        if is_keyframe:
            self._is_picture_lost = False
            self._has_newcomer = False
            self._last_keyframe = pts
            self._keyframes.inc()
        with self.meter.measure(1):
            packets = encoder.encode(picture, pts, keyframe=is_keyframe)
        self._encoded.inc()
        self.bits.add(8 * sum(packet.size for packet in packets))
        frames = list(map(self._packetizer.packetize, packets))
        events.call_soon_threadsafe(self._push, frames, sound)

    def rest(self) -> None:
        """Close the encoder, because there are no viewers."""
        self._encoder = None

    def _open_encoder(self, picture: Frames, frame_rate: Fraction) -> VideoEncoder:
        width = picture.shape[1]
        height = picture.shape[0] * 2 // 3
        self._encoder = VideoEncoder(self._codec, width, height, frame_rate, bitrate=self._bitrate)
        self._encodes = picture.shape, frame_rate
        self._last_keyframe = None
        return self._encoder

    def _is_keyframe_due(self, pts: int) -> bool:
        if self._last_keyframe is None:
            return True
        waited = pts - self._last_keyframe
        return (self._has_newcomer and waited >= JOIN_TICKS) or (
            self._is_picture_lost and waited >= LOSS_TICKS
        )

    def _push(self, frames: list[EncodedFrame], sound: Part | None) -> None:
        for frame in frames:
            for viewer in self.viewers:
                viewer.push(frame)
        if sound is not None:
            for viewer in self.viewers:
                if viewer.sound is not None:
                    viewer.sound.push(sound)

"""A send loop for frames that are cut into payloads once for all viewers.

aiortc cuts each frame into payloads and builds each packet anew for every viewer, which is most of
the cost of a viewer. `run` replaces its loop. Retransmission, RTCP and encryption stay with aiortc.
"""

import logging
import time
from random import getrandbits
from struct import Struct
from typing import Protocol

from aiortc.clock import current_ntp_time
from aiortc.codecs import get_encoder
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTP_HISTORY_SIZE, HeaderExtensions, RtpPacket
from aiortc.utils import uint32_add

from player.rtc.aiortc_hooks import SenderInternals
from player.rtc.video_encoder import CLOCK_RATE, CodecName, Packet

HEADER = Struct("!BBHLL")
"""Fixed header of an RTP packet (RFC 3550, section 5.1)."""
EXTENSION_HEADER = Struct("!HH")
"""Profile and length of the header extension, in words of 4 bytes (RFC 3550, section 5.3.1)."""
VERSION_BITS = 2 << 6
EXTENSION_BIT = 1 << 4
MARKER_SHIFT = 7
MAX_SEQUENCE_NUMBER = (1 << 16) - 1

logger = logging.getLogger(__name__)


class EncodedFrame:
    """An encoded frame, cut into the payloads of RTP packets."""

    def __init__(self, packet: Packet, payloads: list[bytes]) -> None:
        assert packet.pts is not None  # our encoder sets it
        self.is_keyframe = packet.is_keyframe
        self.size = packet.size
        self.pts = packet.pts
        self.payloads = payloads


class Packetizer:
    """Cuts a codec's frames into payloads (RFC 6184, RFC 7741), of one encoder after another."""

    def __init__(self, codec: CodecName) -> None:
        parameters = RTCRtpCodecParameters(
            mimeType=f"video/{codec}", clockRate=CLOCK_RATE, payloadType=0
        )
        self._encoder: Encoder = get_encoder(parameters)

    def packetize(self, packet: Packet) -> EncodedFrame:
        """Return the frame of an encoder's packet with its payloads."""
        return EncodedFrame(packet, self._encoder.pack(packet)[0])


class FrameTrack(Protocol):
    """A track of encoded frames."""

    payload_type: int | None
    """RTP payload type that the viewer gave to the codec, if it is not the connection's."""

    async def recv(self) -> EncodedFrame:
        """Return the next frame; raises MediaStreamError at the end."""
        ...

    def stop(self) -> None:
        """End the track."""
        ...


async def run(sender: SenderInternals, track: FrameTrack, codec: RTCRtpCodecParameters) -> None:
    """Send a track's frames until the track or the connection ends."""
    assert codec.payloadType is not None  # it was negotiated
    sender.mark_started()
    try:
        stream = RtpStream(sender, track.payload_type or codec.payloadType)
        while True:
            await stream.send(await track.recv())
    except (ConnectionError, MediaStreamError):
        pass
    except Exception:
        logger.exception("sending ended")  # nobody waits for this task
    finally:
        track.stop()
        sender.mark_exited()


def clock_timestamp(origin: int, rate: int) -> int:
    """Return the RTP timestamp of this moment, in a stream whose times are the monotonic clock's.

    Reports tell it with the NTP time of the same moment (RFC 3550, section 6.4.1). A timestamp of
    what was sent last would be off by the time that encoding took, and sound from the picture.
    `origin` is the stream's timestamp at the clock's origin; `rate` is in ticks per second.
    """
    return (origin + round(time.monotonic() * rate)) & 0xFFFFFFFF


class RtpStream:
    """The RTP packets of one SSRC: their numbers, and their times."""

    def __init__(
        self,
        sender: SenderInternals,
        payload_type: int,
        *,
        sequence_number: int | None = None,
        timestamp_origin: int | None = None,
    ) -> None:
        """Begin at random numbers (RFC 3550, section 5.1) where none are given."""
        self._sender = sender
        self._payload_type = payload_type
        self._extensions = HeaderExtensions(mid=sender.mid)
        # SRTP counts how often these 16 bits wrap around (RFC 3711, section 3.3.1). A receiver that
        # misses the first wrap-around decrypts nothing, so the first number is in the lower half.
        self._sequence_number = getrandbits(15) if sequence_number is None else sequence_number
        self._timestamp_origin = getrandbits(32) if timestamp_origin is None else timestamp_origin
        self._packet_count = 0
        self._octet_count = 0

    async def send(self, frame: EncodedFrame) -> None:
        """Send a frame's packets; raises ConnectionError."""
        sender = self._sender
        ntp_time = current_ntp_time()
        # abs-send-time is 24 bits: 6 of seconds, 18 of their fraction.
        self._extensions.abs_send_time = (ntp_time >> 14) & 0x00FFFFFF
        profile, values = sender.extensions_map.set(self._extensions)
        extension = EXTENSION_HEADER.pack(profile, len(values) // 4) + values if values else b""
        first_byte = VERSION_BITS | (EXTENSION_BIT if values else 0)
        timestamp = uint32_add(self._timestamp_origin, frame.pts)
        protect, protocol, address = sender.path()
        last = len(frame.payloads) - 1
        if frame.is_keyframe:
            # Older packets, sent again, would be of no use, and fill a line that is too narrow.
            sender.history.clear()
        # This body runs for each packet of each viewer: calls in it are what a viewer costs.
        for index, payload in enumerate(frame.payloads):
            marker = index == last  # the frame's last packet (RFC 6184, 5.1; RFC 7741, 4.1)
            sequence_number = self._sequence_number
            self._sequence_number = (sequence_number + 1) & MAX_SEQUENCE_NUMBER
            packet = RtpPacket(
                self._payload_type, int(marker), sequence_number, timestamp, sender.ssrc, payload
            )
            packet.extensions = self._extensions
            sender.history[sequence_number % RTP_HISTORY_SIZE] = packet
            header = HEADER.pack(
                first_byte,
                (marker << MARKER_SHIFT) | self._payload_type,
                sequence_number,
                timestamp,
                sender.ssrc,
            )
            await protocol.send_data(protect(b"".join((header, extension, payload))), address)
        self._packet_count += len(frame.payloads)
        self._octet_count += sum(map(len, frame.payloads))
        sender.set_counters(
            ntp_timestamp=current_ntp_time(),
            rtp_timestamp=clock_timestamp(self._timestamp_origin, CLOCK_RATE),
            octet_count=self._octet_count,
            packet_count=self._packet_count,
        )

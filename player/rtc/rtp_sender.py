"""Send one encode to many viewers: what is alike for all is made once, and the rest by as little work as it takes.

aiortc cuts each frame into payloads and builds each packet anew for every viewer, which is most of what a viewer costs. `run`
takes the place of its loop, and leaves to it what it does besides: retransmissions, reports, encryption.
"""

import contextlib
import logging
import time
from random import getrandbits
from struct import Struct
from typing import Any, cast

from aioice.ice import StunProtocol
from aiortc import RTCRtpSender
from aiortc.codecs import get_encoder
from aiortc.codecs.base import Encoder
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcdtlstransport import State
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTP_HISTORY_SIZE, HeaderExtensions, RtpPacket

from player.rtc.video_encoder import CLOCK_RATE, CodecName, Packet

HEADER = Struct("!BBHLL")
EXTENSION = Struct("!HH")
"""A packet's header and that of its extensions (RFC 3550, section 5)."""
VERSION = 0x80
EXTENDED = 0x10
MARKER = 0x80
MAX_SEQUENCE = 0xFFFF
MAX_TIMESTAMP = 0xFFFFFFFF
NTP_EPOCH_SECONDS = 2_208_988_800
"""From 1900, where NTP's time begins, to 1970."""
PRIVATE = ("rtp_started", "rtp_exited", "rtp_history", "rtp_header_extensions_map", "mid", "track")
"""What aiortc's loop shares with the rest of its sender, besides what it counts."""
COUNTED = ("ntp_timestamp", "rtp_timestamp", "octet_count", "packet_count")


logger = logging.getLogger(__name__)


class EncodedFrame:
    """An encoded frame, cut into the payloads of packets."""

    def __init__(self, packet: Packet, payloads: list[bytes]) -> None:
        assert packet.pts is not None  # our encoder sets it
        self.is_keyframe = packet.is_keyframe
        self.size = packet.size
        self.pts = packet.pts
        self.payloads = payloads


class Packetizer:
    """Cuts a codec's frames into payloads (RFC 6184, RFC 7741); the frames are of one encoder after another."""

    def __init__(self, codec: CodecName) -> None:
        parameters = RTCRtpCodecParameters(
            mimeType=f"video/{codec}", clockRate=CLOCK_RATE, payloadType=0
        )
        self._encoder: Encoder = get_encoder(parameters)

    def cut(self, packet: Packet) -> EncodedFrame:
        """Return a frame with its payloads."""
        return EncodedFrame(packet, self._encoder.pack(packet)[0])


def is_supported(sender: RTCRtpSender) -> bool:
    """Return whether a sender, which is not connected yet, is as `run` needs it; raises AttributeError where it is not."""
    transport: Any = sender.transport
    with contextlib.suppress(ConnectionError):
        _way(transport)
    named = all(hasattr(sender, _own(name)) for name in (*PRIVATE, *COUNTED)) and hasattr(
        sender, "_run_rtp"
    )
    return named and hasattr(transport, "_tx_srtp") and hasattr(StunProtocol, "send_data")


async def run(sender: RTCRtpSender, codec: RTCRtpCodecParameters) -> None:
    """Send what a sender's track gives until that ends, or the connection."""
    track = sender.track
    getattr(sender, _own("rtp_started")).set()
    try:
        loop = _Loop(sender, codec)
        while True:
            await loop.send(await cast("Any", track).recv())
    except (ConnectionError, MediaStreamError):
        pass
    except Exception:
        logger.exception("sending ended")  # nobody waits for this task
    finally:
        track.stop()
        setattr(sender, _own("track"), None)
        getattr(sender, _own("rtp_exited")).set()


class _Loop:
    """What goes on from one frame to the next."""

    def __init__(self, sender: Any, codec: RTCRtpCodecParameters) -> None:
        assert codec.payloadType is not None  # it was agreed on
        self._sender = sender
        self._ssrc = sender._ssrc  # noqa: SLF001
        self._payload_type = sender.track.payload_type or codec.payloadType
        self._history = getattr(sender, _own("rtp_history"))
        self._map = getattr(sender, _own("rtp_header_extensions_map"))
        self._extensions = HeaderExtensions(mid=getattr(sender, _own("mid")))
        # The first half, so that encryption does not meet a wrap-around before it has seen much.
        self._sequence = getrandbits(15)
        self._origin = getrandbits(32)
        self._packets = self._octets = 0

    async def send(self, coded: EncodedFrame) -> None:
        """Send a frame's packets; raises ConnectionError."""
        now = time.time()
        ntp = (int(now) + NTP_EPOCH_SECONDS << 32) | int(now % 1 * (1 << 32))
        self._extensions.abs_send_time = ntp >> 14 & 0xFFFFFF
        profile, values = self._map.set(self._extensions)
        extension = EXTENSION.pack(profile, len(values) >> 2) + values if values else b""
        timestamp = self._origin + coded.pts & MAX_TIMESTAMP
        protect, protocol, address = _way(self._sender.transport)
        last = len(coded.payloads) - 1
        for index, payload in enumerate(coded.payloads):
            head = self._head(payload, timestamp, EXTENDED if values else 0, is_last=index == last)
            await protocol.send_data(protect(b"".join((head, extension, payload))), address)
        self._count(coded, ntp, timestamp)

    def _head(self, payload: bytes, timestamp: int, flags: int, *, is_last: bool) -> bytes:
        """Return the next packet's header, and keep the packet in case that it is lost."""
        sequence = self._sequence
        self._sequence = self._sequence + 1 & MAX_SEQUENCE
        packet = RtpPacket(
            self._payload_type, int(is_last), sequence, timestamp, self._ssrc, payload
        )
        packet.extensions = self._extensions
        self._history[sequence % RTP_HISTORY_SIZE] = packet
        return HEADER.pack(
            VERSION | flags, MARKER * is_last | self._payload_type, sequence, timestamp, self._ssrc
        )

    def _count(self, coded: EncodedFrame, ntp: int, timestamp: int) -> None:
        self._packets += len(coded.payloads)
        self._octets += sum(map(len, coded.payloads))
        for name, value in zip(COUNTED, (ntp, timestamp, self._octets, self._packets), strict=True):
            setattr(self._sender, _own(name), value)


def _way(transport: Any) -> tuple[Any, Any, Any]:
    """Return what encrypts for a connection, and where to; raises ConnectionError if it is not connected."""
    pair = transport.transport._connection._nominated.get(1)  # noqa: SLF001
    if transport._state != State.CONNECTED or pair is None:  # noqa: SLF001
        raise ConnectionError
    return transport._tx_srtp.protect, pair.protocol, pair.remote_addr  # noqa: SLF001


def _own(name: str) -> str:
    """Return the name of what is a sender's alone."""
    return f"_RTCRtpSender__{name}"

"""A viewer's sound: Opus packets as RTP (RFC 7587), over the transport of the viewer's video.

The answer of `player.rtc.answer` bundles both, so aiortc need not know of the sound.
"""

import asyncio
import logging
import time as clock
from collections import deque
from dataclasses import dataclass
from random import getrandbits

from aiortc.clock import current_ntp_time
from aiortc.rtp import AnyRtcpPacket, RtcpSdesPacket, RtcpSenderInfo, RtcpSourceInfo, RtcpSrPacket
from aiortc.utils import uint32_add

from encoder.codec.sound import PACKET_SAMPLES, RATE
from player.rtc.aiortc_hooks import SenderInternals
from player.rtc.rtp_sender import (
    HEADER,
    MARKER_SHIFT,
    MAX_SEQUENCE_NUMBER,
    VERSION_BITS,
    clock_timestamp,
)

QUEUE_PARTS = 50
"""Parts of the sound that may wait for a viewer; older ones are dropped."""
REPORT_SAMPLES = RATE
"""Time between two RTCP sender reports, by which receivers keep sound and pictures in time."""
MAX_WAIT_SECONDS = 0.1
"""Bound of the time that a packet waits for its turn."""
CNAME = 1
"""Type of the item of a source description that names the sender (RFC 3550, section 6.5.1)."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """The packets that play with a picture."""

    packets: tuple[bytes, ...]
    time: int
    """Time of the picture, in samples at 48 kHz on the clock of all playouts."""
    lead: int
    """Samples from the picture to the first packet."""


class SoundSender:
    """The RTP packets of a viewer's sound."""

    def __init__(self, sender: SenderInternals, payload_type: int) -> None:
        """Take the sender of the video, and the payload type that the viewer gave to Opus."""
        self.ssrc = sender.ssrc ^ (getrandbits(31) | 1)
        self._sender = sender
        self._payload_type = payload_type
        self._parts = deque[Part](maxlen=QUEUE_PARTS)
        self._arrived = asyncio.Event()
        # In the lower half, as the video's first number.
        self._sequence_number = getrandbits(15)
        self._origin = getrandbits(32)
        self._following: int | None = None
        """Time of the packet after the last, in samples."""
        self._reported: int | None = None
        """Time of the last report, in samples."""
        self._packets = 0
        self._octets = 0

    def push(self, part: Part) -> None:
        """Queue a part."""
        self._parts.append(part)
        self._arrived.set()

    async def run(self) -> None:
        """Send the parts until the connection ends."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._parts:
                    await self._send(self._parts.popleft())
        except ConnectionError:
            pass
        except Exception:
            logger.exception("sending of sound ended")  # nobody waits for this task

    async def _send(self, part: Part) -> None:
        protect, protocol, address = self._sender.path()
        time = part.time + part.lead
        # The clip's frames and packets are not of the same length: packets in a row stay in a row.
        following = self._following
        is_start = following is None or abs(time - following) >= PACKET_SAMPLES
        if not is_start and following is not None:
            time = following
        for packet in part.packets:
            # A receiver takes packets that come in bursts for a line that jitters, and plays later.
            if (seconds := time / RATE - clock.monotonic()) > 0:
                await asyncio.sleep(min(seconds, MAX_WAIT_SECONDS))
            if self._parts and self._parts[0].time < time - PACKET_SAMPLES:
                break  # a seek has cut the part short
            header = HEADER.pack(
                VERSION_BITS,
                is_start << MARKER_SHIFT | self._payload_type,  # after silence (RFC 7587, 4.2)
                self._sequence_number,
                uint32_add(self._origin, time & 0xFFFFFFFF),
                self.ssrc,
            )
            self._sequence_number = self._sequence_number + 1 & MAX_SEQUENCE_NUMBER
            await protocol.send_data(protect(header + packet), address)
            self._packets += 1
            self._octets += len(packet)
            time += PACKET_SAMPLES
            is_start = False
        self._following = time
        if self._reported is None or part.time - self._reported >= REPORT_SAMPLES:
            self._reported = part.time
            await self._sender.send_rtcp(self._report())

    def _report(self) -> list[AnyRtcpPacket]:
        """Return a report of the time now on the clock of the sound's timestamps."""
        information = RtcpSenderInfo(
            ntp_timestamp=current_ntp_time(),
            rtp_timestamp=clock_timestamp(self._origin, RATE),
            packet_count=self._packets & 0xFFFFFFFF,
            octet_count=self._octets & 0xFFFFFFFF,
        )
        name = RtcpSourceInfo(ssrc=self.ssrc, items=[(CNAME, self._sender.cname.encode())])
        return [
            RtcpSrPacket(ssrc=self.ssrc, sender_info=information),
            RtcpSdesPacket(chunks=[name]),
        ]

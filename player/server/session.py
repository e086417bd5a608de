"""A viewer's session: its connection, its playout, and its statistics."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from aiortc import RTCPeerConnection, RTCRtpSender

from player.playback.channel import Channel
from player.playback.playout import Playout
from player.rtc.fanout import ViewerTrack

MAX_MOVES = 8
"""Changes to another playout that a viewer may make within MOVES_SECONDS."""
MOVES_SECONDS = 10.0
LOSS_UNIT = 256
"""Denominator of RTCP's fraction lost (RFC 3550, section 6.4.1)."""


@dataclass
class ViewerSession:
    """A viewer's connection, and the playout that it carries."""

    connection: RTCPeerConnection
    viewer: ViewerTrack
    channel: Channel
    playout: Playout
    address: str
    may_control: bool
    """Whether the viewer may control playouts that others watch too."""
    clock: Callable[[], float] = time.monotonic
    sender: RTCRtpSender | None = None
    """Sender of the video; None until the offer is answered."""
    mids: frozenset[str] = frozenset()
    """Names of the sections of the viewer's description that share the transport."""
    candidates: int = 0
    """Number of candidates that the viewer sent after its offer."""
    report: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Measurements of the viewer's page."""
    rtt_seconds: float | None = None
    """Round-trip time, by RTCP."""
    loss: float | None = None
    """Fraction of the packets lost lately, by RTCP."""
    reported: datetime | None = None
    """Time of the last RTCP receiver report, by aiortc's clock."""
    heard_at: float = 0.0
    """Time by `clock` at which a poll found a new receiver report, or the viewer connected."""
    supervisor: asyncio.Task[None] | None = None
    """Task that ends the session if the viewer does not connect, or is not heard any more."""
    follower: asyncio.Task[None] | None = None
    """Task that keeps the viewer on the rung that fits its line."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the viewer has answered a counter-offer."""
    has_joined: bool = False
    """Whether the viewer has ever been connected."""
    chooses_rung: bool = True
    """Whether the rung of a ladder follows from the viewer's line."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Lock of a change to another rung."""
    moves: deque[float] = field(default_factory=lambda: deque[float](maxlen=MAX_MOVES))
    """Times by `clock` of the last changes to another playout."""

    @property
    def is_private(self) -> bool:
        """Whether the playout is the viewer's own."""
        return self.playout is not self.channel.shared

    @property
    def has_moved_too_often(self) -> bool:
        """Whether the viewer must wait before its next change to another playout."""
        return len(self.moves) == MAX_MOVES and self.clock() - self.moves[0] < MOVES_SECONDS

    async def poll_stats(self) -> None:
        """Read the viewer's last RTCP receiver report."""
        if self.sender is None:
            return
        for entry in (await self.sender.getStats()).values():
            if entry.type == "remote-inbound-rtp":
                self.rtt_seconds = entry.roundTripTime
                self.loss = entry.fractionLost / LOSS_UNIT
                if entry.timestamp != self.reported:
                    self.reported = entry.timestamp
                    self.heard_at = self.clock()

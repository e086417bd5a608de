"""WebRTC sessions: one peer connection a viewer, from his offer (WHEP, draft-ietf-wish-whep) to his leaving."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from aiortc import RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from player.playback.channel import Channel
from player.playback.playout import Playout
from player.rtc.aiortc_hooks import SDP_ERRORS, add_viewer
from player.rtc.fanout import ViewerTrack
from player.rtc.ice import Ice
from player.rtc.offer import Offer, UnacceptableError
from player.rtc.sdp import DescriptionError, with_information
from player.server.clients import client_of

CONNECT_SECONDS = 15.0
"""Time for a viewer to connect after the offer is answered."""
COUNTER_OFFER_SECONDS = 30.0
"""Time for a viewer to answer a counter-offer (draft-ietf-wish-whep, section 4.2)."""
ANSWER_SECONDS = 10.0
"""Time to answer an offer."""
LOOK_SECONDS = 5.0
"""Time between two looks at whether a viewer is still there."""
RETRY_SECONDS = 10
"""When to try again where there is no room."""
MAX_MOVES = 8
MOVES_SECONDS = 10.0
"""Changes to another timeline that a viewer may make in a time."""
LOSS_UNIT = 256
"""What RTCP counts a loss in (RFC 3550, section 6.4.1)."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class CounterOfferError(Exception):
    """An offer has no codec in common with ours: this is what a viewer may answer instead."""

    def __init__(self, name: str, offer: str) -> None:
        super().__init__("the offer has no codec in common with ours")
        self.name = name
        self.offer = offer


class RefusedError(Exception):
    """An offer or a wish is not taken."""

    def __init__(
        self, status: HTTPStatus, reason: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_seconds = retry_seconds


@dataclass(frozen=True)
class Limits:
    """How much a server takes on."""

    viewers: int = 32
    per_address: int = 8
    """Viewers of one IP address."""
    private: int = 2
    """Timelines of one viewer each: an engine and a video encoder each."""
    idle_seconds: float = 60.0
    """Time without a sign of a viewer after which he counts as gone."""


@dataclass
class Session:
    """A viewer's connection and what he watches."""

    connection: RTCPeerConnection
    viewer: ViewerTrack
    channel: Channel
    stream: Playout
    address: str
    may_control: bool
    """Whether he may control what others watch too."""
    sender: RTCRtpSender | None = None
    """What sends him the video, once his offer is answered."""
    mids: frozenset[str] = frozenset()
    """Names of the sections of the viewer's description that share the transport."""
    candidates: int = 0
    """Addresses that he named after his offer."""
    report: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """What his page told of itself."""
    rtt_seconds: float | None = None
    loss: float | None = None
    """Fraction of the packets that were lost on the way lately."""
    reported: datetime | None = None
    """When he last reported what he received, by RTCP."""
    heard: float = field(default_factory=time.monotonic)
    """The same by the monotonic clock, or when he offered."""
    attendant: asyncio.Task[None] | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the viewer has answered a counter-offer."""
    has_joined: bool = False
    """Whether the viewer has ever been connected."""
    moves: deque[float] = field(default_factory=lambda: deque[float](maxlen=MAX_MOVES))
    """When the viewer last changed to another timeline, by the monotonic clock."""

    @property
    def is_private(self) -> bool:
        """Whether he has a timeline of his own."""
        return self.stream is not self.channel.shared

    async def poll_stats(self) -> None:
        """Read what the viewer reported by RTCP."""
        if self.sender is None:
            return
        for entry in (await self.sender.getStats()).values():
            if entry.type == "remote-inbound-rtp":
                self.rtt_seconds = entry.roundTripTime
                self.loss = entry.fractionLost / LOSS_UNIT
                if entry.timestamp != self.reported:
                    self.reported = entry.timestamp
                    self.heard = time.monotonic()


class Sessions:
    """All viewers of a server."""

    def __init__(self, limits: Limits | None = None, ice: Ice | None = None) -> None:
        self.limits = limits or Limits()
        self.ice = ice or Ice()
        self.draining = False
        """Whether no new viewer is let in."""
        self.emptied = asyncio.Event()
        """Set while there are no viewers."""
        self.emptied.set()
        self._sessions: dict[str, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()
        """Private streams that are being closed, which takes a while."""
        self._spare: list[tuple[Channel, Playout]] = []
        """Private streams that nobody watches, whose engines are kept for who wants one next."""

    def __len__(self) -> int:
        """Return the number of viewers."""
        return len(self._sessions)

    def __getitem__(self, name: str) -> Session:
        """Return a session; raises KeyError."""
        return self._sessions[name]

    @property
    def all(self) -> Sequence[Session]:
        """All sessions."""
        return list(self._sessions.values())

    @property
    def private_left(self) -> int:
        """Number of private timelines that are still to be had."""
        return self._private_room(None)

    def _private_room(self, mover: Session | None) -> int:
        """Return the number of private timelines to be had, by a session that gives its own one back, if any."""
        others = sum(
            session.is_private for session in self._sessions.values() if session is not mover
        )
        return self.limits.private - others - len(self._closing)

    async def open(
        self,
        offer: str,
        channel: Channel,
        *,
        address: str,
        may_control: bool = True,
        private: bool = False,
    ) -> tuple[str, str]:
        """Return the session's name and the answer to an offer (SDP).

        Raises RefusedError, and CounterOfferError for an offer without a codec of ours.
        """
        self._check_room(address, private=private)
        try:
            parsed = Offer.parse(offer)
        except DescriptionError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        open_session = partial(
            self._open, channel, address=address, may_control=may_control, private=private
        )
        try:
            choice = parsed.choices()[0]
        except UnacceptableError as error:
            name, counter = await self._guarded(
                open_session(viewer=ViewerTrack("H264"), negotiate=_offer_all)
            )
            raise CounterOfferError(name, with_information(counter, str(error))) from None
        viewer = ViewerTrack(choice.codec)
        viewer.payload_type = choice.format.number

        async def negotiate(session: Session) -> str:
            session.mids = parsed.transport_mids
            session.sender = add_viewer(session.connection, viewer).sender
            return parsed.answer(
                await _answer(session.connection, parsed.for_aiortc(choice)), choice
            )

        return await self._guarded(open_session(viewer=viewer, negotiate=negotiate))

    async def take_answer(self, session: Session, answer: str) -> None:
        """Take a viewer's answer to the offer that it got instead of an answer; raises RefusedError."""
        if session.connection.signalingState != "have-local-offer":
            raise RefusedError(HTTPStatus.CONFLICT, "no answer is waited for")
        try:
            parsed = Offer.parse(answer)
            choice = parsed.choices()[0]
        except DescriptionError as error:
            raise RefusedError(
                HTTPStatus.BAD_REQUEST, str(error).replace("offer", "answer")
            ) from None
        session.viewer.codec = choice.codec
        session.viewer.payload_type = choice.format.number
        session.mids = parsed.transport_mids
        description = RTCSessionDescription(parsed.for_aiortc(choice), "answer")
        await self._guarded(session.connection.setRemoteDescription(description))
        session.answered.set()

    async def _guarded(self, negotiation: Awaitable[Result]) -> Result:
        """Wait for aiortc, whose errors are for nobody to see; raises RefusedError."""
        try:
            return await negotiation
        except SDP_ERRORS as error:
            logger.debug("no answer: %r", error)
            raise RefusedError(HTTPStatus.BAD_REQUEST, "offer cannot be answered") from None
        except TimeoutError:
            raise _full("offer takes too long to answer") from None

    def _check_room(self, address: str, *, private: bool) -> None:
        if self.draining:
            raise _full("the server is about to stop")
        if len(self._sessions) >= self.limits.viewers:
            raise _full("too many viewers")
        client = client_of(address)
        theirs = sum(client_of(session.address) == client for session in self._sessions.values())
        if theirs >= self.limits.per_address:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many viewers from this address",
                retry_seconds=RETRY_SECONDS,
            )
        if private and self.private_left <= 0:
            raise _full("no private timeline is left")

    def _take_private(self, channel: Channel) -> Playout:
        """Return a private stream of a channel: a spare one, whose engine is there already, or a new one."""
        self._spare = [(other, stream) for other, stream in self._spare if not stream.is_resting]
        for index, (other, stream) in enumerate(self._spare):
            if other is channel:
                del self._spare[index]
                return channel.open_private(stream)
        return channel.open_private()

    async def _open(
        self,
        channel: Channel,
        *,
        viewer: ViewerTrack,
        negotiate: Callable[[Session], Awaitable[str]],
        address: str,
        may_control: bool,
        private: bool,
    ) -> tuple[str, str]:
        """Return the name of a new session, and the description (SDP) that comes of its negotiation."""
        connection = RTCPeerConnection(self.ice.configuration)
        stream = self._take_private(channel) if private else channel.shared
        name = secrets.token_urlsafe(16)
        session = self._sessions[name] = Session(
            connection, viewer, channel, stream, address, may_control
        )
        self.emptied.clear()

        @connection.on("connectionstatechange")
        async def _changed() -> None:
            # He may have left between the change and this call.
            if connection.connectionState == "connected" and name in self._sessions:
                session.has_joined = True
                logger.info(
                    "viewer %s of %s joined (%s, %d in all)",
                    address,
                    session.channel.name,
                    viewer.codec,
                    len(self),
                )
                session.stream.join(viewer)
            elif connection.connectionState in ("failed", "closed"):
                await self.close(name)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                description = await negotiate(session)
        except BaseException:
            await self.close(name)
            raise
        self._trim()
        session.attendant = asyncio.create_task(self._attend(name, session))
        return name, self.ice.answer(description)

    def move(self, session: Session, channel: Channel, *, private: bool) -> None:
        """Let a viewer watch another channel, or by a timeline of his own or the shared one; raises RefusedError."""
        if (channel, private) == (session.channel, session.is_private):
            return
        now = time.monotonic()
        if len(session.moves) == MAX_MOVES and now - session.moves[0] < MOVES_SECONDS:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "too many changes", retry_seconds=round(MOVES_SECONDS)
            )
        if private and self._private_room(session) <= 0:
            raise _full("no private timeline is left")
        before = session.stream
        before_channel = session.channel
        was_private = session.is_private
        session.moves.append(now)
        before.leave(session.viewer)
        session.stream = self._take_private(channel) if private else channel.shared
        session.channel = channel
        if was_private:
            self._discard(before_channel, before)
        self._trim()
        if session.connection.connectionState == "connected":
            session.stream.join(session.viewer)

    async def close(self, name: str) -> bool:
        """End a session; return whether there was one of that name."""
        session = self._sessions.pop(name, None)
        if session is None:
            return False
        if not self._sessions:
            self.emptied.set()
        if session.has_joined:
            logger.info(
                "viewer %s of %s left (%d remain)", session.address, session.channel.name, len(self)
            )
        if session.attendant is not None and session.attendant is not asyncio.current_task():
            session.attendant.cancel()
        session.stream.leave(session.viewer)
        session.viewer.stop()
        if session.is_private:
            self._discard(session.channel, session.stream)
        await session.connection.close()
        return True

    async def close_all(self) -> None:
        """End all sessions."""
        await asyncio.gather(
            *(self.close(name) for name in list(self._sessions)), return_exceptions=True
        )
        for _, stream in self._spare:
            self._end(stream)
        self._spare.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _discard(self, channel: Channel, stream: Playout) -> None:
        """Keep a private stream that nobody watches any more for the next who wants one; it rests by itself after a while."""
        channel.private.discard(stream)
        if stream.error is None:
            self._spare.append((channel, stream))
            self._trim()
        else:
            self._end(stream)

    def _trim(self) -> None:
        """End the oldest spare streams, as far as there are more private streams than there may be."""
        excess = len(self._spare) - max(self.private_left, 0)
        for _, stream in self._spare[: max(excess, 0)]:
            self._end(stream)
        del self._spare[: max(excess, 0)]

    def _end(self, stream: Playout) -> None:
        """Close a stream, whose threads may take a while, in the background."""
        closing = asyncio.create_task(asyncio.to_thread(stream.close))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _attend(self, name: str, session: Session) -> None:
        """End a session whose viewer does not connect, or is not heard of any more."""
        if session.connection.signalingState == "have-local-offer":
            try:
                await asyncio.wait_for(session.answered.wait(), COUNTER_OFFER_SECONDS)
            except TimeoutError:
                await self.close(name)
                return
        await asyncio.sleep(CONNECT_SECONDS)
        session.heard = time.monotonic()  # from when on he is expected to report
        while session.connection.connectionState == "connected":
            await asyncio.sleep(LOOK_SECONDS)
            await session.poll_stats()
            # Not whether this look brought news: his page and others look, too.
            if time.monotonic() - session.heard >= self.limits.idle_seconds:
                break
        await self.close(name)


def _full(reason: str) -> RefusedError:
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_seconds=RETRY_SECONDS)


async def _offer_all(session: Session) -> str:
    """Return our offer of all codecs."""
    session.sender = add_viewer(session.connection, session.viewer, any_codec=True).sender
    await session.connection.setLocalDescription(await session.connection.createOffer())
    return session.connection.localDescription.sdp


async def _answer(connection: RTCPeerConnection, offer: str) -> str:
    await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    return connection.localDescription.sdp

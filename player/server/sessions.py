"""All WebRTC sessions of a server: one peer connection per viewer (WHEP, draft-ietf-wish-whep)."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from aiortc import RTCPeerConnection

from player.playback.channel import Channel
from player.rtc.codec_choice import CodecChoice, UnacceptableError, choose_codecs
from player.rtc.fanout import ViewerTrack
from player.rtc.ice import Ice
from player.rtc.offer import Offer
from player.rtc.peer_connection import (
    SDP_ERRORS,
    accept_answer,
    add_viewer,
    answer_offer,
    make_offer,
)
from player.rtc.sdp import DescriptionError, with_information
from player.server.errors import CounterOfferError, RefusedError, UnavailableError
from player.server.limits import Limits
from player.server.private_playouts import PrivatePlayouts
from player.server.rungs import change_rung, follow_line, join
from player.server.session import MOVES_SECONDS, ViewerSession

CONNECT_SECONDS = 15.0
"""Time for a viewer to connect after the offer is answered."""
COUNTER_OFFER_SECONDS = 30.0
"""Time for a viewer to answer a counter-offer (draft-ietf-wish-whep, section 4.2)."""
ANSWER_SECONDS = 10.0
"""Time to answer an offer."""
POLL_SECONDS = 5.0
"""Time between two checks whether a viewer is still there."""

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Sessions:
    """All viewers of a server."""

    def __init__(
        self,
        limits: Limits | None = None,
        ice: Ice | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.ice = ice or Ice()
        self.draining = False
        """Whether new viewers are refused."""
        self.emptied = asyncio.Event()
        """Set while there are no viewers."""
        self.emptied.set()
        self._clock = clock
        self._sessions: dict[str, ViewerSession] = {}
        self._private = PrivatePlayouts(self.limits.private)

    def __len__(self) -> int:
        """Return the number of viewers."""
        return len(self._sessions)

    def __getitem__(self, name: str) -> ViewerSession:
        """Return a session; raises KeyError."""
        return self._sessions[name]

    @property
    def all(self) -> Sequence[ViewerSession]:
        """All sessions."""
        return list(self._sessions.values())

    @property
    def private_left(self) -> int:
        """Number of private timelines that are still to be had."""
        return self._private.left

    async def open(
        self,
        offer: str,
        channel: Channel,
        *,
        address: str,
        may_control: bool = True,
        private: bool = False,
    ) -> tuple[str, str]:
        """Return the name of a new session, and the answer to an offer (SDP).

        Raises RefusedError, and CounterOfferError for an offer without a codec of ours.
        """
        if self.draining:
            raise UnavailableError("the server is about to stop")
        self.limits.check_room(address, [session.address for session in self.all])
        if private and self._private.left <= 0:
            raise UnavailableError("no private timeline is left")
        try:
            parsed = Offer.parse(offer)
        except DescriptionError as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        open_session = partial(
            self._open, channel, address=address, may_control=may_control, private=private
        )
        try:
            choice = choose_codecs(parsed.video.formats)[0]
        except UnacceptableError as error:
            name, counter = await _guarded(open_session(ViewerTrack("H264"), _offer_all_codecs))
            raise CounterOfferError(name, with_information(counter, str(error))) from None
        negotiate = partial(_answer, offer=parsed, choice=choice)
        return await _guarded(open_session(ViewerTrack(choice.codec), negotiate))

    async def take_answer(self, session: ViewerSession, answer: str) -> None:
        """Take a viewer's answer to a counter-offer; raises RefusedError."""
        if session.connection.signalingState != "have-local-offer":
            raise RefusedError(HTTPStatus.CONFLICT, "no answer is waited for")
        try:
            parsed = Offer.parse(answer)
            choice = choose_codecs(parsed.video.formats)[0]
        except DescriptionError as error:
            reason = str(error).replace("offer", "answer")
            raise RefusedError(HTTPStatus.BAD_REQUEST, reason) from None
        session.viewer.codec = choice.codec
        session.viewer.payload_type = choice.format.payload_type
        session.mids = parsed.transport_mids
        await _guarded(accept_answer(session.connection, parsed, choice))
        session.answered.set()

    async def _open(
        self,
        channel: Channel,
        viewer: ViewerTrack,
        negotiate: Callable[[ViewerSession], Awaitable[str]],
        *,
        address: str,
        may_control: bool,
        private: bool,
    ) -> tuple[str, str]:
        """Return the name of a new session, and the description (SDP) that `negotiate` makes."""
        connection = RTCPeerConnection(self.ice.configuration)
        playout = self._private.take(channel) if private else channel.shared
        name = secrets.token_urlsafe(16)
        session = ViewerSession(
            connection, viewer, channel, playout, address, may_control, clock=self._clock
        )
        self._sessions[name] = session
        self.emptied.clear()

        @connection.on("connectionstatechange")
        async def _changed() -> None:
            # The session may have been closed between the change and this call.
            if connection.connectionState == "connected" and name in self._sessions:
                self._join(session)
            elif connection.connectionState in ("failed", "closed"):
                await self.close(name)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                description = await negotiate(session)
        except BaseException:
            await self.close(name)
            raise
        self._private.trim()
        session.supervisor = asyncio.create_task(self._supervise(name, session))
        session.follower = asyncio.create_task(follow_line(session, self._private))
        return name, self.ice.answer(description)

    def _join(self, session: ViewerSession) -> None:
        """Send the playout to a viewer that has connected."""
        session.has_joined = True
        logger.info(
            "viewer %s of %s joined (%s, %d in all)",
            session.address,
            session.channel.name,
            session.viewer.codec,
            len(self),
        )
        join(session)

    def move(self, session: ViewerSession, channel: Channel, *, private: bool) -> None:
        """Let a viewer watch another channel, or change between private and shared playouts.

        Raises RefusedError.
        """
        if (channel, private) == (session.channel, session.is_private):
            return
        self._check_moves(session)
        # A viewer that has a private playout gives it back.
        if private and self._private.left + session.is_private <= 0:
            raise UnavailableError("no private timeline is left")
        former = session.playout
        former_channel = session.channel
        was_private = session.is_private
        session.moves.append(self._clock())
        former.leave(session.viewer)
        session.playout = self._private.take(channel) if private else channel.shared
        session.channel = channel
        session.chooses_rung = session.chooses_rung or channel.family is not former_channel.family
        if was_private:
            self._private.give_back(former_channel, former)
        self._private.trim()
        if session.connection.connectionState == "connected":
            join(session)

    async def choose_rung(self, session: ViewerSession, rung: int | None) -> None:
        """Let a viewer watch a rung of its ladder, or leave the choice to its line if None.

        Raises RefusedError after too many choices.
        """
        self._check_moves(session)
        session.moves.append(self._clock())
        session.chooses_rung = rung is None
        if rung is not None:
            await change_rung(session, session.channel.family[rung], self._private)

    @staticmethod
    def _check_moves(session: ViewerSession) -> None:
        if session.has_moved_too_often:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "too many changes", retry_seconds=round(MOVES_SECONDS)
            )

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
        if session.supervisor is not None and session.supervisor is not asyncio.current_task():
            session.supervisor.cancel()
        if session.follower is not None:
            session.follower.cancel()
        session.playout.leave(session.viewer)
        session.viewer.stop()
        if session.is_private:
            self._private.give_back(session.channel, session.playout)
        await session.connection.close()
        return True

    async def close_all(self) -> None:
        """End all sessions, and the private playouts."""
        await asyncio.gather(
            *(self.close(name) for name in list(self._sessions)), return_exceptions=True
        )
        await self._private.close()

    async def _supervise(self, name: str, session: ViewerSession) -> None:
        """End a session whose viewer does not connect, or is not heard any more."""
        if session.connection.signalingState == "have-local-offer":
            try:
                await asyncio.wait_for(session.answered.wait(), COUNTER_OFFER_SECONDS)
            except TimeoutError:
                await self.close(name)
                return
        await asyncio.sleep(CONNECT_SECONDS)
        session.heard_at = self._clock()  # reports are due from now on
        while session.connection.connectionState == "connected":
            await asyncio.sleep(POLL_SECONDS)
            await session.poll_stats()
            # Not whether this poll brought a new report: the viewer's page and others poll, too.
            if self._clock() - session.heard_at >= self.limits.idle_seconds:
                break
        await self.close(name)


async def _guarded(negotiation: Awaitable[Result]) -> Result:
    """Wait for aiortc, and hide its errors from the viewer; raises RefusedError."""
    try:
        return await negotiation
    except SDP_ERRORS as error:
        logger.debug("no answer: %r", error)
        raise RefusedError(HTTPStatus.BAD_REQUEST, "offer cannot be answered") from None
    except TimeoutError:
        raise UnavailableError("offer takes too long to answer") from None


async def _answer(session: ViewerSession, offer: Offer, choice: CodecChoice) -> str:
    session.viewer.payload_type = choice.format.payload_type
    session.mids = offer.transport_mids
    session.sender = add_viewer(session.connection, session.viewer).sender
    return await answer_offer(session.connection, offer, choice, session.viewer)


async def _offer_all_codecs(session: ViewerSession) -> str:
    session.sender = add_viewer(session.connection, session.viewer, any_codec=True).sender
    return await make_offer(session.connection)

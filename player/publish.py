"""A WHIP client (RFC 9725): sends a stream to a media server, which carries the audience."""

import asyncio
import contextlib
import logging
from http import HTTPStatus
from itertools import chain, repeat
from types import TracebackType
from typing import Self

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription
from yarl import URL

from encoder.codec.errors import CodecError
from player.broadcast import Viewer
from player.ice import Ice
from player.peer import add_viewer
from player.retry import retry_after_seconds
from player.sessions import OFFER_ERRORS
from player.stream import Stream
from player.video_encoder import CodecName

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MAX_RETRY_SECONDS = 120.0
"""Longest wait that a server may ask for."""
CONNECT_SECONDS = 15.0
LOOK_SECONDS = 1.0
"""Time between two looks at whether the stream goes on."""
MAX_ANSWER_BYTES = 1 << 16
SDP = "application/sdp"
WORTH_RETRYING = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
"""Refusals that may pass, besides those of a server in trouble."""

logger = logging.getLogger(__name__)


class PublishError(CodecError):
    """A media server refuses for good."""


class LostError(Exception):
    """A connection cannot be made, or is lost; it may be possible later."""

    def __init__(self, reason: str, *, retry_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds


async def publish(stream: Stream, url: URL, *, token: str | None, codec: CodecName, ice: Ice) -> None:
    """Send a stream to a WHIP endpoint until cancelled; connects anew when the connection is lost.

    Raises PublishError where the server refuses for good.
    """
    waits = _waits()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS)) as client:
        while True:
            try:
                async with _Publication(stream, client, url, token=token, codec=codec, ice=ice) as publication:
                    logger.info("publishing %s to %s (%s)", stream.item.name, _shown(url), codec)
                    waits = _waits()
                    await publication.ended()
            except LostError as error:
                seconds = max(next(waits), error.retry_seconds)
                logger.warning("%s; trying again in %g s", error, seconds)
                await asyncio.sleep(seconds)


def _waits() -> chain[float]:
    return chain(BACKOFF_SECONDS, repeat(BACKOFF_SECONDS[-1]))


class _Publication:
    """A connection to a WHIP endpoint, from the offer to the leaving."""

    def __init__(
        self, stream: Stream, client: aiohttp.ClientSession, url: URL, *, token: str | None, codec: CodecName, ice: Ice
    ) -> None:
        self._lost = asyncio.Event()
        self._stream, self._client, self._url = stream, client, url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._viewer = Viewer(codec)
        self._connection = RTCPeerConnection(ice.configuration)
        self._resource: URL | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises PublishError or LostError."""
        connected = asyncio.Event()  # or failed to

        @self._connection.on("connectionstatechange")
        def _changed() -> None:
            if self._connection.connectionState == "connected":
                connected.set()
            elif self._connection.connectionState in ("failed", "closed"):
                self._lost.set()
                connected.set()

        try:
            add_viewer(self._connection, self._viewer)
            await self._connection.setLocalDescription(await self._connection.createOffer())
            answer = await self._offer(self._connection.localDescription.sdp)
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                await connected.wait()
        except TimeoutError:
            await self._close()
            raise LostError("the media server does not answer in time") from None
        except OFFER_ERRORS as error:
            await self._close()
            raise LostError(f"the media server's answer cannot be used: {error}") from None
        except BaseException:
            await self._close()
            raise
        if self._lost.is_set():
            await self._close()
            raise LostError("no connection to the media server")
        self._stream.join(self._viewer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave."""
        await self._close()

    async def ended(self) -> None:
        """Wait until the connection is lost, and raise LostError; or the stream ends, and raise PublishError."""
        while self._stream.error is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), LOOK_SECONDS)
                raise LostError("the connection was lost")
        raise PublishError(self._stream.error)

    async def _offer(self, sdp: str) -> str:
        """Return the answer to an offer."""
        headers = {**self._headers, "Content-Type": SDP, "Accept": SDP}
        try:
            async with self._client.post(self._url, data=sdp, headers=headers) as response:
                body = await _text(response)
                if response.status != HTTPStatus.CREATED or response.content_type != SDP:
                    raise _refusal(response, body)
                location = response.headers.get("Location")
                self._resource = response.url.join(URL(location)) if location else None
                return body
        except aiohttp.ClientError as error:
            raise LostError(f"cannot reach {_shown(self._url)}: {error}") from None

    async def _close(self) -> None:
        self._stream.leave(self._viewer)
        self._viewer.stop()
        await self._connection.close()
        if self._resource is not None:
            # The token is not for whoever a Location leads to.
            headers = self._headers if self._resource.origin() == self._url.origin() else {}
            try:
                async with self._client.delete(self._resource, headers=headers):
                    pass
            except (aiohttp.ClientError, TimeoutError) as error:
                logger.debug("the media server was not told: %s", error)


async def _text(response: aiohttp.ClientResponse) -> str:
    """Return a body, or as much of it as may be an answer."""
    body = b""
    async for block in response.content.iter_any():
        body += block
        if len(body) > MAX_ANSWER_BYTES:
            break
    return body[:MAX_ANSWER_BYTES].decode(errors="replace")


def _shown(url: URL) -> str:
    """Return a URL for people to read: its user and its query may be secrets."""
    return str(url.with_user(None).with_query(None))


def _refusal(response: aiohttp.ClientResponse, body: str) -> Exception:
    reason = f"the media server answers {response.status} {response.reason}: {' '.join(body.split())[:200]}".rstrip(": ")
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in WORTH_RETRYING:
        after = retry_after_seconds(response.headers.get("Retry-After", ""), most=MAX_RETRY_SECONDS)
        return LostError(reason, retry_seconds=after)
    return PublishError(reason)

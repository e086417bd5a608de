"""A WHIP client (RFC 9725): sends a stream to a media server, which carries the audience."""

import asyncio
import contextlib
import logging
import re
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import OperationError
from yarl import URL

from encoder.common.errors import CodecError
from player.playback.playout import Playout
from player.retry import TransientError, backoff_seconds, reason_of, retry_after_seconds
from player.rtc.aiortc_hooks import SenderInternals
from player.rtc.fanout import ViewerTrack
from player.rtc.ice import Ice
from player.rtc.peer_connection import SDP_ERRORS, add_viewer
from player.rtc.sound_offer import PAYLOAD_TYPE, with_sound, without_sound
from player.rtc.sound_sender import SoundSender
from player.rtc.video_encoder import CODECS, CodecName

RETRY_SECONDS = 1.0
"""Backoff after the first failure."""
MAX_RETRY_AFTER_SECONDS = 120.0
"""Longest backoff that a server may ask for."""
CONNECT_SECONDS = 15.0
LEAVE_SECONDS = 2.0
"""Time for a media server to take note that a publisher leaves."""
MAX_REDIRECTS = 5
REDIRECTS = frozenset({HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT})
"""Redirects of a POST that stays one."""
LOOK_SECONDS = 1.0
"""Time between two looks at whether the stream goes on."""
MAX_ANSWER_BYTES = 1 << 16
SDP = "application/sdp"
WORTH_RETRYING = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Refusals that may pass, besides those of a server in trouble."""

logger = logging.getLogger(__name__)


class PublishError(CodecError):
    """A media server refuses for good."""


async def publish(
    stream: Playout,
    url: URL,
    *,
    token: str | None,
    codec: CodecName,
    ice: Ice,
    follow_with_token: bool = False,
    retry_seconds: float = RETRY_SECONDS,
) -> None:
    """Send a stream to a WHIP endpoint until cancelled, and reconnect after a lost connection.

    With `follow_with_token`, other sites receive the token if the endpoint redirects to them.
    Raises PublishError if the server refuses for good.
    """
    failures = 0
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS)
    ) as client:
        begin = partial(
            _Publication,
            stream,
            client,
            url,
            token=token,
            codec=codec,
            ice=ice,
            follow_with_token=follow_with_token,
        )
        while True:
            try:
                async with begin() as publication:
                    logger.info("publishing %s to %s (%s)", stream.source.name, _shown(url), codec)
                    failures = 0
                    await publication.ended()
            except TransientError as error:
                failures += 1
                seconds = backoff_seconds(failures, retry_seconds, error)
                logger.warning("%s; trying again in %g s", error, seconds)
                await asyncio.sleep(seconds)


class _Publication:
    """A connection to a WHIP endpoint, from the offer to the leaving."""

    def __init__(
        self,
        stream: Playout,
        client: aiohttp.ClientSession,
        url: URL,
        *,
        token: str | None,
        codec: CodecName,
        ice: Ice,
        follow_with_token: bool,
    ) -> None:
        self._lost = asyncio.Event()
        self._stream = stream
        self._client = client
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._follow_with_token = follow_with_token
        self._viewer = ViewerTrack(codec)
        self._connection = RTCPeerConnection(ice.configuration)
        self._resource: URL | None = None

    async def __aenter__(self) -> Self:
        """Connect. Raises PublishError or TransientError."""
        connected = asyncio.Event()  # or failed to

        @self._connection.on("connectionstatechange")
        def _changed() -> None:
            if self._connection.connectionState == "connected":
                connected.set()
            elif self._connection.connectionState in ("failed", "closed"):
                self._lost.set()
                connected.set()

        try:
            sender = SenderInternals(add_viewer(self._connection, self._viewer).sender)
            await self._connection.setLocalDescription(await self._connection.createOffer())
            answer = await self._negotiated(sender, self._connection.localDescription.sdp)
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
                await connected.wait()
        except TimeoutError:
            await self._close()
            raise TransientError("the media server does not answer in time") from None
        except OperationError:
            await self._close()
            raise PublishError(self._other_codec) from None
        except SDP_ERRORS as error:
            await self._close()
            logger.debug("answer: %r", error)
            raise TransientError("the media server's answer cannot be used") from None
        except BaseException:
            await self._close()
            raise
        if self._lost.is_set():
            await self._close()
            raise TransientError("no connection to the media server")
        self._stream.join(self._viewer)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave."""
        await self._close()

    async def ended(self) -> None:
        """Wait for the end of the connection or the stream.

        Raises TransientError if the connection is lost, and PublishError if the stream ends.
        """
        while self._stream.error is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), LOOK_SECONDS)
                raise TransientError("the connection was lost")
        raise PublishError(self._stream.error)

    async def _negotiated(self, sender: SenderInternals, offer: str) -> str:
        """Return the answer about the video, and send sound as well if the server takes it.

        Raises the errors of `_offer`.
        """
        if all(source.clip.sound is None for source in self._stream.sources):
            return await self._offer(offer)
        sound = SoundSender(sender, PAYLOAD_TYPE)
        answer, is_taken = without_sound(await self._offer(with_sound(offer, sound.ssrc)))
        if is_taken:
            self._viewer.sound = sound
        else:
            logger.warning("the media server takes no sound")
        return answer

    @property
    def _other_codec(self) -> str:
        codec = self._viewer.codec
        other = next(each for each in CODECS if each != codec)
        return f"the media server does not take {codec}: try --codec {other}"

    async def _offer(self, sdp: str) -> str:
        """Return the answer to an offer. Raises PublishError or TransientError."""
        url = self._url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                headers = {**self._headers_for(url), "Content-Type": SDP, "Accept": SDP}
                async with self._client.post(
                    url, data=sdp, headers=headers, allow_redirects=False
                ) as response:
                    location = response.headers.get("Location")
                    if response.status in REDIRECTS and location:
                        url = _redirected(url, location)
                        continue
                    body = await _text(response)
                    if location and response.status in range(200, 300):
                        # As it is: a signature may be part of it.
                        self._resource = url.join(URL(location, encoded=True))
                    if response.status == HTTPStatus.CREATED and response.content_type == SDP:
                        if _refuses_video(body):
                            raise PublishError(self._other_codec)
                        return body
                    raise _refusal(response, body)
        except (aiohttp.ClientError, ValueError) as error:
            raise TransientError(f"cannot reach {_shown(self._url)}: {reason_of(error)}") from None
        raise PublishError(f"{_shown(self._url)} redirects more than {MAX_REDIRECTS} times")

    def _headers_for(self, url: URL) -> dict[str, str]:
        """Return the header with the token, or none for a site that must not receive it.

        Another site receives it only with `follow_with_token`, and only over TLS if ours uses TLS.
        """
        if url.origin() == self._url.origin():
            return self._headers
        is_weaker = self._url.scheme == "https" and url.scheme != "https"
        return self._headers if self._follow_with_token and not is_weaker else {}

    async def _close(self) -> None:
        self._stream.leave(self._viewer)
        self._viewer.stop()
        await self._connection.close()
        resource = self._resource
        self._resource = None
        if resource is not None:
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    async with self._client.delete(
                        resource, headers=self._headers_for(resource), allow_redirects=False
                    ):
                        pass
            except (
                aiohttp.ClientError,
                TimeoutError,
                ValueError,
            ) as error:  # among them an address without a host
                logger.debug("the media server was not told: %s", error)


def _redirected(url: URL, location: str) -> URL:
    """Return the address that a server redirects to. Raises PublishError unless it is of HTTP."""
    target = url.join(URL(location, encoded=True))
    if target.scheme not in ("http", "https") or not target.host:
        raise PublishError(f"{_shown(url)} redirects to an address that is not of HTTP")
    return target


def _refuses_video(answer: str) -> bool:
    """Return whether an answer turns the video down."""
    return re.search(r"(?m)^m=video 0 ", answer) is not None


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
    status = f"the media server answers {response.status} {response.reason}"
    reason = f"{status}: {' '.join(body.split())[:200]}".rstrip(": ")
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status in WORTH_RETRYING:
        after = retry_after_seconds(response.headers, most=MAX_RETRY_AFTER_SECONDS)
        return TransientError(reason, retry_seconds=after)
    return PublishError(reason)

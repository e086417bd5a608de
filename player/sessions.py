"""WebRTC sessions: one peer connection a viewer, from his offer (WHEP, draft-ietf-wish-whep) to his leaving."""

import asyncio
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import aioice.ice
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.rtcicetransport import parse_stun_turn_uri

from encoder.codec.errors import SettingsError
from player.broadcast import Viewer
from player.stream import Stream
from player.video_encoder import CODECS, CodecName

MAX_VIEWERS = 32
OFFER_ERRORS = (
    InvalidAccessError,
    InvalidStateError,
    OperationError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What aiortc raises for offers that are none: it takes them apart without looking first."""
MAX_PORT = 65535
CONNECT_SECONDS = 15.0
"""Time for a viewer to connect after his offer."""

INTERFACE_ADDRESSES = aioice.ice.get_host_addresses
"""aioice's own list: the addresses of all interfaces but loopback."""


class OfferError(Exception):
    """A viewer's offer cannot be answered."""


class FullError(Exception):
    """There are MAX_VIEWERS viewers already."""


@dataclass(frozen=True)
class _Session:
    connection: RTCPeerConnection
    viewer: Viewer
    stream: Stream


class Sessions:
    """All viewers of a server."""

    def __init__(self, *, host: str, stun: str | None = None) -> None:
        """Offer candidates for the addresses that the server is bound to; contact no STUN server unless one is given.

        Raises SettingsError for what is no STUN server's URL.
        """
        _check_hooks()
        if stun is not None:
            _check_stun(stun)
        _offer_addresses(host)
        self._servers = [RTCIceServer(stun)] if stun else []
        self._sessions: dict[str, _Session] = {}
        self._expiries: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of viewers."""
        return len(self._sessions)

    async def open(self, offer: str, stream: Stream) -> tuple[str, str]:
        """Return the session's name and the answer to an offer (SDP); raises OfferError or FullError."""
        if len(self._sessions) >= MAX_VIEWERS:
            raise FullError
        problem = f"offer has none of the codecs {', '.join(CODECS)}"
        for codec in CODECS:
            if f" {codec}/90000" not in offer:
                continue
            try:
                return await self._open(offer, stream, codec)
            except OFFER_ERRORS as error:
                # An offer of a codec in a profile that aiortc lacks may still name another codec.
                problem = f"offer cannot be answered: {error}"
        raise OfferError(problem)

    async def _open(self, offer: str, stream: Stream, codec: CodecName) -> tuple[str, str]:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=self._servers))
        viewer = stream.viewer(codec)
        name = secrets.token_urlsafe(16)
        self._sessions[name] = _Session(connection, viewer, stream)

        @connection.on("connectionstatechange")
        async def _changed() -> None:
            # He may have left between the change and this call.
            if connection.connectionState == "connected" and name in self._sessions:
                stream.join(codec, viewer)
            elif connection.connectionState in ("failed", "closed"):
                await self.close(name)

        try:
            answer = await _answer(connection, viewer, codec, offer)
        except BaseException:
            await self.close(name)
            raise
        expiry = asyncio.create_task(self._expire(name, connection))
        self._expiries.add(expiry)
        expiry.add_done_callback(self._expiries.discard)
        return name, answer

    async def close(self, name: str) -> bool:
        """End a session; return whether there was one of that name."""
        session = self._sessions.pop(name, None)
        if session is None:
            return False
        session.stream.leave(session.viewer)
        session.viewer.stop()
        await session.connection.close()
        return True

    async def close_all(self) -> None:
        """End all sessions."""
        for expiry in self._expiries:
            expiry.cancel()
        await asyncio.gather(*(self.close(name) for name in list(self._sessions)), return_exceptions=True)

    async def _expire(self, name: str, connection: RTCPeerConnection) -> None:
        await asyncio.sleep(CONNECT_SECONDS)
        if connection.connectionState != "connected":
            await self.close(name)


async def _answer(connection: RTCPeerConnection, viewer: Viewer, codec: CodecName, offer: str) -> str:
    transceiver = connection.addTransceiver(viewer, direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    transceiver.setCodecPreferences([c for c in known if c.mimeType in (f"video/{codec}", "video/rtx")])
    # aiortc forgets a receiver's request for a key frame where packets come encoded already.
    transceiver.sender._send_keyframe = viewer.request_keyframe  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    await connection.setRemoteDescription(RTCSessionDescription(_reachable(offer), "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    return connection.localDescription.sdp


def _reachable(offer: str) -> str:
    """Return an offer without mDNS candidates, which take a second each to resolve and then do not lead anywhere better.

    The end of candidates goes too: with no candidate left it would count as a failure, before the browser's own checks come.
    """
    return (
        "\r\n".join(line for line in offer.splitlines() if ".local " not in line and "end-of-candidates" not in line) + "\r\n"
    )


def _offer_addresses(host: str) -> None:
    """Make aioice offer the addresses that the server is bound to; by itself it never offers loopback."""
    every = ipaddress.ip_address(host).is_unspecified

    def addresses(**families: bool) -> Sequence[str]:
        return ["127.0.0.1", *INTERFACE_ADDRESSES(**families)] if every else [host]

    aioice.ice.get_host_addresses = addresses


def _check_stun(url: str) -> None:
    try:
        parsed = parse_stun_turn_uri(url)
    except ValueError:
        parsed = {}
    if parsed.get("scheme") != "stun" or not 0 < parsed["port"] <= MAX_PORT:
        raise SettingsError(f"a STUN server is named like stun:example.org:3478, got {url!r}")


def _check_hooks() -> None:
    """Fail at the start, not at the first viewer, where a new aiortc lacks what is hooked into."""
    if not (hasattr(RTCRtpSender, "_send_keyframe") and hasattr(aioice.ice, "get_host_addresses")):
        raise SettingsError("this version of aiortc is not supported: install nervcast with its constraints")

"""The one place that reaches into aiortc: for packets that are encoded already, and requests for key frames."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCRtpTransceiver
from aiortc.exceptions import InvalidAccessError, InvalidStateError, OperationError
from aiortc.rtp import RTCP_PSFB_PLI, RtcpPsfbPacket

from encoder.common.errors import SettingsError
from player.rtc import rtp_sender
from player.rtc.fanout import ViewerTrack
from player.rtc.video_encoder import CODECS

logger = logging.getLogger(__name__)

SDP_ERRORS = (
    InvalidAccessError,
    InvalidStateError,
    OperationError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What aiortc raises for a description that is none: it takes them apart without looking first."""
CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for kind in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
)
"""Of DTLS 1.2, as RFC 8827 (section 6.5) has it, in OpenSSL's names."""
UNSUPPORTED = "this version of aiortc is not supported: install nervcast with its constraints"


def add_viewer(
    connection: RTCPeerConnection, viewer: ViewerTrack, *, any_codec: bool = False
) -> RTCRtpTransceiver:
    """Send a viewer's track over a connection, in its codec alone, or in any of ours that is agreed on."""
    hidden: Any = connection
    for certificate in hidden._RTCPeerConnection__certificates:  # noqa: SLF001
        certificate._create_ssl_context = partial(_handshake, certificate._create_ssl_context)  # noqa: SLF001
    transceiver = connection.addTransceiver(viewer, direction="sendonly")
    known = RTCRtpSender.getCapabilities("video").codecs
    wanted = [f"video/{codec}" for codec in (CODECS if any_codec else [viewer.codec])]
    preferred = [codec for name in wanted for codec in known if codec.mimeType == name]
    transceiver.setCodecPreferences(
        [*preferred, *(codec for codec in known if codec.mimeType == "video/rtx")]
    )
    sender = transceiver.sender
    # aiortc forgets a receiver's request for a key frame where packets come encoded already.
    sender._send_keyframe = viewer.picture_lost  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    sender._run_rtp = partial(rtp_sender.run, sender)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    transport: Any = sender.transport
    transport._recv_next = partial(_outlive, transport._recv_next)  # noqa: SLF001
    return transceiver


def _handshake(create: Callable[..., Any], **settings: Any) -> Any:
    """Return aiortc's context of DTLS with our ciphers: its own ones lack those of servers with RSA certificates."""
    context = create(**settings)
    context.set_cipher_list(CIPHERS.encode())
    return context


async def _outlive(receive: Callable[[], Awaitable[None]]) -> None:
    """Take a datagram, and go on with the next one whatever comes of it; raises ConnectionError at the end of a connection."""
    try:
        await receive()
    except ConnectionError:
        raise
    except Exception:
        logger.debug("a datagram is left out", exc_info=True)
        await asyncio.sleep(0)


async def self_test() -> None:
    """Fail at the start, not at the first viewer, where another aiortc lacks what is hooked into; raises SettingsError."""
    asked: list[bool] = []

    class _Asking(ViewerTrack):
        def picture_lost(self) -> None:
            asked.append(True)

    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    viewer = _Asking("H264")
    try:
        sender = add_viewer(connection, viewer).sender
        loss = RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=1, media_ssrc=sender._ssrc)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        await sender._handle_rtcp_packet(loss)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if not asked or not rtp_sender.is_supported(sender) or not await _offers_what_is_told():
            raise SettingsError(UNSUPPORTED)
    except (AttributeError, TypeError) as error:
        raise SettingsError(f"{UNSUPPORTED} ({error})") from None
    finally:
        viewer.stop()
        await connection.close()


async def _offers_what_is_told() -> bool:
    """Return whether aioice offers the addresses that it is made to."""
    told = set(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True))
    connection = aioice.Connection(ice_controlling=True)
    try:
        await connection.gather_candidates()
        return {candidate.host for candidate in connection.local_candidates} <= told
    finally:
        await connection.close()

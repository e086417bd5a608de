"""The private names of aiortc that the player uses; no other module uses any.

aiortc has no public interface for payloads that all viewers share, requests for key frames,
malformed datagrams, and receivers without use. The private names of aioice are in `aioice_hooks`.
"""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from aioice.ice import StunProtocol
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender
from aiortc.rtcdtlstransport import State
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import AnyRtcpPacket, HeaderExtensionsMap, RtpPacket

from player.rtc.aioice_hooks import selected_pair

CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for kind in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
)
"""Cipher suites of DTLS 1.2 as RFC 8827 (section 6.5) has them, in OpenSSL's names."""
NAMES = (
    "mid",
    "track",
    "cname",
    "ntp_timestamp",
    "rtp_timestamp",
    "octet_count",
    "packet_count",
)
"""Attributes of a sender, also those that its RTCP sender reports are made from."""

Protect: TypeAlias = Callable[[bytes], bytes]
"""Encrypts an RTP packet (SRTP, RFC 3711)."""

logger = logging.getLogger(__name__)


class SenderInternals:
    """The private parts of an `RTCRtpSender` that our send loop shares with the rest of aiortc.

    aiortc goes on to retransmit lost packets, to send RTCP reports and to encrypt.
    """

    def __init__(self, sender: RTCRtpSender) -> None:
        """Raise AttributeError if this version of aiortc lacks a part."""
        hidden: Any = sender
        self._sender = hidden
        self._started: asyncio.Event = hidden._RTCRtpSender__rtp_started
        self._exited: asyncio.Event = hidden._RTCRtpSender__rtp_exited
        self.ssrc: int = hidden._ssrc
        self.history: dict[int, RtpPacket] = hidden._RTCRtpSender__rtp_history
        """Packets for retransmission, by their sequence numbers modulo RTP_HISTORY_SIZE."""
        self.extensions_map: HeaderExtensionsMap = hidden._RTCRtpSender__rtp_header_extensions_map
        """Numbers of the negotiated RTP header extensions."""

    @property
    def mid(self) -> str | None:
        """Identification of the media section (RFC 9143), known once the sender starts."""
        return self._sender._RTCRtpSender__mid

    @property
    def is_supported(self) -> bool:
        """Whether the names exist that only a connected sender uses."""
        hidden = self._sender
        with contextlib.suppress(ConnectionError):
            self.path()
        return (
            all(hasattr(hidden, f"_RTCRtpSender__{name}") for name in NAMES)
            and hasattr(hidden, "_run_rtp")
            and hasattr(hidden, "_send_rtcp")
            and hasattr(hidden, "_retransmit")
            and hasattr(hidden.transport, "_tx_srtp")
            and hasattr(StunProtocol, "send_data")
        )

    def mark_started(self) -> None:
        """Tell aiortc that the send loop runs."""
        self._started.set()

    def mark_exited(self) -> None:
        """Tell aiortc, whose `stop` waits for it, that the send loop has ended."""
        self._sender._RTCRtpSender__track = None
        self._exited.set()

    def path(self) -> tuple[Protect, StunProtocol, tuple[str, int]]:
        """Return the SRTP encryption, the socket and the remote address that packets take.

        Raises ConnectionError if the sender is not connected.
        """
        transport = self._sender.transport
        pair = selected_pair(transport.transport._connection)
        if transport._state != State.CONNECTED or pair is None:
            raise ConnectionError
        return transport._tx_srtp.protect, pair.protocol, pair.remote_addr

    @property
    def cname(self) -> str:
        """Name of the sender in RTCP (RFC 3550, section 6.5.1), equal for sound and pictures."""
        return self._sender._RTCRtpSender__cname or ""

    async def send_rtcp(self, packets: list[AnyRtcpPacket]) -> None:
        """Send RTCP packets together."""
        await self._sender._send_rtcp(packets)

    def set_counters(
        self, *, ntp_timestamp: int, rtp_timestamp: int, octet_count: int, packet_count: int
    ) -> None:
        """Set the values of the next RTCP sender report."""
        hidden = self._sender
        hidden._RTCRtpSender__ntp_timestamp = ntp_timestamp
        hidden._RTCRtpSender__rtp_timestamp = rtp_timestamp
        hidden._RTCRtpSender__octet_count = octet_count
        hidden._RTCRtpSender__packet_count = packet_count

    async def receive_rtcp(self, packet: AnyRtcpPacket) -> None:
        """Hand an RTCP packet to the sender, as its transport does."""
        await self._sender._handle_rtcp_packet(packet)


def replace_send_loop(
    sender: RTCRtpSender,
    run: Callable[[RTCRtpCodecParameters], Awaitable[None]],
    *,
    on_picture_loss: Callable[[], None],
    on_packet_loss: Callable[[], None],
) -> None:
    """Let `run` send instead of aiortc's loop, and report the receiver's PLI, FIR and NACK.

    `on_packet_loss` is called for each packet that is asked for again.
    """
    # aiortc ignores requests for key frames where frames come encoded already.
    sender._send_keyframe = on_picture_loss
    hidden: Any = sender
    hidden._retransmit = partial(_told, on_packet_loss, hidden._retransmit)
    sender._run_rtp = run  # pyright: ignore[reportAttributeAccessIssue]
    transport: Any = sender.transport
    transport._recv_next = partial(_receive_or_drop, transport._recv_next)


async def _told(
    tell: Callable[[], None], retransmit: Callable[[int], Awaitable[None]], number: int
) -> None:
    tell()
    await retransmit(number)


def drop_bandwidth_estimate(receiver: RTCRtpReceiver) -> None:
    """Free the bandwidth estimate of a receiver that receives nothing.

    It is two thirds of a session's objects, which the garbage collector would have to visit.
    """
    hidden: Any = receiver
    hidden._RTCRtpReceiver__remote_bitrate_estimator = None


def use_our_ciphers(connection: RTCPeerConnection) -> None:
    """Let a connection use CIPHERS: aiortc's own lack those of peers with RSA certificates."""
    hidden: Any = connection
    for certificate in hidden._RTCPeerConnection__certificates:
        certificate._create_ssl_context = partial(
            _with_our_ciphers, certificate._create_ssl_context
        )


def _with_our_ciphers(create_context: Callable[..., Any], **settings: Any) -> Any:
    context = create_context(**settings)
    context.set_cipher_list(CIPHERS.encode())
    return context


async def _receive_or_drop(receive: Callable[[], Awaitable[None]]) -> None:
    """Handle a datagram, and drop one that raises an error.

    Raises ConnectionError at the end of the connection.
    """
    try:
        await receive()
    except ConnectionError:
        raise
    except Exception:
        logger.debug("a datagram is left out", exc_info=True)
        await asyncio.sleep(0)

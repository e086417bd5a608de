"""How viewers reach the server: addresses that are offered, STUN and TURN servers, and the candidates in descriptions (SDP)."""

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import aioice.ice
from aioice.ice import CandidatePair, StunProtocol
from aioice.stun import TransactionError
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcicetransport import connection_kwargs, parse_stun_turn_uri
from aiortc.sdp import candidate_from_sdp

from encoder.common.errors import SettingsError
from player.rtc.sdp import LINE_END, usable_candidates

logger = logging.getLogger(__name__)

MAX_PORT = 65535
MAX_DATAGRAM_BYTES = 1500
"""No larger one is taken: those of WebRTC fit into a packet of Ethernet, and libsrtp raises for 2,000 bytes and more."""
MAX_WAITING = 512
"""Datagrams that may wait for a connection; what comes on top is lost, as it may be on the way."""
STUN_BYTES = range(4)
DTLS_BYTES = range(20, 64)
RTP_BYTES = range(128, 192)
"""First bytes of what comes over one port (RFC 7983)."""
PROBE_SECONDS = 60.0
"""Time between two looks at whether the STUN and TURN servers answer."""
LOOK_SECONDS = 5.0
"""Least time between two looks at the machine's addresses."""
INTERFACE_ADDRESSES = aioice.ice.get_host_addresses
"""aioice's own list: the addresses of all interfaces but loopback."""
RECEIVED = StunProtocol.datagram_received
"""aioice's own way to take a datagram."""


class RestartError(Exception):
    """A viewer wants to restart ICE, which aiortc cannot."""


@dataclass
class Ice:
    """What `serve` and `publish` are told about the network."""

    servers: tuple[RTCIceServer, ...] = ()
    public_ip: str | None = None
    answers: dict[str, bool] = field(default_factory=dict[str, bool])
    """Whether each server answered lately, by its URL: a silent one would hold up each offer by five seconds."""

    @classmethod
    def parse(
        cls, stun: str | None = None, turn: str | None = None, public_ip: str | None = None
    ) -> "Ice":
        """Take stun:HOST[:PORT], turn:USER:PASSWORD@HOST[:PORT] and an IP address; raises SettingsError."""
        servers: list[RTCIceServer] = []
        if stun is not None:
            _check_server(stun, "stun", "stun:example.org:3478")
            servers.append(RTCIceServer(stun))
        if turn is not None:
            found = re.fullmatch(r"(turns?):([^:@]+):([^@]+)@(.+)", turn)
            if found is None:
                raise SettingsError(
                    "a TURN server is named like turn:USER:PASSWORD@example.org:3478"
                )
            scheme, user, password, address = found.groups()
            _check_server(f"{scheme}:{address}", scheme, f"{scheme}:USER:PASSWORD@example.org:3478")
            servers.append(RTCIceServer(f"{scheme}:{address}", username=user, credential=password))
        if public_ip is not None:
            _check_address(public_ip)
        return cls(tuple(servers), public_ip)

    @property
    def configuration(self) -> RTCConfiguration:
        """The configuration of a peer connection: the servers that answer, and never aiortc's default server."""
        return RTCConfiguration([each for each in self.servers if self.answers.get(str(each.urls))])

    async def ask(self) -> None:
        """Ask each server whether it answers; takes five seconds for one that does not."""
        await asyncio.gather(*map(self._ask, self.servers))

    async def _ask(self, server: RTCIceServer) -> None:
        connection = aioice.Connection(ice_controlling=True, **connection_kwargs([server]))
        try:
            await connection.gather_candidates()
            answers = any(each.type in ("srflx", "relay") for each in connection.local_candidates)
        except (OSError, TransactionError):  # an unknown name, or a wrong password
            answers = False
        finally:
            await connection.close()
        url = str(server.urls)
        if answers != self.answers.get(url):
            logger.info("%s %s", url, "answers" if answers else "does not answer, and is left out")
        self.answers[url] = answers

    async def keep_asking(self) -> None:
        """Ask the servers from time to time."""
        while self.servers:
            await self.ask()
            await asyncio.sleep(PROBE_SECONDS)

    @property
    def links(self) -> list[str]:
        """The servers as values of HTTP's `Link` (RFC 9725, section 4.6)."""
        return [_link(server) for server in self.servers]

    def answer(self, sdp: str) -> str:
        """Return an answer that names the public address too, which leads to this machine port by port."""
        if self.public_ip is None:
            return sdp
        lines: list[str] = []
        for line in sdp.splitlines():
            lines.append(line)
            found = re.fullmatch(r"(a=candidate:)(\S+)( \d udp \d+ )(\S+)( \d+ typ host.*)", line)
            if found is not None and ":" not in found[4]:
                lines.append(f"{found[1]}{found[2]}p{found[3]}{self.public_ip}{found[5]}")
        return "\r\n".join(lines) + "\r\n"


def offer_addresses(host: str) -> None:
    """Make aioice offer an address, or all; by itself it never offers loopback.

    Loopback stands for this machine alone: Firefox sends nothing to loopback addresses, so the others are offered too, but
    what comes from other machines is dropped unread.
    """
    address = ipaddress.ip_address(host)
    several = address.is_unspecified or address.is_loopback
    loopback = host if address.is_loopback else "127.0.0.1"
    own = set[str]()
    looked = -LOOK_SECONDS

    def is_own(sender: str) -> bool:
        nonlocal own, looked
        # Interfaces come and go; a stranger's datagrams must not make one look at them all the time.
        if sender not in own and time.monotonic() - looked >= LOOK_SECONDS:
            own = {loopback, "127.0.0.1", *INTERFACE_ADDRESSES(use_ipv4=True, use_ipv6=True)}
            looked = time.monotonic()
        return sender in own

    def addresses(**families: bool) -> Sequence[str]:
        return [loopback, *INTERFACE_ADDRESSES(**families)] if several else [host]

    def received(self: StunProtocol, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if (not address.is_loopback or is_own(addr[0])) and is_wanted(
            self, cast("bytes", data), addr
        ):
            try:
                RECEIVED(self, data, addr)
            except Exception:
                # aioice takes datagrams apart without looking first; the next one is for others.
                logger.debug("a datagram from %s is left out", addr[0], exc_info=True)

    aioice.ice.get_host_addresses = addresses
    StunProtocol.datagram_received = received


def is_wanted(protocol: StunProtocol, data: bytes, addr: tuple[Any, ...]) -> bool:
    """Return whether a datagram is worth a look: a check of ICE, whose password aioice asks for, or media of who passed one.

    Anybody may send anything to an open port, and may guess the port.
    """
    if not data or len(data) > MAX_DATAGRAM_BYTES:
        return False
    if data[0] in STUN_BYTES:
        return True
    if data[0] not in DTLS_BYTES and data[0] not in RTP_BYTES:
        return False
    connection: Any = protocol.receiver
    if connection._queue.qsize() >= MAX_WAITING:  # noqa: SLF001
        return False
    checked = (CandidatePair.State.SUCCEEDED, CandidatePair.State.IN_PROGRESS)
    return any(
        pair.protocol is protocol
        and pair.state in checked
        and tuple(pair.remote_addr[:2]) == tuple(addr[:2])
        for pair in connection._check_list  # noqa: SLF001
    )


async def add_candidates(
    connection: RTCPeerConnection, fragment: str, *, mids: frozenset[str], most: int
) -> int:
    """Take some of a viewer's further candidates (RFC 8840, section 9); return how many.

    Those of sections that do not share the transport of `mids` are left out. Raises RestartError, and ValueError for a
    malformed fragment.
    """
    lines = [line.strip() for line in LINE_END.split(fragment) if line.strip()]
    if not lines or not all(re.match(r"[a-z]=", line) for line in lines):
        raise ValueError("the fragment is not SDP")
    candidates: list[str] = []
    for part in _parts(lines):
        name = next(iter(_values(part, "mid")), None)
        if name is None or not mids or name in mids:
            for key in ("ice-ufrag", "ice-pwd"):
                if set(_values(part, key)) - set(
                    _values(LINE_END.split(connection.remoteDescription.sdp), key)
                ):
                    raise RestartError
            candidates += usable_candidates(_values(part, "candidate"))
    for text in candidates[:most]:
        candidate = candidate_from_sdp(text)
        candidate.sdpMLineIndex = 0
        await connection.addIceCandidate(candidate)
    return len(candidates[:most])


def _parts(lines: Sequence[str]) -> list[Sequence[str]]:
    """Return the lines before the first section, and those of each section."""
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    return [lines[start:stop] for start, stop in pairwise([0, *starts, len(lines)])]


def _values(lines: Sequence[str], name: str) -> list[str]:
    """Return the values of an attribute."""
    start = f"a={name}:"
    return [line[len(start) :].strip() for line in lines if line.startswith(start)]


def _link(server: RTCIceServer) -> str:
    link = f'<{server.urls}>; rel="ice-server"'
    if server.username is None:
        return link
    user, password = (
        str(text).replace("\\", "\\\\").replace('"', '\\"')
        for text in (server.username, server.credential)
    )
    return f'{link}; username="{user}"; credential="{password}"; credential-type="password"'


def _check_server(url: str, scheme: str, example: str) -> None:
    try:
        parsed = parse_stun_turn_uri(url)
    except ValueError:
        parsed = {}
    if parsed.get("scheme") != scheme or not 0 < parsed["port"] <= MAX_PORT:
        raise SettingsError(f"a {scheme.upper()} server is named like {example}, got {url!r}")


def _check_address(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise SettingsError(f"the public address must be an IPv4 address, got {text!r}") from None

"""How viewers reach the server: addresses that are offered, STUN and TURN servers, and the candidates in descriptions (SDP)."""

import ipaddress
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aioice.ice
from aioice.ice import StunProtocol
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcicetransport import parse_stun_turn_uri
from aiortc.sdp import candidate_from_sdp

from encoder.codec.errors import SettingsError

MAX_PORT = 65535
MAX_CANDIDATES = 32
"""Most candidates of a viewer that are tried, of his offer and as many later."""
LOOK_SECONDS = 5.0
"""Least time between two looks at the machine's addresses."""
INTERFACE_ADDRESSES = aioice.ice.get_host_addresses
"""aioice's own list: the addresses of all interfaces but loopback."""
RECEIVED = StunProtocol.datagram_received
"""aioice's own way to take a datagram."""


class RestartError(Exception):
    """A viewer wants to restart ICE, which aiortc cannot."""


@dataclass(frozen=True)
class Ice:
    """What `serve` and `publish` are told about the network."""

    servers: tuple[RTCIceServer, ...] = ()
    public_ip: str | None = None

    @classmethod
    def parse(cls, stun: str | None = None, turn: str | None = None, public_ip: str | None = None) -> "Ice":
        """Take stun:HOST[:PORT], turn:USER:PASSWORD@HOST[:PORT] and an IP address; raises SettingsError."""
        servers: list[RTCIceServer] = []
        if stun is not None:
            _check_server(stun, "stun", "stun:example.org:3478")
            servers.append(RTCIceServer(stun))
        if turn is not None:
            found = re.fullmatch(r"(turns?):([^:@]+):([^@]+)@(.+)", turn)
            if found is None:
                raise SettingsError("a TURN server is named like turn:USER:PASSWORD@example.org:3478")
            scheme, user, password, address = found.groups()
            _check_server(f"{scheme}:{address}", scheme, f"{scheme}:USER:PASSWORD@example.org:3478")
            servers.append(RTCIceServer(f"{scheme}:{address}", username=user, credential=password))
        if public_ip is not None:
            _check_address(public_ip)
        return cls(tuple(servers), public_ip)

    @property
    def configuration(self) -> RTCConfiguration:
        """The configuration of a peer connection; without servers none is contacted, aiortc's default neither."""
        return RTCConfiguration(iceServers=list(self.servers))

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


def reachable(sdp: str) -> str:
    """Return a description without mDNS candidates, which take a second each to resolve and then lead nowhere better.

    The end of candidates goes too: with no candidate left it would count as a failure, before the browser's own checks come.
    Of a stranger's candidates the first MAX_CANDIDATES stay, since each is paired with each of ours.
    """
    lines, left = list[str](), MAX_CANDIDATES
    for line in sdp.splitlines():
        if line.startswith("a=candidate:"):
            if ".local " in line or left == 0:
                continue
            left -= 1
        if "end-of-candidates" not in line:
            lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def offer_addresses(host: str) -> None:
    """Make aioice offer an address, or all; by itself it never offers loopback.

    Loopback stands for this machine alone: Firefox sends nothing to loopback addresses, so the others are offered too, but
    what comes from other machines is dropped unread.
    """
    address = ipaddress.ip_address(host)
    several = address.is_unspecified or address.is_loopback
    loopback = host if address.is_loopback else "127.0.0.1"
    own, looked = set[str](), -LOOK_SECONDS

    def is_own(sender: str) -> bool:
        nonlocal own, looked
        # Interfaces come and go; a stranger's datagrams must not make one look at them all the time.
        if sender not in own and time.monotonic() - looked >= LOOK_SECONDS:
            own, looked = {loopback, "127.0.0.1", *INTERFACE_ADDRESSES(use_ipv4=True, use_ipv6=True)}, time.monotonic()
        return sender in own

    def addresses(**families: bool) -> Sequence[str]:
        return [loopback, *INTERFACE_ADDRESSES(**families)] if several else [host]

    def received(self: StunProtocol, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if is_own(addr[0]):
            RECEIVED(self, data, addr)

    aioice.ice.get_host_addresses = addresses
    StunProtocol.datagram_received = received if address.is_loopback else RECEIVED


async def add_candidates(connection: RTCPeerConnection, fragment: str, *, most: int) -> int:
    """Take some of a viewer's further candidates (RFC 8840, section 9); return how many.

    Raises RestartError, and ValueError for what is no fragment.
    """
    lines = [line.strip() for line in fragment.splitlines() if line.strip()]
    if not lines or not all(re.match(r"[a-z]=", line) for line in lines):
        raise ValueError("the fragment is not SDP")
    users = {line.split(":", 1)[1] for line in lines if line.startswith("a=ice-ufrag:")}
    known = set(re.findall(r"(?m)^a=ice-ufrag:(\S+)", connection.remoteDescription.sdp))
    if users - known:
        raise RestartError
    candidates = [line[len("a=candidate:") :] for line in lines if line.startswith("a=candidate:") and ".local " not in line]
    for text in candidates[:most]:
        try:
            candidate = candidate_from_sdp(text)
            ipaddress.ip_address(candidate.ip)
        except (AssertionError, ValueError):
            raise ValueError("a candidate is malformed") from None
        candidate.sdpMLineIndex = 0
        await connection.addIceCandidate(candidate)
    return len(candidates[:most])


def _link(server: RTCIceServer) -> str:
    link = f'<{server.urls}>; rel="ice-server"'
    if server.username is None:
        return link
    user, password = (str(text).replace("\\", "\\\\").replace('"', '\\"') for text in (server.username, server.credential))
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

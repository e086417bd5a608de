"""STUN and TURN servers, and the public address of this machine."""

import asyncio
import ipaddress
import logging
import re
from dataclasses import dataclass, field

import aioice
from aioice.stun import TransactionError
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcicetransport import connection_kwargs, parse_stun_turn_uri

from encoder.common.errors import SettingsError
from player.rtc.sdp import MAX_PORT

PROBE_SECONDS = 60.0
"""Time between two probes of the STUN and TURN servers."""

logger = logging.getLogger(__name__)


@dataclass
class Ice:
    """Settings of the network for `serve` and `publish`."""

    servers: tuple[RTCIceServer, ...] = ()
    public_ip: str | None = None
    """IPv4 address whose ports lead to the same ports of this machine."""
    answers: dict[str, bool] = field(default_factory=dict[str, bool])
    """Whether each server answered the last probe, by its URL."""

    @classmethod
    def parse(
        cls, stun: str | None = None, turn: str | None = None, public_ip: str | None = None
    ) -> "Ice":
        """Parse stun:HOST[:PORT], turn:USER:PASSWORD@HOST[:PORT] and an IPv4 address.

        Raises SettingsError.
        """
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
        """Configuration of a peer connection: only servers that answer, and none by default.

        A silent server would delay each offer by five seconds. aiortc has a default server.
        """
        return RTCConfiguration([each for each in self.servers if self.answers.get(str(each.urls))])

    async def ask(self) -> None:
        """Probe each server; takes five seconds for one that does not answer."""
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
        """Probe the servers every PROBE_SECONDS."""
        while self.servers:
            await self.ask()
            await asyncio.sleep(PROBE_SECONDS)

    @property
    def links(self) -> list[str]:
        """Servers as values of HTTP's `Link` header (RFC 9725, section 4.6)."""
        return [_link(server) for server in self.servers]

    def answer(self, sdp: str) -> str:
        """Return an answer with a candidate of the public address for each IPv4 host candidate.

        The port is the same, as of a one-to-one NAT.
        """
        if self.public_ip is None:
            return sdp
        lines: list[str] = []
        for line in sdp.splitlines():
            lines.append(line)
            found = re.fullmatch(r"(a=candidate:)(\S+)( \d udp \d+ )(\S+)( \d+ typ host.*)", line)
            if found is not None and ":" not in found[4]:
                # Another address has another foundation (RFC 8445, section 5.1.1.3).
                lines.append(f"{found[1]}{found[2]}p{found[3]}{self.public_ip}{found[5]}")
        return "\r\n".join(lines) + "\r\n"


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

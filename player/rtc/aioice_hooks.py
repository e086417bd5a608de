"""The private names of aioice that the player uses, and the parts of it that the player replaces.

aioice has no setting for the addresses that it offers, and takes any datagram from any sender. Its
sockets are open before a connection is handed out, so the replacements are for the whole process.
They last while a body of `host_addresses` runs.
"""
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

import ipaddress
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import aioice.ice
from aioice.ice import CandidatePair, StunProtocol

MAX_DATAGRAM_BYTES = 1500
"""Largest datagram that is taken: an Ethernet packet. libsrtp fails from 2,000 bytes on."""
MAX_WAITING = 512
"""Datagrams that may wait for a connection; further ones are lost, as on any network."""
STUN_BYTES = range(4)
"""First bytes of STUN messages on a shared port (RFC 7983)."""
DTLS_BYTES = range(20, 64)
"""First bytes of DTLS records."""
RTP_BYTES = range(128, 192)
"""First bytes of RTP and RTCP packets."""
REFRESH_SECONDS = 5.0
"""Least time between two reads of the machine's addresses."""

logger = logging.getLogger(__name__)


class InterfaceAddresses(Protocol):
    """The addresses of all network interfaces except loopback."""

    def __call__(self, *, use_ipv4: bool, use_ipv6: bool) -> list[str]:
        """Return the addresses of these families."""
        ...


INTERFACE_ADDRESSES: InterfaceAddresses = aioice.ice.get_host_addresses
"""aioice's own function, which the player replaces."""
DATAGRAM_RECEIVED = StunProtocol.datagram_received
"""aioice's own method, which the player wraps."""


class HostAddresses:
    """The addresses that are offered as host candidates, and the senders that are heard."""

    def __init__(
        self,
        host: str,
        *,
        interfaces: InterfaceAddresses = INTERFACE_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Offer one address, or for a loopback or unspecified one all of this machine.

        A loopback address limits the senders to this machine. The other addresses are offered
        even so, because Firefox sends nothing to loopback addresses.
        """
        address = ipaddress.ip_address(host)
        self._is_loopback = address.is_loopback
        self._loopback = host if address.is_loopback else "127.0.0.1"
        self._only = None if address.is_loopback or address.is_unspecified else host
        self._interfaces = interfaces
        self._clock = clock
        self._own = set[str]()
        """Addresses of this machine, as of the last read."""
        self._read_at = -REFRESH_SECONDS

    def offered(self, *, use_ipv4: bool, use_ipv6: bool) -> list[str]:
        """Return the addresses for host candidates."""
        if self._only is not None:
            return [self._only]
        return [self._loopback, *self._interfaces(use_ipv4=use_ipv4, use_ipv6=use_ipv6)]

    def hears(self, sender: str) -> bool:
        """Return whether datagrams of a sender are taken."""
        return not self._is_loopback or self._is_own(sender)

    def _is_own(self, sender: str) -> bool:
        now = self._clock()
        # Interfaces come and go, but foreign datagrams must not cause a read each.
        if sender not in self._own and now - self._read_at >= REFRESH_SECONDS:
            others = self._interfaces(use_ipv4=True, use_ipv6=True)
            self._own = {self._loopback, "127.0.0.1", *others}
            self._read_at = now
        return sender in self._own


_in_use: list[HostAddresses] = []
"""Addresses in use, the newest last: global, like the functions of aioice that they replace."""


@contextmanager
def host_addresses(addresses: HostAddresses) -> Generator[None]:
    """Let aioice use these addresses while the body runs.

    If several bodies run, the addresses of the newest are used. After the last body, aioice is as
    before.
    """
    _in_use.append(addresses)
    _install()
    try:
        yield
    finally:
        _in_use.remove(addresses)
        _install()


def _install() -> None:
    """Replace aioice's functions by those of the last addresses in use, or restore them."""
    if _in_use:
        aioice.ice.get_host_addresses = _in_use[-1].offered
        StunProtocol.datagram_received = _filter(_in_use[-1].hears)
    else:
        aioice.ice.get_host_addresses = INTERFACE_ADDRESSES
        StunProtocol.datagram_received = DATAGRAM_RECEIVED


def _filter(hears: Callable[[str], bool]) -> Any:
    """Return a method for StunProtocol that hands to aioice the datagrams that it can use."""

    def datagram_received(self: StunProtocol, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if hears(addr[0]) and _is_expected(self, cast("bytes", data), addr):
            try:
                DATAGRAM_RECEIVED(self, data, addr)
            except Exception:
                # aioice parses datagrams without checks; the socket must stay open for others.
                logger.debug("a datagram from %s is left out", addr[0], exc_info=True)

    return datagram_received


def _is_expected(protocol: StunProtocol, data: bytes, addr: tuple[Any, ...]) -> bool:
    """Return whether a datagram is STUN, or DTLS or RTP of a peer that passed an ICE check.

    Anybody can guess a port and send to it. aioice authenticates STUN by its password.
    """
    if not data or len(data) > MAX_DATAGRAM_BYTES:
        return False
    if data[0] in STUN_BYTES:
        return True
    if data[0] not in DTLS_BYTES and data[0] not in RTP_BYTES:
        return False
    connection: Any = protocol.receiver
    if connection._queue.qsize() >= MAX_WAITING:
        return False
    checked = (CandidatePair.State.SUCCEEDED, CandidatePair.State.IN_PROGRESS)
    return any(
        pair.protocol is protocol
        and pair.state in checked
        and tuple(pair.remote_addr[:2]) == tuple(addr[:2])
        for pair in connection._check_list
    )


def selected_pair(connection: aioice.Connection) -> CandidatePair | None:
    """Return the candidate pair that carries a connection's media, once there is one."""
    return connection._nominated.get(1)  # component 1 carries RTP and RTCP (rtcp-mux)


async def offers_host_addresses() -> bool:
    """Return whether aioice asks the replaced function for the addresses that it offers."""
    expected = set(aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True))
    connection = aioice.Connection(ice_controlling=True)
    try:
        await connection.gather_candidates()
        return {candidate.host for candidate in connection.local_candidates} <= expected
    finally:
        await connection.close()

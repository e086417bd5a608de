"""Addresses that aioice offers, the datagrams that it takes, and that both are restored."""

import aioice.ice
import pytest
from aioice.ice import CandidatePair, StunProtocol

from player.rtc import aioice_hooks
from player.rtc.aioice_hooks import (
    DATAGRAM_RECEIVED,
    INTERFACE_ADDRESSES,
    MAX_DATAGRAM_BYTES,
    MAX_WAITING,
    REFRESH_SECONDS,
    HostAddresses,
    host_addresses,
    offers_host_addresses,
)

OTHER = "198.51.100.9"
STUN, DTLS, RTP = b"\0\1" + bytes(18), b"\x16" + bytes(20), b"\x80" + bytes(20)


class Interfaces:
    """The addresses of a machine, which counts how often they are read."""

    def __init__(self, *addresses):
        self.addresses, self.reads = list(addresses), 0

    def __call__(self, **_):
        self.reads += 1
        return self.addresses


def addresses_of(host, **options):
    return HostAddresses(host, interfaces=Interfaces("192.0.2.1"), **options)


def offered():
    return aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True)


def is_untouched():
    return (
        aioice.ice.get_host_addresses is INTERFACE_ADDRESSES
        and StunProtocol.datagram_received is DATAGRAM_RECEIVED
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", ["127.0.0.1", "192.0.2.1"]),
        ("::1", ["::1", "192.0.2.1"]),
        ("192.0.2.7", ["192.0.2.7"]),
        ("0.0.0.0", ["127.0.0.1", "192.0.2.1"]),
    ],
)
def test_addresses_that_are_offered_are_those_bound(host, expected):
    with host_addresses(addresses_of(host)):
        assert offered() == expected
    assert is_untouched()


@pytest.mark.parametrize(
    ("host", "heard"),
    [
        ("127.0.0.1", ["127.0.0.1", "192.0.2.1"]),
        ("0.0.0.0", ["127.0.0.1", "192.0.2.1", OTHER]),
    ],
)
def test_media_of_other_machines_are_dropped_where_the_server_is_for_this_one(
    monkeypatch, host, heard
):
    received = []
    monkeypatch.setattr(
        aioice_hooks, "DATAGRAM_RECEIVED", lambda _, data, address: received.append(address[0])
    )
    with host_addresses(addresses_of(host)):
        for sender in ("127.0.0.1", "192.0.2.1", OTHER):
            StunProtocol.datagram_received(None, STUN, (sender, 5))
    assert received == heard


def test_of_several_the_last_decides_whichever_ends_first():
    first, second = host_addresses(addresses_of("192.0.2.7")), host_addresses(addresses_of("::1"))
    first.__enter__()
    second.__enter__()
    assert offered() == ["::1", "192.0.2.1"]
    first.__exit__(None, None, None)
    assert offered() == ["::1", "192.0.2.1"]
    second.__exit__(None, None, None)
    assert is_untouched()


def test_same_addresses_may_be_used_twice():
    addresses = addresses_of("192.0.2.7")
    with host_addresses(addresses):
        with host_addresses(addresses):
            assert offered() == ["192.0.2.7"]
        assert offered() == ["192.0.2.7"]
    assert is_untouched()


def test_foreign_datagrams_do_not_cause_a_read_of_the_addresses_each():
    now = [100.0]
    interfaces = Interfaces("192.0.2.1")
    addresses = HostAddresses("127.0.0.1", interfaces=interfaces, clock=lambda: now[0])
    assert not any(addresses.hears(OTHER) for _ in range(10))
    assert interfaces.reads == 1
    interfaces.addresses.append(OTHER)
    now[0] += REFRESH_SECONDS
    assert addresses.hears(OTHER)
    assert addresses.hears("192.0.2.1")
    assert interfaces.reads == 2


class Receiver:
    """Stands in for a connection with a peer that passed a check, at port 5."""

    def __init__(self, waiting=0):
        self._check_list, self._waiting = [], waiting
        self._queue = self

    def qsize(self):
        return self._waiting


def protocol_of(receiver):
    protocol = StunProtocol.__new__(StunProtocol)
    protocol.receiver = receiver
    pair = CandidatePair.__new__(CandidatePair)
    pair.protocol, pair.state = protocol, CandidatePair.State.SUCCEEDED
    pair.remote_candidate = type("Remote", (), {"_network_host": OTHER, "port": 5})
    receiver._check_list.append(pair)
    return protocol


@pytest.mark.parametrize(
    ("data", "port", "waiting", "is_taken"),
    [
        (STUN, 6, 0, True),
        (DTLS, 5, 0, True),
        (RTP, 5, MAX_WAITING - 1, True),
        (RTP, 5, MAX_WAITING, False),
        (RTP, 6, 0, False),
        (DTLS, 6, 0, False),
        (b"\x40" + bytes(20), 5, 0, False),
        (b"", 5, 0, False),
        (RTP + bytes(MAX_DATAGRAM_BYTES), 5, 0, False),
    ],
)
def test_datagrams_that_are_taken(monkeypatch, data, port, waiting, is_taken):
    received = []
    monkeypatch.setattr(aioice_hooks, "DATAGRAM_RECEIVED", lambda *_: received.append(True))
    protocol = protocol_of(Receiver(waiting))
    with host_addresses(addresses_of("0.0.0.0")):
        protocol.datagram_received(data, (OTHER, port))
    assert bool(received) == is_taken


def test_datagram_that_aioice_cannot_parse_is_left_out(monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(aioice_hooks, "DATAGRAM_RECEIVED", fail)
    caplog.set_level("DEBUG", logger="player")
    with host_addresses(addresses_of("0.0.0.0")):
        StunProtocol.datagram_received(None, STUN, (OTHER, 5))
    assert f"a datagram from {OTHER} is left out" in caplog.text


async def test_aioice_offers_what_it_is_told():
    with host_addresses(HostAddresses("127.0.0.1", interfaces=Interfaces())):
        assert await offers_host_addresses()


async def test_aioice_that_finds_addresses_by_itself_is_noticed(monkeypatch):
    async def gather(connection):
        connection._local_candidates = [type("Candidate", (), {"host": OTHER})]

    monkeypatch.setattr("aioice.Connection.gather_candidates", gather)
    with host_addresses(HostAddresses("127.0.0.1", interfaces=Interfaces())):
        assert not await offers_host_addresses()

"""Who counts as one client, and how much of the log clients can fill."""

import logging

import pytest

from player.server import listener
from player.server.clients import LOG_SECONDS, RareLog, client_of
from player.server.listener import Connections


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_client_is_an_address_or_a_network_of_ipv6(address, client):
    assert client_of(address) == client


def test_lines_that_clients_cause_are_counted_not_multiplied(caplog):
    now = [0.0]
    log = RareLog(logging.getLogger("player.test"), clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        for _ in range(1000):
            log.add(logging.INFO, "not HTTP, from %s", "192.0.2.1")
        now[0] += LOG_SECONDS
        log.add(logging.INFO, "not HTTP, from %s", "192.0.2.2")
    assert caplog.messages == [
        "not HTTP, from 192.0.2.1",
        "not HTTP, from 192.0.2.2 (1000 times)",
    ]


class Held:
    """A connection that is open."""

    def __init__(self, client, since, *, is_busy=False):
        self.client, self.since, self.is_busy, self.ended = client, since, is_busy, False

    def end(self):
        self.ended = True


def connections_of(*held):
    connections = Connections({})
    for each in held:
        connections._open[each] = None
        connections._counts[each.client] += 1
    return connections


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(listener, "MAX_PER_ADDRESS", 3)


def ended(*held):
    return [index for index, each in enumerate(held) if each.ended]


@pytest.mark.parametrize(
    ("held", "has_room", "expected"),
    [
        ([("a", 1, False)], True, []),
        # The newcomer's own oldest at rest goes where the newcomer has too many.
        ([("x", 2, False), ("x", 1, False), ("x", 3, True)], True, [1]),
        ([("x", 1, True), ("x", 2, True), ("x", 3, True)], False, []),
        # The oldest at rest of the one with most goes where there are too many in all.
        ([("a", 1, True), ("a", 4, False), ("a", 3, False), ("b", 2, False)], True, [2]),
        # Whatever the one with the most connections is busy with.
        ([("a", 1, True), ("a", 2, True), ("b", 4, False), ("c", 3, False)], True, [3]),
        # All are busy: the oldest of the one with most goes.
        ([("a", 1, True), ("b", 3, True), ("b", 2, True), ("c", 4, True)], True, [2]),
    ],
)
def test_newcomers_get_in(held, has_room, expected):
    held = [Held(client, since, is_busy=is_busy) for client, since, is_busy in held]
    connections = connections_of(*held)
    assert connections._make_room("x") == has_room
    assert ended(*held) == expected
    assert len(connections) == len(held) - len(expected)
    for each in held:  # what has ended is told again
        connections._forget(each)
    assert not connections._counts

"""Who gets a private timeline: the pool of them, and how often a viewer may change."""

import threading

import pytest
from waiting import until

from player.server.errors import RefusedError
from player.server.limits import Limits
from player.server.private_playouts import PrivatePlayouts
from player.server.session import MAX_MOVES, MOVES_SECONDS, ViewerSession


class Playout:
    """Stands in for a playout, whose threads end when they are told to."""

    def __init__(self):
        self.error, self.is_resting, self.is_closed = None, False, False
        self.may_end = threading.Event()

    def close(self):
        self.is_closed = True
        assert self.may_end.wait(5)


class Channel:
    """Stands in for a channel."""

    def __init__(self):
        self.private, self.made = set(), []

    def open_private(self, spare=None):
        playout = spare or Playout()
        self.made += [playout] if spare is None else []
        self.private.add(playout)
        return playout


@pytest.fixture
async def channels():
    channels = Channel(), Channel()
    yield channels
    for channel in channels:
        for playout in channel.made:
            playout.may_end.set()


async def test_spare_playout_is_used_again_by_its_channel(channels):
    pool, (one, two) = PrivatePlayouts(2), channels
    first = pool.take(one)
    assert pool.left == 1
    pool.give_back(one, first)
    assert (pool.left, one.private) == (2, set())
    assert pool.take(two) is not first
    assert pool.take(one) is first
    assert pool.left == 0


async def test_spare_playout_makes_room_for_those_in_use(channels):
    pool, (one, two) = PrivatePlayouts(1), channels
    first = pool.take(one)
    pool.give_back(one, first)
    pool.take(two)
    pool.trim()
    await until(lambda: first.is_closed)
    assert pool.take(one) is not first


async def test_playout_that_is_closing_counts(channels):
    pool, (one, _) = PrivatePlayouts(2), channels
    playout = pool.take(one)
    playout.error = "it broke"
    pool.give_back(one, playout)
    assert pool.left == 1
    playout.may_end.set()
    await pool.close()
    assert pool.left == 2


async def test_playout_that_failed_or_rests_is_not_used_again(channels):
    pool, (one, _) = PrivatePlayouts(2), channels
    failed, resting = pool.take(one), pool.take(one)
    failed.error, resting.is_resting = "it broke", True
    pool.give_back(one, failed)
    pool.give_back(one, resting)
    assert pool.take(one) not in (failed, resting)
    await until(lambda: failed.is_closed)
    assert not resting.is_closed


async def test_spare_playouts_are_closed_at_the_end(channels):
    pool, (one, _) = PrivatePlayouts(2), channels
    playout = pool.take(one)
    pool.give_back(one, playout)
    playout.may_end.set()
    await pool.close()
    assert playout.is_closed


def test_viewer_may_change_so_many_times_in_a_while():
    now = [100.0]
    session = ViewerSession(None, None, None, None, "", may_control=True, clock=lambda: now[0])
    for _ in range(MAX_MOVES):
        assert not session.has_moved_too_often
        session.moves.append(now[0])
        now[0] += 0.1
    assert session.has_moved_too_often
    now[0] = 100 + MOVES_SECONDS
    assert not session.has_moved_too_often


@pytest.mark.parametrize(
    ("present", "reason"),
    [
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], "too many viewers"),
        (["192.0.2.1", "192.0.2.9"], None),
        (["192.0.2.9", "192.0.2.9"], "too many viewers from this address"),
    ],
)
def test_room_for_viewers(present, reason):
    limits = Limits(viewers=3, per_address=2)
    if reason is None:
        limits.check_room("192.0.2.9", present)
    else:
        with pytest.raises(RefusedError, match=f"^{reason}$"):
            limits.check_room("192.0.2.9", present)


def test_addresses_of_a_network_count_as_one_client():
    with pytest.raises(RefusedError, match="from this address"):
        Limits(per_address=1).check_room("2001:db8::1", ["2001:db8::2"])

"""Viewers on a ladder: each watches the rung that its line can carry, or that it has chosen."""

import asyncio
import time
from collections.abc import Callable

from player.playback.channel import Channel
from player.playback.playout import Playout
from player.server.private_playouts import PrivatePlayouts
from player.server.rung_choice import Line, RungChoice
from player.server.session import ViewerSession

LOOK_SECONDS = 0.25
"""Time between two looks at a viewer's line."""
OPEN_SECONDS = 5.0
"""Longest wait for a rung's engine; then the viewer stays where it is."""
READY_SECONDS = 0.02
LEAD_SECONDS = 0.1
"""Time by which the next rung starts later in the clip: so long it takes to decode its picture."""


async def follow_line(
    session: ViewerSession,
    private: PrivatePlayouts,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep a viewer on the rung that fits its line, until its track ends."""
    choice: RungChoice | None = None
    family = session.channel.family
    while session.viewer.readyState != "ended":
        await asyncio.sleep(LOOK_SECONDS)
        channel = session.channel
        if len(channel.family) == 1 or not (session.chooses_rung and is_connected(session)):
            choice = None
            continue
        await session.poll_stats()
        now = clock()
        if choice is None or channel.family is not family or choice.rung != channel.rung:
            family = channel.family
            choice = RungChoice(len(family), channel.rung, now)
        wanted = choice.observe(line_of(session), now)
        if wanted != channel.rung:
            rung = family[wanted]
            await change_rung(session, rung, private, is_needed=lambda: session.chooses_rung)


def is_connected(session: ViewerSession) -> bool:
    """Return whether packets reach a viewer."""
    return session.connection.connectionState == "connected"


def join(session: ViewerSession) -> None:
    """Send its playout to a viewer; a rung that nobody watched goes on where the others are."""
    shared, channel = session.channel.shared, session.channel
    if session.playout is shared and channel.active is not channel:
        catch_up(shared, channel.active.shared)
    session.playout.join(session.viewer)


def line_of(session: ViewerSession) -> Line:
    """Return the present state of a viewer's line."""
    viewer = session.viewer
    return Line(
        loss=session.loss,
        rtt_seconds=session.rtt_seconds,
        pictures_lost=viewer.pictures_lost,
        packets_lost=viewer.packets_lost,
        dropped=viewer.dropped,
    )


async def change_rung(
    session: ViewerSession,
    rung: Channel,
    private: PrivatePlayouts,
    *,
    is_needed: Callable[[], bool] = lambda: True,
) -> None:
    """Let a viewer watch another rung of its ladder, once pictures of it can be decoded.

    It stays where it is if the rung cannot be decoded in time, if no private timeline is left for
    it, if it moves or leaves meanwhile, or if the change is not needed any more.
    """
    async with session.changing:  # one change after the other
        former, playout = session.channel, session.playout
        if rung is former or rung not in former.family or not is_needed():
            return
        is_private = session.is_private
        if is_private and private.left <= 0:
            return
        following = private.beside(rung, playout) if is_private else rung.shared
        has_changed = False
        try:
            is_open = not is_connected(session) or await _opened(following)
            stays = session.channel is former and session.playout is playout
            if is_open and stays and is_needed() and session.viewer.readyState != "ended":
                _change(session, rung, following)
                has_changed = True
        finally:
            if is_private:
                unused = (former, playout) if has_changed else (rung, following)
                private.discard(*unused)


def _change(session: ViewerSession, rung: Channel, following: Playout) -> None:
    if not following.viewers:
        catch_up(following, session.playout)
    session.playout.leave(session.viewer)
    session.channel, session.playout = rung, following
    if is_connected(session):
        following.join(session.viewer)


async def _opened(playout: Playout) -> bool:
    """Start a playout, and return whether it has an engine within OPEN_SECONDS."""
    playout.start()
    for _ in range(round(OPEN_SECONDS / READY_SECONDS)):
        if playout.error is not None:
            return False
        if playout.is_ready and playout.stats.engine is not None:
            return True
        await asyncio.sleep(READY_SECONDS)
    return False


def catch_up(playout: Playout, leader: Playout) -> None:
    """Let a playout without viewers go on a little later in the clip than another."""
    playout.loop = leader.loop
    playout.set_speed(leader.speed)
    playout.playing = leader.playing
    end = playout.source.clip.end
    lead = 0.0
    if leader.playing:
        lead = LEAD_SECONDS * float(playout.source.clip.header.rate * leader.speed)
    frame = leader.frame + lead
    playout.seek(frame % end if leader.loop and frame >= end else min(frame, end - 1.0))

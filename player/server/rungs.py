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
    """Keep a viewer on the rung that fits its line, for as long as the task runs."""
    choice: RungChoice | None = None
    family = session.channel.family
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        channel = session.channel
        is_connected = session.connection.connectionState == "connected"
        if len(channel.family) == 1 or not (session.chooses_rung and is_connected):
            choice = None
            continue
        await session.poll_stats()
        now = clock()
        if choice is None or channel.family is not family or choice.rung != channel.rung:
            family = channel.family
            choice = RungChoice(len(family), channel.rung, now)
        wanted = choice.observe(line_of(session), now)
        if wanted != channel.rung:
            await change_rung(session, family[wanted], private)


def join(session: ViewerSession) -> None:
    """Send its playout to a viewer; a rung that nobody watched goes on where the others are."""
    shared, channel = session.channel.shared, session.channel
    if session.playout is shared and not shared.viewers:
        others = [each.shared for each in channel.family if each.shared.viewers]
        if others:
            catch_up(shared, others[0])
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


async def change_rung(session: ViewerSession, rung: Channel, private: PrivatePlayouts) -> None:
    """Let a viewer watch another rung of its ladder, once pictures of it can be decoded.

    It stays where it is if the rung cannot be decoded, or if it moves or leaves meanwhile.
    """
    former, playout = session.channel, session.playout
    is_private = session.is_private
    following = private.beside(rung, playout) if is_private else rung.shared
    if not following.viewers:
        following.start()
        await _opened(following)
    has_moved = session.channel is not former or session.playout is not playout
    if has_moved or session.viewer.readyState == "ended" or following.error is not None:
        if is_private:
            private.discard(rung, following)
        return
    if not following.viewers:
        catch_up(following, playout)
    playout.leave(session.viewer)
    session.channel, session.playout = rung, following
    following.join(session.viewer)
    if is_private:
        private.discard(former, playout)


async def _opened(playout: Playout) -> None:
    """Wait for the engine of a playout that has started."""
    for _ in range(round(OPEN_SECONDS / READY_SECONDS)):
        if playout.error is not None or (playout.is_ready and playout.stats.engine is not None):
            return
        await asyncio.sleep(READY_SECONDS)


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

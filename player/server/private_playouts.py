"""The pool of private playouts: timelines of one viewer each."""

import asyncio

from player.playback.channel import Channel
from player.playback.playout import Playout


class PrivatePlayouts:
    """Private playouts of all channels, each with an engine and a video encoder of its own.

    A playout that its viewer leaves becomes a spare one, whose engine the channel's next private
    viewer finds open. Spare playouts make room for those in use. A playout that is closing counts
    as in use, because its threads take a while to end.
    """

    def __init__(self, limit: int) -> None:
        """Allow `limit` playouts in use."""
        self._limit = limit
        self._in_use = 0
        self._spare: list[tuple[Channel, Playout]] = []
        """Playouts without viewers, the oldest first."""
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def left(self) -> int:
        """Number of playouts that can still be taken."""
        return self._limit - self._in_use - len(self._closing)

    def take(self, channel: Channel) -> Playout:
        """Return a playout of a channel: a spare one if there is one, or else a new one."""
        self._in_use += 1
        # A spare playout that rests has no engine any more.
        self._spare = [(other, each) for other, each in self._spare if not each.is_resting]
        for index, (other, playout) in enumerate(self._spare):
            if other is channel:
                del self._spare[index]
                return channel.open_private(playout)
        return channel.open_private()

    def give_back(self, channel: Channel, playout: Playout) -> None:
        """Make a playout without viewers a spare one, or close it if it has failed."""
        self._in_use -= 1
        channel.private.discard(playout)
        if playout.error is None:
            self._spare.append((channel, playout))
            self.trim()
        else:
            self._close_soon(playout)

    def beside(self, channel: Channel, playout: Playout) -> Playout:
        """Return a playout of another rung, which is to replace a private one of a viewer.

        It counts as in use until one of the two is given to `discard`.
        """
        self._in_use += 1
        following = channel.open_private()
        following.seek(playout.frame)
        return following

    def discard(self, channel: Channel, playout: Playout) -> None:
        """End a playout that `beside` has made, or the one that it has replaced."""
        self._in_use -= 1
        channel.private.discard(playout)
        self._close_soon(playout)

    def trim(self) -> None:
        """Close the oldest spare playouts for which there is no room."""
        excess = max(len(self._spare) - max(self.left, 0), 0)
        for _, playout in self._spare[:excess]:
            self._close_soon(playout)
        del self._spare[:excess]

    async def close(self) -> None:
        """Close the spare playouts, and wait for all that are closing."""
        for _, playout in self._spare:
            self._close_soon(playout)
        self._spare.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_soon(self, playout: Playout) -> None:
        closing = asyncio.create_task(asyncio.to_thread(playout.close))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

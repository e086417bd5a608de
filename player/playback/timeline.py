"""The position in a playlist, and the controls that change it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from player.playback.clip_source import ClipSource


@dataclass
class Change:
    """Changes of a timeline that its decoder has not followed yet."""

    source: bool = False
    """Whether another clip is selected, or the same one is to be opened again."""
    target: float | None = None
    """Frame to continue from; None if the position has not changed."""
    speed: bool = False
    """Whether the speed has changed."""

    @property
    def moves(self) -> bool:
        """Whether the picture that is being decoded is out of date."""
        return self.source or self.target is not None


class Timeline:
    """A playlist with a position and controls.

    The event loop's thread changes it; the encoder thread follows the changes and reports what
    it shows. `lock` makes several steps one.
    """

    def __init__(self, sources: Sequence[ClipSource]) -> None:
        self.sources = sources
        self.playing = True
        self.loop = True
        self.speed = Fraction(1)
        """Frames of the clip from one picture to the next."""
        self.index = 0
        """Index of the clip that plays."""
        self.frame = 0.0
        """Time of the picture that was shown last, in frames since the clip's start."""
        self.lock = threading.RLock()
        self._change = Change(target=0.0)
        self._end = 0
        """End of the clip when the encoder thread last looked, in frames."""
        self._next: int | None = None
        """Index of the clip to continue with at the next tick."""
        self._awaits_more = False
        """Whether playing stopped at the end of a clip whose file may still grow."""

    @property
    def source(self) -> ClipSource:
        """The clip that plays."""
        return self.sources[self.index]

    @property
    def rate(self) -> Fraction:
        """Frames per second of the clip that plays."""
        return self.source.clip.header.rate

    @property
    def next_index(self) -> int | None:
        """Index of the clip after the present one; None if playing ends with the present one."""
        following = (self.index + 1) % len(self.sources)
        return following if self.loop or following > 0 else None

    def seek(self, frame: float) -> None:
        """Continue from a frame."""
        with self.lock:
            self._change.target = self.frame = float(frame)
            self._awaits_more = False
            self._next = None

    def step(self, frames: int) -> None:
        """Pause, and move by a number of frames, to a whole frame."""
        with self.lock:
            self.playing = False
            # Between two frames, the whole frame on either side is one step away.
            whole = -(-self.frame // 1) if frames < 0 else self.frame // 1
            self.seek(min(max(whole + frames, 0.0), self.source.clip.end - 1.0))

    def set_speed(self, speed: Fraction) -> None:
        """Continue with a number of frames of the clip from one picture to the next."""
        with self.lock:
            self.speed = speed
            self._change.speed = True

    def select(self, index: int) -> None:
        """Continue with a clip of the playlist, from its start."""
        with self.lock:
            self.index = index
            self._change.source = True
            self.seek(0)

    def reopen(self) -> None:
        """Have the clip opened again, at the present position."""
        with self.lock:
            self._change.source = True
            if self._change.target is None:
                self._change.target = self.frame

    def take_change(self) -> Change:
        """Return the changes since the last call."""
        with self.lock:
            change = self._change
            self._change = Change()
            if change.source:
                self._end = self.source.clip.end
            return change

    def take_growth(self) -> bool:
        """Return whether the clip has become longer, and play on if playing awaited that."""
        with self.lock:
            end = self.source.clip.end
            if end == self._end:
                return False
            self._end = end
            self.playing = self.playing or self._awaits_more
            self._awaits_more = False
            return True

    def show(self, frame: float) -> bool:
        """Note the time of the picture that is shown now.

        Return False, and note nothing, if the picture is out of date.
        """
        with self.lock:
            if self._change.moves:
                return False
            self.frame = frame
            return True

    def seconds_left(self, frame: float) -> float:
        """Return the time from a frame to the clip's end, in seconds at the present speed."""
        return float((self._end - frame) / (self.rate * self.speed))

    def end_clip(self) -> None:
        """Continue with the next clip at the next tick, or stop if there is none.

        A single clip in a loop has no end: its decoder starts again by itself.
        """
        with self.lock:
            following = self.next_index
            if self._change.moves or not self.playing:
                return
            if following is None:
                self.playing = False
                self._awaits_more = self.source.follows
            elif len(self.sources) > 1:
                self._next = following

    def start_next(self) -> bool:
        """Continue with the next clip, if the present one has ended; return whether it has."""
        with self.lock:
            if self._next is None:
                return False
            self.select(self._next)
            return True

    def skip(self) -> None:
        """Continue with the next clip of the playlist, since the present one cannot be played."""
        self.select((self.index + 1) % len(self.sources))

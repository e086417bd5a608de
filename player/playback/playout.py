"""Clips on the air: a timeline, the thread that encodes at the clip's pace, and the viewers of each codec."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction

from encoder.common.errors import CodecError
from export.engines.base import Frames
from player.metrics import ClipMetrics, StreamStats
from player.playback.clip_source import ClipSource
from player.playback.decode_thread import DecodeThread, Picture
from player.playback.frame_clock import FrameClock
from player.playback.latency_stamp import stamped
from player.rtc.fanout import Broadcast, ViewerTrack
from player.rtc.video_encoder import CODECS, CodecName

MIN_SPEED = Fraction(1, 10)
MAX_SPEED = Fraction(8)
IDLE_SECONDS = 60.0
"""Time without viewers after which the engine is given back."""
FIRST_SECONDS = 0.05
"""Time to wait for the first picture before one looks for other wishes."""
MAX_INTERVAL_SECONDS = 1.0
"""Longer times between two pictures are pauses of nobody watching."""
EARLY_SECONDS = 3.0
"""Time before a clip's end at which the next clip's engine is opened."""

logger = logging.getLogger(__name__)


class Playout:
    """Streams clips, one after another, to viewers who share one timeline. The threads start with the first viewer."""

    def __init__(
        self,
        items: Sequence[ClipSource],
        counts: ClipMetrics,
        *,
        bitrate: int | None = None,
        stamp: bool = False,
        keep: bool = False,
    ) -> None:
        """Take bits per second, or leave them to the video encoder.

        Draw the time into the pictures if told so; keep the engine while nobody watches if told so.
        """
        self.items = items
        self.stamp = stamp
        self.error: str | None = None
        """What ended the stream, if something did."""
        self.frame = 0.0
        """Time that was shown last, in frames since the clip's start."""
        self.playing = True
        self.loop = True
        self.speed = Fraction(1)
        """Frames of the clip from one picture to the next."""
        self._counts = counts
        self._keep = keep
        self._index = 0
        self._waits = False
        """Whether playing has ended with the clip's file, of which there may be more."""
        self._following: int | None = None
        """The clip of the playlist that comes at the next tick."""
        self._failures = 0
        """Clips of the playlist in a row that could not be played."""
        self._has_decoded = False
        self._broadcasts: Mapping[CodecName, Broadcast] = {
            codec: Broadcast(codec, counts, bitrate=bitrate) for codec in CODECS
        }
        # One for good: encoders want timestamps that only ever rise.
        self._pacer = FrameClock(items[0].clip.header.rate)
        self._missed = 0
        self._target: float | None = 0.0
        """Where to go next."""
        self._switch = self._speed_changed = False
        """What the thread has not done yet."""
        self._picture: Picture | None = None
        self._reader: DecodeThread | None = None
        self._upcoming: tuple[int, DecodeThread] | None = None
        """A clip of the playlist, by its index, that is opened before it is needed."""
        self._stopping: list[DecodeThread] = []
        self._end = 0
        self._sent = time.monotonic()
        """When a picture was encoded last."""
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closed = False

    @property
    def item(self) -> ClipSource:
        """The clip that plays."""
        return self.items[self._index]

    @property
    def viewers(self) -> list[ViewerTrack]:
        """All viewers."""
        return [viewer for broadcast in self._broadcasts.values() for viewer in broadcast.viewers]

    @property
    def is_resting(self) -> bool:
        """Whether its threads have ended, and its engine is given back."""
        return self._thread is None

    @property
    def is_ready(self) -> bool:
        """Whether pictures have been decoded, and can be still."""
        return self._has_decoded and self.error is None

    @property
    def figures(self) -> StreamStats:
        """How fast it goes now."""
        reader = self._reader
        broadcasts = self._broadcasts.values()
        viewers = self.viewers
        encode_fps = max(broadcast.meter.per_busy_second for broadcast in broadcasts)
        return StreamStats(
            engine=reader.engine_name if reader else None,
            decode_fps=reader.meter.per_busy_second if reader else 0.0,
            encode_fps=encode_fps,
            encode_ms=1000 / encode_fps if encode_fps else 0.0,
            sent_fps=min((viewer.meter.per_second for viewer in viewers), default=0.0),
            bitrate=sum(broadcast.bits.per_second for broadcast in broadcasts),
            ahead=reader.ahead if reader else 0,
            missed=self._missed,
            dropped=sum(viewer.dropped for viewer in viewers),
            viewers=len(viewers),
            damaged=len(self.item.clip.damage) + (reader.lost_segments if reader else 0),
        )

    def join(self, viewer: ViewerTrack) -> None:
        """Send packets to a viewer; for the event loop's thread."""
        if not self._closed:
            self._broadcasts[viewer.codec].join(viewer)
            self.start()

    def start(self) -> None:
        """Decode, so that the first viewer need not wait; for the event loop's thread."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._failures = 0
                self.error = None
                self._picture = None
                self._switch = True
                if self._target is None:
                    self._target = self.frame
                self._thread = threading.Thread(
                    target=self._run, args=(asyncio.get_running_loop(),), name="encoder"
                )
                self._thread.start()
        self._wake.set()

    def leave(self, viewer: ViewerTrack) -> None:
        """Send no more packets to a viewer; for the event loop's thread."""
        self._broadcasts[viewer.codec].leave(viewer)

    def seek(self, frame: float) -> None:
        """Show a frame, and go on from it if the clip is playing."""
        with self._lock:
            self._target = self.frame = float(frame)
            self._waits = False
            self._following = None
        if self.error is not None and self.viewers:
            self.start()  # of those who still watch somebody tries again
        self._wake.set()

    def step(self, frames: int) -> None:
        """Pause, and show the frame so many frames on."""
        with self._lock:
            self.playing = False
            # From a time in between, the next whole frame on either side is one step away.
            whole = -(-self.frame // 1) if frames < 0 else self.frame // 1
            self.seek(min(max(whole + frames, 0.0), self.item.clip.end - 1.0))

    def set_speed(self, speed: Fraction) -> None:
        """Go on with so many frames of the clip from one picture to the next."""
        with self._lock:
            self.speed = speed
            self._speed_changed = True

    def play_item(self, index: int) -> None:
        """Play a clip of the playlist from its start."""
        with self._lock:
            self._index = index
            self._switch = True
            self.seek(0)

    def close(self) -> None:
        """End the threads and wait for them."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join()
        for reader in self._stopping:
            reader.join()

    def _run(self, events: asyncio.AbstractEventLoop) -> None:
        try:
            while self._go_on_or_over(events):
                pass
        except CodecError as error:
            self.error = str(error)
            logger.error("streaming ended: %s", error)  # noqa: TRY400 - one line, no traceback
        except Exception:
            # Our bug or a library's: the log gets all of it, and the page says that it is over.
            self.error = "internal error, see the server's log"
            logger.exception("streaming ended")
        with self._lock:
            if self._thread is threading.current_thread():
                self._finish()

    def _go_on_or_over(self, events: asyncio.AbstractEventLoop) -> bool:
        """Go on; from a clip of a playlist that cannot be played to the next one, unless none can."""
        try:
            return self._go_on(events)
        except CodecError as error:
            self._failures += 1
            if self._failures >= len(self.items):
                raise
            logger.warning("%s is left out: %s", self.item.name, error)
            self._go_to((self._index + 1) % len(self.items))
            return True

    def _go_on(self, events: asyncio.AbstractEventLoop) -> bool:
        """Wait for what is next and send a picture; return whether to go on."""
        self._wake.clear()
        if self._closed:
            return False
        reader = self._prepare()
        if self._picture is None:
            # Nobody waits for a tick to see where a seek led.
            picture = reader.read(FIRST_SECONDS)
            if picture is not None and self._show(picture):
                self._pacer.restart(self.item.clip.header.rate)
                self._send(self._pacer.take()[0], events)
        elif not any(broadcast.viewers for broadcast in self._broadcasts.values()):
            return self._idle()
        elif not self._wake.wait(self._pacer.wait_seconds()):
            self._tick(reader, events)
        return True

    def _prepare(self) -> DecodeThread:
        """Do what was wished for since the last tick."""
        with self._lock:
            reader = self._reader
            if self._switch or reader is None:
                reader = self._reader = self._open(reader)
            elif self._target is not None:
                reader.set_speed(self.speed)
                reader.seek(self._target)
                self._picture = None
            elif self._speed_changed:
                reader.set_speed(self.speed)
            self._switch = self._speed_changed = False
            self._target = None
            if self.item.clip.end != self._end:  # the clip has become longer
                self._end = self.item.clip.end
                reader.go_on()
                self.playing = self.playing or self._waits
                self._waits = False
            return reader

    def _open(self, present: DecodeThread | None) -> DecodeThread:
        """Read another clip instead of the present one: what was opened early, or else anew."""
        upcoming = self._upcoming
        self._upcoming = None
        self._stop(present)
        self._picture = None
        self._end = self.item.clip.end
        if upcoming is not None and upcoming[0] == self._index and not self._target:
            upcoming[1].set_speed(self.speed)
            return upcoming[1]
        self._stop(upcoming[1] if upcoming else None)
        return self._read(self._index, self._target or 0.0)

    def _read(self, index: int, start: float) -> DecodeThread:
        item = self.items[index]
        return DecodeThread(
            item.clip, item.open_engine, start=start, speed=self.speed, counts=self._counts
        )

    def _show(self, picture: Picture) -> bool:
        """Make a picture the present one, unless something else is wished for by now."""
        with self._lock:
            if self._target is not None or self._switch:
                return False
            self._picture = picture
            self.frame = picture.time
            self._has_decoded = True
            self._failures = 0
            return True

    def _go_to(self, index: int) -> None:
        """Play a clip of the playlist next."""
        with self._lock:
            self._index = index
            self._switch = True
            self._target = 0.0
            self.frame = 0.0
            self._following = None

    def _idle(self) -> bool:
        """Wait for a viewer; return whether one came in time."""
        if not self._wake.wait(None if self._keep else IDLE_SECONDS):
            with self._lock:
                if not any(broadcast.viewers for broadcast in self._broadcasts.values()):
                    self._finish()
                    return False
        self._pacer.restart(self.item.clip.header.rate)  # nobody missed the ticks that passed
        return True

    def _tick(self, reader: DecodeThread, events: asyncio.AbstractEventLoop) -> None:
        pts, left_out = self._pacer.take()
        self._miss(left_out)
        following = self._following
        if following is not None and self.playing:
            self._go_to(following)
            return
        if self.playing:
            picture = reader.read()
            if picture is None:
                self._miss(1)
                return
            if not self._show(picture):
                return
        self._send(pts, events)
        if self.playing:
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Open the next clip early, and go on to it, or stop, at the end of this one."""
        picture = self._picture
        count = len(self.items)
        assert picture is not None  # it was sent
        following = (self._index + 1) % count
        goes_on = self.loop or following > 0
        rest = float((self._end - picture.time) / (self.item.clip.header.rate * self.speed))
        if goes_on and count > 1 and rest < EARLY_SECONDS and self._upcoming is None:
            self._upcoming = following, self._read(following, 0.0)
        if not picture.is_last or (goes_on and count == 1):
            return
        if not goes_on:
            self.playing = False
            self._waits = self.item.follows
        else:
            self._following = (
                following  # at the next tick: the last picture is shown as long as any other
            )

    def _miss(self, ticks: int) -> None:
        self._missed += ticks
        self._counts.missed.inc(ticks)

    def _send(self, pts: int, events: asyncio.AbstractEventLoop) -> None:
        picture = self._picture
        assert picture is not None  # it is shown
        pixels: Frames = stamped(picture.pixels, time.time()) if self.stamp else picture.pixels
        now = time.monotonic()
        self._counts.interval_seconds.observe(min(now - self._sent, MAX_INTERVAL_SECONDS))
        self._sent = now
        for broadcast in self._broadcasts.values():
            if broadcast.viewers:
                broadcast.send(pixels, pts, self.item.clip.header.rate, events)

    def _stop(self, reader: DecodeThread | None) -> None:
        """End a reader, without waiting for it."""
        self._stopping = [stopping for stopping in self._stopping if not stopping.has_ended]
        if reader is not None:
            reader.stop()
            self._stopping.append(reader)

    def _finish(self) -> None:
        """Give back the engines and encoders at the thread's end."""
        self._stop(self._reader)
        self._stop(self._upcoming[1] if self._upcoming else None)
        self._reader = self._upcoming = self._thread = None
        for broadcast in self._broadcasts.values():
            broadcast.rest()

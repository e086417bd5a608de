"""Clips on the air: viewers who share one timeline, and the thread that encodes for them."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from fractions import Fraction

from encoder.common.errors import CodecError
from player.metrics import ClipMetrics, StreamStats
from player.playback.broadcasts import Broadcasts
from player.playback.clip_source import ClipSource
from player.playback.clock import SYSTEM_CLOCK, Clock
from player.playback.decode_thread import DecodeThread
from player.playback.decoders import Decoders
from player.playback.encoder_loop import EncoderLoop
from player.playback.timeline import Timeline
from player.rtc.fanout import ViewerTrack

MIN_SPEED = Fraction(1, 10)
MAX_SPEED = Fraction(8)

logger = logging.getLogger(__name__)


class Playout:
    """Streams clips, one after another, to viewers who share one timeline.

    Its threads start with the first viewer, and end after a while without viewers. The methods
    are for the event loop's thread, except `close`.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        counts: ClipMetrics,
        *,
        bitrate: int | None = None,
        stamp: bool = False,
        keep: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        decode: type[DecodeThread] = DecodeThread,
    ) -> None:
        """Encode at a number of bits per second, or at one that fits the size of the pictures.

        Draw the time into each picture if `stamp` is true. Keep the engine without viewers if
        `keep` is true. `decode` makes the decoder of a clip.
        """
        self.error: str | None = None
        """Reason why the playout ended; None while it can run."""
        self._timeline = Timeline(sources)
        self._decoders = Decoders(sources, counts, decode)
        self._broadcasts = Broadcasts(counts, bitrate=bitrate, stamp=stamp, clock=clock)
        self._loop = EncoderLoop(
            self._timeline, self._decoders, self._broadcasts, counts, keep=keep, clock=clock
        )
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        """Lock of the thread's start and end."""

    @property
    def sources(self) -> Sequence[ClipSource]:
        """The clips of the playlist."""
        return self._timeline.sources

    @property
    def source(self) -> ClipSource:
        """The clip that plays."""
        return self._timeline.source

    @property
    def stamp(self) -> bool:
        """Whether the time is drawn into each picture."""
        return self._broadcasts.stamp

    @property
    def frame(self) -> float:
        """Time of the picture that was shown last, in frames since the clip's start."""
        return self._timeline.frame

    @property
    def playing(self) -> bool:
        """Whether the timeline advances."""
        return self._timeline.playing

    @playing.setter
    def playing(self, playing: bool) -> None:
        self._timeline.playing = playing

    @property
    def loop(self) -> bool:
        """Whether the playlist starts again after its end."""
        return self._timeline.loop

    @loop.setter
    def loop(self, loop: bool) -> None:
        self._timeline.loop = loop

    @property
    def speed(self) -> Fraction:
        """Frames of the clip from one picture to the next."""
        return self._timeline.speed

    @property
    def viewers(self) -> list[ViewerTrack]:
        """All viewers."""
        return self._broadcasts.viewers

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; nobody can join any more."""
        return self._loop.is_closed

    @property
    def is_resting(self) -> bool:
        """Whether its threads have ended, and its engine is given back."""
        return self._thread is None

    @property
    def is_ready(self) -> bool:
        """Whether pictures have been decoded, and can be still."""
        return self._loop.has_decoded and self.error is None

    @property
    def stats(self) -> StreamStats:
        """Its present speeds and counts."""
        decoder = self._decoders.present
        viewers = self.viewers
        encode_fps = self._broadcasts.encode_fps
        return StreamStats(
            engine=decoder.engine_name if decoder else None,
            decode_fps=decoder.meter.per_busy_second if decoder else 0.0,
            encode_fps=encode_fps,
            encode_ms=1000 / encode_fps if encode_fps else 0.0,
            sent_fps=min((viewer.meter.per_second for viewer in viewers), default=0.0),
            bitrate=self._broadcasts.bitrate,
            ahead=decoder.ahead if decoder else 0,
            missed=self._loop.missed,
            dropped=sum(viewer.dropped for viewer in viewers),
            viewers=len(viewers),
            damaged=len(self.source.clip.damage) + (decoder.lost_segments if decoder else 0),
        )

    def join(self, viewer: ViewerTrack) -> None:
        """Send packets to a viewer, unless the playout is closed."""
        if not self.is_closed:
            self._broadcasts.join(viewer)
            self.start()

    def leave(self, viewer: ViewerTrack) -> None:
        """Send no more packets to a viewer."""
        self._broadcasts.leave(viewer)

    def start(self) -> None:
        """Start the threads, unless they run or the playout is closed.

        A first picture is decoded then, also without viewers.
        """
        with self._lock:
            if self._thread is None and not self.is_closed:
                self.error = None
                self._timeline.reopen()
                self._thread = threading.Thread(
                    target=self._run, args=(asyncio.get_running_loop(),), name="encoder"
                )
                self._thread.start()
        self._loop.wake()

    def seek(self, frame: float) -> None:
        """Show a frame, and continue from it if the timeline advances."""
        self._timeline.seek(frame)
        self._follow()

    def step(self, frames: int) -> None:
        """Pause, and move by a number of frames."""
        self._timeline.step(frames)
        self._follow()

    def play_source(self, index: int) -> None:
        """Continue with a clip of the playlist, from its start."""
        self._timeline.select(index)
        self._follow()

    def set_speed(self, speed: Fraction) -> None:
        """Continue with a number of frames of the clip from one picture to the next."""
        self._timeline.set_speed(speed)

    def close(self) -> None:
        """End the threads and wait for them; for any thread but theirs."""
        with self._lock:
            self._loop.close()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._decoders.join()

    def _follow(self) -> None:
        """Show the new position; after an error, try again for those who still watch."""
        if self.error is not None and self.viewers:
            self.start()
        self._loop.wake()

    def _run(self, events: asyncio.AbstractEventLoop) -> None:
        """Run the encoder loop in a thread of its own."""
        has_ended = False
        while not has_ended:
            error = self._encode(events)
            with self._lock:
                # A viewer may have joined since the loop gave up waiting for one.
                is_needed = self._broadcasts.has_viewers and not self.is_closed
                has_ended = error is not None or not is_needed
                if has_ended:
                    self.error = error
                    self._release()

    def _encode(self, events: asyncio.AbstractEventLoop) -> str | None:
        """Run the encoder loop, and return the error that ended it, if any."""
        try:
            self._loop.run(events)
        except CodecError as error:
            logger.error("streaming ended: %s", error)  # noqa: TRY400 - one line, no traceback
            return str(error)
        except Exception:
            # A bug of ours or of a library: the log gets its traceback, the page this line.
            logger.exception("streaming ended")
            return "internal error, see the server's log"
        return None

    def _release(self) -> None:
        """Give the engines and encoders back at the thread's end."""
        self._decoders.stop()
        self._broadcasts.rest()
        self._thread = None

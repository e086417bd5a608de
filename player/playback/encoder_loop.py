"""The work of the encoder thread: a picture at each tick of the clip's rate."""

import asyncio
import logging
from fractions import Fraction
from itertools import takewhile

from encoder.codec.sound import RATE
from encoder.common.errors import CodecError
from player.metrics import ClipMetrics
from player.playback.broadcasts import Broadcasts
from player.playback.clock import SYSTEM_CLOCK, Clock
from player.playback.decode_thread import DecodedPicture, DecodeThread
from player.playback.decoders import Decoders
from player.playback.frame_clock import FrameClock
from player.playback.timeline import Timeline
from player.rtc.sound_sender import Part
from player.rtc.video_encoder import CLOCK_RATE

IDLE_SECONDS = 60.0
"""Time without viewers after which the engine is given back."""
FIRST_SECONDS = 0.05
"""Time to wait for the first picture before new changes of the timeline are followed."""
EARLY_SECONDS = 3.0
"""Time before a clip's end at which the next clip's decoder is opened."""

logger = logging.getLogger(__name__)


class EncoderLoop:
    """Follows a timeline: reads its pictures from decoders and sends them to broadcasts."""

    def __init__(
        self,
        timeline: Timeline,
        decoders: Decoders,
        broadcasts: Broadcasts,
        counts: ClipMetrics,
        *,
        keep: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Go on without viewers for ever if `keep` is true."""
        self.missed = 0
        """Number of ticks without a new picture."""
        self.has_decoded = False
        """Whether a picture has been decoded."""
        self.is_closed = False
        self._timeline = timeline
        self._decoders = decoders
        self._broadcasts = broadcasts
        self._counts = counts
        self._idle_seconds = None if keep else IDLE_SECONDS
        # One for all runs, since encoders want timestamps that only rise.
        self._frame_clock = FrameClock(timeline.rate, clock=clock.monotonic)
        self._wake = clock.make_event()
        self._picture: DecodedPicture | None = None
        """The picture that is shown; None until the first one after a change is decoded."""
        self._failures = 0
        """Number of clips in a row that could not be played."""

    def wake(self) -> None:
        """Follow the timeline's changes now; for any thread."""
        self._wake.set()

    def close(self) -> None:
        """Let `run` return soon, for good; for any thread."""
        self.is_closed = True
        self._wake.set()

    def run(self, events: asyncio.AbstractEventLoop) -> None:
        """Send pictures until the loop is closed or nobody has watched for IDLE_SECONDS.

        A clip of a playlist that cannot be played is skipped. Raises CodecError if none can.
        """
        self._failures = 0
        is_running = True
        while is_running:
            try:
                is_running = self._run_once(events)
            except CodecError as error:
                self._failures += 1
                if self._failures >= len(self._timeline.sources):
                    raise
                logger.warning("%s is left out: %s", self._timeline.source.name, error)
                self._timeline.skip()

    def _run_once(self, events: asyncio.AbstractEventLoop) -> bool:
        """Wait for a picture, a tick or a change, and act on it; return whether to continue."""
        self._wake.clear()
        if self.is_closed:  # if it is closed from here on, that ends the next wait
            return False
        decoder = self._follow_timeline()
        if self._picture is None:
            # A seek shows its picture at once, without waiting for a tick.
            picture = decoder.read(FIRST_SECONDS)
            if picture is not None and self._show(picture):
                self._frame_clock.restart(self._timeline.rate)
                pts, _ = self._frame_clock.take()
                sound = self._sound(picture, pts) if self._timeline.playing else None
                self._send(picture, pts, events, sound=sound)
        elif not self._broadcasts.has_viewers:
            return self._wait_for_viewers()
        elif not self._wake.wait(self._frame_clock.wait_seconds()):
            self._tick(self._picture, decoder, events)
        return True

    def _follow_timeline(self) -> DecodeThread:
        """Apply the timeline's changes to the decoder, and return it."""
        timeline = self._timeline
        decoder = self._decoders.present
        with timeline.lock:
            change = timeline.take_change()
            if change.moves:
                self._picture = None
            if change.source or decoder is None:
                start = change.target or 0.0
                decoder = self._decoders.open(timeline.index, start=start, speed=timeline.speed)
            elif change.target is not None:
                decoder.set_speed(timeline.speed)
                decoder.seek(change.target)
            elif change.speed:
                decoder.set_speed(timeline.speed)
            if timeline.take_growth():
                decoder.go_on()
        return decoder

    def _show(self, picture: DecodedPicture) -> bool:
        """Make a picture the one that is shown, unless it is out of date."""
        if not self._timeline.show(picture.time):
            return False
        self._picture = picture
        self.has_decoded = True
        self._failures = 0
        return True

    def _wait_for_viewers(self) -> bool:
        """Return whether the loop was woken before its time without viewers was over."""
        woken = self._wake.wait(self._idle_seconds)
        self._frame_clock.restart(self._timeline.rate)  # nobody missed the ticks that passed
        return woken

    def _tick(
        self, picture: DecodedPicture, decoder: DecodeThread, events: asyncio.AbstractEventLoop
    ) -> None:
        """Send the next picture, or the present one again during a pause."""
        pts, skipped = self._frame_clock.take()
        self._miss(skipped)
        if not self._timeline.playing:
            self._send(picture, pts, events)
        elif not self._timeline.start_next():
            following = decoder.read()
            if following is None:
                self._miss(1)
            elif self._show(following):
                self._send(following, pts, events, sound=self._sound(following, pts))
                self._look_ahead(following)

    def _look_ahead(self, picture: DecodedPicture) -> None:
        """Open the next clip's decoder early, and end this clip after its last picture."""
        timeline = self._timeline
        following = timeline.next_index
        is_near = timeline.seconds_left(picture.time) < EARLY_SECONDS
        if following is not None and following != timeline.index and is_near:
            self._decoders.look_ahead(following, timeline.speed)
        if picture.is_last:
            timeline.end_clip()

    def _miss(self, ticks: int) -> None:
        self.missed += ticks
        self._counts.missed.inc(ticks)

    def _sound(self, picture: DecodedPicture, pts: int) -> Part | None:
        """Return the sound that plays with a picture; None at other speeds than the clip's."""
        timeline = self._timeline
        sound = timeline.source.clip.sound
        if sound is None or timeline.speed != 1:
            return None
        start = Fraction(picture.time) / timeline.rate
        numbers = range(*map(sound.format.number_at, (start, start + 1 / timeline.rate)))
        packets = [sound.packet(number) or b"" for number in numbers]
        # A part ends at a packet that is missing.
        known = tuple(takewhile(bool, packets))
        lead = round((sound.format.seconds(numbers.start) - start) * RATE)
        return Part(known, pts * RATE // CLOCK_RATE, lead) if known else None

    def _send(
        self,
        picture: DecodedPicture,
        pts: int,
        events: asyncio.AbstractEventLoop,
        *,
        sound: Part | None = None,
    ) -> None:
        self._broadcasts.send(picture.pixels, pts, self._timeline.rate, events, sound)

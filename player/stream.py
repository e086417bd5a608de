"""A clip on the air: its timeline, the thread that encodes at the clip's pace, and the viewers of each codec."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from encoder.codec.clip import Clip
from encoder.codec.errors import CodecError
from encoder.codec.follower import Follower
from export.engine import Engine, Frames
from player.broadcast import Broadcast, Viewer
from player.pacer import Pacer
from player.reader import Reader
from player.video_encoder import CODECS, CodecName

WAITING_PACKETS = 15
"""Packets that may wait for a viewer before he counts as too slow."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How fast a stream goes, over the last seconds."""

    engine: str | None
    """None until the engine is loaded."""
    decode_fps: float
    """Frames per second of decoding, with nothing to wait for: what the engine could do."""
    encode_fps: float
    """Frames per second of encoding, with nothing to wait for."""
    sent_fps: float
    """Frames per second that were handed to RTP for the slowest viewer."""
    bitrate: float
    """Bits per second of all codecs' encoders."""
    ahead: int
    """Decoded frames that wait."""
    missed: int
    """Ticks of the clip's rate at which no new picture was ready in time, since the start."""
    dropped: int
    """Packets that present viewers were too slow for."""
    viewers: int


class Stream:
    """Streams a clip to its viewers, who share one timeline. The threads start with the first viewer."""

    def __init__(
        self, clip: Clip, open_engine: Callable[[], Engine], *, file_bytes: int, follower: Follower | None = None
    ) -> None:
        """Take what follows the clip's file, if that is still being written."""
        self.clip, self._follower = clip, follower
        self.file_bytes = file_bytes
        """Size of the clip's file."""
        self.error: str | None = None
        """What ended the stream, if something did."""
        self.frame = 0
        """Number of the frame that was shown last."""
        self.playing = True
        self.loop = True
        self.follows = follower is not None
        """Whether there may be more of the clip's file."""
        self._waits = False
        """Whether playing has ended with the clip's file, of which there may be more."""
        self._open = open_engine
        height, width = clip.header.even_size
        self._broadcasts: Mapping[CodecName, Broadcast] = {
            codec: Broadcast(codec, width, height, clip.header.rate) for codec in CODECS
        }
        # One for good: encoders want timestamps that only ever rise.
        self._pacer = Pacer(clip.header.rate)
        self._missed = 0
        self._seeks: deque[int] = deque(maxlen=1)
        self._picture: Frames | None = None
        self._reader: Reader | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False

    @property
    def figures(self) -> Figures:
        """How fast it goes now."""
        reader, broadcasts = self._reader, self._broadcasts.values()
        viewers = [viewer for broadcast in broadcasts for viewer in broadcast.viewers]
        return Figures(
            engine=reader.engine_name if reader else None,
            decode_fps=reader.meter.per_busy_second if reader else 0.0,
            encode_fps=max(broadcast.meter.per_busy_second for broadcast in broadcasts),
            sent_fps=min((viewer.meter.per_second for viewer in viewers), default=0.0),
            bitrate=sum(broadcast.bits.per_second for broadcast in broadcasts),
            ahead=reader.ahead if reader else 0,
            missed=self._missed,
            dropped=sum(viewer.dropped for viewer in viewers),
            viewers=len(viewers),
        )

    def viewer(self, codec: CodecName) -> Viewer:
        """Return a track for a new viewer, who gets packets once he joins."""
        return Viewer(WAITING_PACKETS, self._broadcasts[codec].request_keyframe)

    def join(self, codec: CodecName, viewer: Viewer) -> None:
        """Send packets to a viewer; for the event loop's thread."""
        if self._closed:
            return
        self._broadcasts[codec].viewers.add(viewer)
        viewer.request_keyframe()
        if self._thread is None or not self._thread.is_alive():
            if self._reader is not None:  # of a stream that ended with an error
                self._reader.close()
            self.error, self._picture = None, None
            self._reader = Reader(self._open)
            arguments = (self._reader, asyncio.get_running_loop())
            self._thread = threading.Thread(target=self._run, args=arguments, name="encoder")
            self._thread.start()
        self._wake.set()

    def leave(self, viewer: Viewer) -> None:
        """Send no more packets to a viewer; for the event loop's thread."""
        for broadcast in self._broadcasts.values():
            broadcast.viewers.discard(viewer)

    def seek(self, frame: int) -> None:
        """Show a frame, and go on from it if the clip is playing."""
        self._seeks.append(frame)
        self.frame = frame

    def follow(self) -> None:
        """Take what has come to the clip's file; for a thread that may wait."""
        follower, end, reader = self._follower, self.clip.end, self._reader
        if follower is None:
            return
        try:
            follower.read_on()
            is_over = follower.is_whole
        except CodecError as error:
            logger.warning("the clip ends at frame %d: %s", self.clip.end, error)
            is_over = True
        self.file_bytes = follower.file_bytes
        if self.clip.end > end:
            if reader is not None:
                reader.go_on()
            self.playing, self._waits = self.playing or self._waits, False
        if is_over:
            self.follows = False
            follower.close()

    def close(self) -> None:
        """End the threads and wait for them."""
        if self._follower is not None:
            self._follower.close()
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._reader is not None:
            self._reader.close()

    def _run(self, reader: Reader, events: asyncio.AbstractEventLoop) -> None:
        self._pacer.take()
        try:
            while True:
                self._wake.clear()
                if self._closed:
                    break
                watched = [broadcast for broadcast in self._broadcasts.values() if broadcast.viewers]
                if not watched:
                    self._wake.wait()
                    self._pacer.take()  # nobody missed the ticks that passed
                elif not self._wake.wait(self._pacer.wait_seconds()):
                    self._send_next(reader, watched, events)
        except CodecError as error:
            self.error = str(error)
            logger.error("streaming ended: %s", error)  # noqa: TRY400 - one line, no traceback
        except Exception:
            # Our bug or a library's: the log gets all of it, and the page says that it is over.
            self.error = "internal error, see the server's log"
            logger.exception("streaming ended")

    def _send_next(self, reader: Reader, watched: list[Broadcast], events: asyncio.AbstractEventLoop) -> None:
        pts, left_out = self._pacer.take()
        if self._picture is not None:  # at the start and after a seek the wait is no fault
            self._missed += left_out
        picture = self._next_picture(reader)
        if picture is None:
            self._missed += self._picture is not None
            return
        for broadcast in watched:
            broadcast.send(picture, pts, events)

    def _next_picture(self, reader: Reader) -> Frames | None:
        """Return the picture to show now: the next one, the same again during a pause, or None if it is not decoded yet."""
        if self._seeks:
            reader.seek(self._seeks.popleft())
            self._picture, self._waits = None, False
        if self._picture is not None and not self.playing:
            return self._picture
        following = reader.read()
        if following is None:
            return None
        self.frame, self._picture = following
        if self.frame == self.clip.end - 1 and not self.loop:
            self.playing, self._waits = False, self.follows
        return self._picture

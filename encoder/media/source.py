"""Videos and folders of images, read as upright 8-bit RGB frames of BT.709 at a constant rate."""

import logging
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from encoder.common.errors import SourceError
from encoder.media.colours import BACKGROUNDS, KNOWN, Converter
from encoder.media.decoding import Picture
from encoder.media.fields import Order, deinterlaced, field_order
from encoder.media.folder import open_folder
from encoder.media.geometry import default_size, display_size, letterboxed, orientation, same_shape
from encoder.media.reading import DEFAULT_READING, Reading
from encoder.media.size import Size, size_text
from encoder.media.tracks import Track, open_track
from encoder.media.video import THUMBNAIL, Video, check_memory

SEEK_FRAMES = 250
"""Distance in frames up to which reading on is faster than seeking."""
PEAK_LOOKS = 24
"""Approximate number of pictures in which the brightest light of the source is measured."""
PEAK_WIDTH = 480
"""Long side of these pictures, in pixels."""
PEAK_PICTURES = 3000
"""Maximum number of pictures that are decoded in a row for this measurement."""

logger = logging.getLogger(__name__)


def read_video(
    path: Path,
    *,
    size: Size | None = None,
    keep_size: bool = False,
    reading: Reading = DEFAULT_READING,
) -> Video:
    """Read a whole video file or folder of images, with frames as in `Source`.

    Raises SourceError if it cannot be read or does not fit into memory.
    """
    source = Source(path, size=size, keep_size=keep_size, reading=reading)
    check_memory(source.count, source.size)
    return Video(source.read(range(source.count)), source.rate)


class Source:
    """A video file or a folder of images, read in runs of frames, preferably forwards.

    Frames have the given width and height, or the source's own if `keep_size`. Otherwise they have
    at most DEFAULT_PIXELS. docs/reference/sources.md describes how sources are read.
    """

    def __init__(
        self,
        path: Path,
        *,
        size: Size | None = None,
        keep_size: bool = False,
        reading: Reading = DEFAULT_READING,
        track: Track | None = None,
    ) -> None:
        """Read the packets' times, unless a track has them, and a picture; raises SourceError."""
        if not path.exists():
            raise SourceError(f"no such file or folder: {path}")
        self.path = path
        """Path of the file or folder."""
        self._reading = reading
        if track is None:
            track = open_folder(path) if path.is_dir() else open_track(path, reading.track)
        self.track = track
        """Track or folder of the pictures."""
        self.timeline = self.track.timeline
        """Times at which the pictures are shown."""
        self._converter = Converter(
            self._peak_light,
            matrix=reading.matrix,
            background=reading.background,
            are_stills=path.is_dir(),
        )
        self._order: Order | None = None
        self._changed = False
        """Whether a picture of another shape than the first was reported."""
        self._seek(0)
        if self._next is None:
            raise SourceError(f"no frames in {path}")
        self._first = self._next
        self.colours = self._converter.colours(self._first.frame)
        """Coding of the first picture's colours."""
        self.shown_size = _shown_size(self._first)
        """Width and height of the upright pictures with square pixels."""
        self.size: Size = size or default_size(self.shown_size, keep_size=keep_size)
        """Width and height of the frames."""

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.timeline.rate

    @property
    def count(self) -> int:
        """Number of frames."""
        return self.timeline.count

    def thumbnails(self) -> "Source":
        """Return the same frames in thumbnail size."""
        scale = min(THUMBNAIL / max(self.size), 1.0)
        width, height = (max(round(side * scale), 2) for side in self.size)
        return Source(self.path, size=(width, height), reading=self._reading, track=self.track)

    def read(self, run: range) -> NDArray[np.uint8]:
        """Return a run of frames (T, 3, H, W); raises SourceError if the source is damaged."""
        if not self._reached <= run.start < self._reached + SEEK_FRAMES:
            self._seek(run.start)
        frames = np.empty((len(run), 3, *reversed(self.size)), np.uint8)
        filled = 0
        while filled < len(run):
            frames[filled] = self._convert(self._shown(run.start + filled))
            # In a gap, the previous picture stays.
            stop = min(self._stays, run.stop) - run.start
            frames[filled + 1 : stop] = frames[filled]
            filled = stop
        return frames

    @property
    def assumption(self) -> str:
        """Note for the clip's settings about colours that the source leaves open."""
        return f" ({KNOWN[self.colours.matrix]} assumed)" if self.colours.is_assumed else ""

    def facts(self) -> dict[str, object]:
        """Return the properties of the source, and how it is read, by name."""
        frame, timeline = self._first.frame, self.timeline
        return {
            "reads": self.track.name,
            "width": self.size[0],
            "height": self.size[1],
            "stored": size_text((frame.width, frame.height)),
            "pixel_aspect": str(self._first.pixel_aspect or 1),
            "turned": str(orientation(frame)),
            "frames": timeline.count,
            "fps": float(timeline.rate),
            "pictures": len(timeline.ticks),
            "left_out": timeline.left_out,
            "repeated": timeline.repeated,
            "jumps": "; ".join(map(str, timeline.jumps)),
            "colours": str(self.colours),
            "transparent": self.colours.transparent,
        }

    def notes(self) -> list[str]:
        """Return readable lines about everything that was picked, assumed or changed."""
        timeline, facts = self.timeline, self.facts()
        found = [
            f"{self.track.name}, {timeline.count} frames at {float(timeline.rate):.6g} per second",
            f"colours: {self.colours}",
        ]
        if facts["pixel_aspect"] != "1":
            found.append(
                f"pixels are not square: {facts['stored']} is shown as {size_text(self.shown_size)}"
            )
        if self.colours.transparent:
            found.append(
                f"transparent pictures are put upon {self._reading.background} (--background)"
            )
        if timeline.left_out:
            found.append(
                f"{timeline.left_out} of {len(timeline.ticks)} pictures are left out: "
                "others come at their time"
            )
        if timeline.repeated:
            found.append(f"{timeline.repeated} frames repeat the picture before them")
        return [
            *found,
            *self.track.notes,
            *(f"times jump {jump}: joined there" for jump in timeline.jumps),
        ]

    def _peak_light(self) -> float:
        """Return the brightest light, in cd/m2, of some pictures.

        Every reader of a source measures the same pictures.
        """
        width, height = (
            max(round(side * min(PEAK_WIDTH / max(self.shown_size), 1)), 1)
            for side in self.shown_size
        )
        return max(
            self._converter.light(picture.frame, (width, height))
            for picture in (self._first, *self._looks())
        )

    def _looks(self) -> Iterator[Picture]:
        """Yield pictures from the whole source: every few of a short one, key frames of a long one.

        If the source cannot seek, only its first pictures are used.
        """
        step = max(self.count // PEAK_LOOKS, 1)
        if self.count <= SEEK_FRAMES or not self.track.seeks:
            pictures = islice(self.track.open(0), PEAK_PICTURES)
            yield from (picture for index, picture in enumerate(pictures) if index % step == 0)
            return
        for tick in range(0, self.count, step):
            yield from islice(self.track.open(tick), 1)

    def _field_order(self) -> Order:
        """Return the field order, which is the same for all pictures."""
        if self._order is None:
            self._order = self.track.order or field_order(
                picture.frame for picture in self.track.open(0)
            )
        return self._order

    def _seek(self, tick: int) -> None:
        """Restart decoding at or before a tick."""
        pictures = ((picture.frame, picture) for picture in self.track.open(tick))
        self._pictures: Iterator[tuple[VideoFrame, Picture]] = (
            pictures if self.path.is_dir() else deinterlaced(pictures, self._field_order)
        )
        self._current: Picture | None = None
        self._reached = 0
        """Tick of the current picture."""
        self._next = self._pull(-1)
        if tick and (self._next is None or self._next.tick > tick):
            # Some containers only find their start.
            self._seek(0)

    def _shown(self, tick: int) -> Picture:
        """Return the picture shown at a tick, which must not precede that of the last call."""
        while self._next is not None and self._next.tick <= tick:
            self._current = self._next
            self._reached = self._next.tick
            self._next = self._pull(self._reached)
        if tick >= self._stays:
            raise SourceError(
                f"damaged video: {self.path} decodes to {self._reached + 1} of {self.count} frames"
            )
        if self._current is None:
            # At the very start, a decoder may wait for a key frame: show the first picture.
            assert self._next is not None  # an empty source was refused
            return self._next
        return self._current

    @property
    def _stays(self) -> int:
        """Tick at which the current picture ends."""
        if self._next is not None:
            return self._next.tick
        whole = self._reached + 1 >= self.timeline.last_tick
        return self.count if whole else self._reached + 1

    def _pull(self, after: int) -> Picture | None:
        """Return the next picture whose tick is later than `after`."""
        for frame, picture in self._pictures:
            if after < picture.tick < self.count:
                return picture._replace(frame=frame)
        return None

    def _convert(self, picture: Picture) -> NDArray[np.uint8]:
        """Return the upright pixels (3, H, W) of a picture.

        A picture of another shape than the first gets bars.
        """
        way = orientation(picture.frame)
        shown = _shown_size(picture)
        if same_shape(shown, self.shown_size):
            pixels = self._converter.convert(picture.frame, way.size(self.size))
            return way.apply(pixels).transpose(2, 0, 1)
        if not self._changed:
            self._changed = True
            logger.warning(
                "pictures of %s change from %s to %s at frame %d: put into the frame with bars",
                self.path,
                size_text(self.shown_size),
                size_text(shown),
                picture.tick,
            )
        # The frame's pixels need not be square if the user named another shape.
        scale = self.size[0] / self.shown_size[0], self.size[1] / self.shown_size[1]
        rows, columns = letterboxed(
            (max(round(shown[0] * scale[0]), 1), max(round(shown[1] * scale[1]), 1)), self.size
        )
        width, height = self.size
        frame = np.full((3, height, width), BACKGROUNDS[self._reading.background], np.uint8)
        inner = way.size((columns.stop - columns.start, rows.stop - rows.start))
        pixels = self._converter.convert(picture.frame, inner)
        frame[:, rows, columns] = way.apply(pixels).transpose(2, 0, 1)
        return frame


def _shown_size(picture: Picture) -> Size:
    return display_size(
        (picture.frame.width, picture.frame.height),
        picture.pixel_aspect,
        orientation(picture.frame),
    )

"""The file of a clip whose segments come in any order: it grows by each one whose turn it is."""

import contextlib
import zlib
from dataclasses import replace
from pathlib import Path

from encoder.codec.clip import Clip
from encoder.codec.container import Header
from encoder.codec.topology import Topology
from encoder.codec.writer import ClipWriter
from encoder.common.atomic_file import replacing
from encoder.common.errors import BitstreamError, RunError
from encoder.jobs.checkpoint import State
from encoder.jobs.gop import Finished
from encoder.jobs.run_state import RunState


class ClipAssembler:
    """Writes a clip; a file that was there before is kept until the new one is whole."""

    def __init__(
        self, output: Path, header: Header, topology: Topology, unfinished: RunState
    ) -> None:
        self._output = output
        self._unfinished = unfinished
        self._writer = ClipWriter(output, header, topology)
        self._waiting: dict[int, Finished] = {}
        self._checksums: list[int] = []
        """Of the segments that are written."""
        self.frames = 0
        """Number of frames that the file has."""
        self.states: list[State] = []
        """Of the networks of the segments that are written, as far as they are kept."""

    def take(self, index: int, finished: Finished) -> None:
        """Take the segment of a number, from 0.

        Raises OSError where the file cannot grow, RunError for another segment in place of one that is written.
        """
        if index < len(self._checksums):
            if zlib.crc32(bytes(finished.segment)) != self._checksums[index]:
                raise RunError(
                    f"segment {index} was fitted twice and came out differently: the states of workers are lost"
                )
            return
        self._waiting[index] = finished
        while (following := self._waiting.pop(len(self._checksums), None)) is not None:
            if not self._checksums:
                self._unfinished.keep()
            self._writer.add(following.segment)
            self._checksums.append(zlib.crc32(bytes(following.segment)))
            self.frames = following.segment.start + following.segment.frames
            if following.state is not None:
                self.states.append(following.state)

    def finish(self) -> None:
        """End the file, once all segments are there; raises OSError."""
        self._writer.finish()

    def stop(self) -> None:
        """Close the file, if there is one, as a whole clip of the segments that it has."""
        with contextlib.suppress(OSError):  # of what did not fit
            self._writer.close()
        if not self.frames:
            return
        # It can be played as it is, too.
        with contextlib.suppress(OSError, BitstreamError):
            clip = Clip.read(self._output, strict=False)
            try:
                with replacing(self._output) as part:
                    part.write_bytes(bytes(_shortened(clip, len(clip.segments))))
            except OSError:
                self._end_in_place(clip)

    def _end_in_place(self, clip: Clip) -> None:
        """Write a clip over the file: on a full disk, where no more fits than the file already takes."""
        room = self._output.stat().st_size
        lengths = range(len(clip.segments), 0, -1)
        whole = next(
            (data for count in lengths if len(data := bytes(_shortened(clip, count))) <= room), None
        )
        if whole is not None:
            with self._output.open("r+b") as file:
                file.write(whole)
                file.truncate()


def _shortened(clip: Clip, count: int) -> Clip:
    """Return the first segments of a clip as a clip of their own."""
    segments = clip.segments[:count]
    return replace(
        clip,
        header=replace(clip.header, frames=segments[-1].start + segments[-1].frames),
        segments=segments,
    )

"""Write a clip's file in order, from segments that arrive in any order."""

import contextlib
import zlib
from dataclasses import replace
from pathlib import Path

from encoder.codec.clip import Clip
from encoder.codec.container import Header
from encoder.codec.extras import Extras
from encoder.codec.topology import Topology
from encoder.codec.writer import NO_EXTRAS, ClipWriter
from encoder.common.atomic_file import replacing
from encoder.common.errors import BitstreamError, RunError
from encoder.jobs.checkpoint import State
from encoder.jobs.gop import Finished
from encoder.jobs.run_state import RunState


class ClipAssembler:
    """Writes a clip; an existing file is kept until the new one is complete."""

    def __init__(
        self,
        output: Path,
        header: Header,
        topology: Topology,
        unfinished: RunState,
        *,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        self._output = output
        self._unfinished = unfinished
        self._writer = ClipWriter(output, header, topology, extras)
        self._waiting: dict[int, Finished] = {}
        self._checksums: list[int] = []
        """CRC-32 of each segment that is written."""
        self.frames = 0
        """Number of frames in the file."""
        self.states: list[State] = []
        """States of the written segments' networks, if states are kept."""

    def take(self, index: int, finished: Finished) -> None:
        """Take the segment with a number, from 0, and write the segments whose turn has come.

        Raises OSError if the file cannot grow, RunError if a written segment comes again with other
        bytes.
        """
        if index < len(self._checksums):
            if zlib.crc32(bytes(finished.segment)) != self._checksums[index]:
                raise RunError(
                    f"segment {index} was fitted twice and came out differently: "
                    "the states of workers are lost"
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
        """Finish the file, once all segments are written; raises OSError."""
        self._writer.finish()

    def stop(self) -> None:
        """Close the file, if there is one, as a complete clip of the segments in it."""
        with contextlib.suppress(OSError):  # the disk may be full
            self._writer.close()
        if not self.frames:
            return
        # A failure is no loss: the file can be played as it is, too.
        with contextlib.suppress(OSError, BitstreamError):
            clip = Clip.read(self._output, strict=False)
            try:
                with replacing(self._output) as part:
                    part.write_bytes(bytes(_shortened(clip, len(clip.segments))))
            except OSError:
                self._end_in_place(clip)

    def _end_in_place(self, clip: Clip) -> None:
        """Overwrite the file with as many segments as fit in its size, as the disk is full."""
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

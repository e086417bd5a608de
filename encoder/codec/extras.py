"""Extras of a clip, beside its pictures: sound, subtitles, and facts about the film."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from encoder.codec.about import ABOUT, About
from encoder.codec.container import CHUNK_BYTES
from encoder.codec.sound import PACKETS, SOUND, Sound, SoundPart
from encoder.codec.subtitles import CUES, MILLISECONDS, TRACK, Cue, CuePart, TextTrack

Payload = tuple[bytes, bytes]
"""Type and payload of a chunk."""


@dataclass(frozen=True)
class Extras:
    """Everything but pictures, as far as it has arrived."""

    sound: Sound | None = None
    subtitles: Sequence[TextTrack] = ()
    about: About = field(default_factory=About)

    def file_bytes(self, stops: Iterable[Fraction]) -> int:
        """Return the bytes of all chunks in a clip whose segments end at some times in seconds."""
        chunks = ExtrasChunks(self)
        payloads = [*chunks.start, *(each for stop in stops for each in chunks.until(stop))]
        return sum(CHUNK_BYTES + len(payload) for _, payload in payloads)


class ExtrasChunks:
    """Maker of the chunks, in their order: each lies behind the segment in whose time it begins."""

    def __init__(self, extras: Extras) -> None:
        self._sound = extras.sound
        self._parts = deque[SoundPart](extras.sound.parts if extras.sound else ())
        self._cues = [deque[Cue](track.cues) for track in extras.subtitles]
        self.start: list[Payload] = []
        """Chunks before the first segment."""
        if about := bytes(extras.about):
            self.start.append((ABOUT, about))
        if extras.sound is not None:
            self.start.append((SOUND, bytes(extras.sound.format)))
        for number, track in enumerate(extras.subtitles):
            self.start.append((TRACK, track.description(number)))

    def until(self, stop: Fraction) -> Iterator[Payload]:
        """Yield the next chunks: sound and cues that begin before a time in seconds."""
        while self._sound and self._parts:
            if self._sound.format.seconds(self._parts[0].first) >= stop:
                break
            yield PACKETS, bytes(self._parts.popleft())
        for number, cues in enumerate(self._cues):
            found: list[Cue] = []
            while cues and cues[0].start < stop * MILLISECONDS:
                found.append(cues.popleft())
            if found:
                yield CUES, bytes(CuePart(number, tuple(found)))

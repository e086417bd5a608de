"""Reading of a clip's extras, chunk by chunk."""

from dataclasses import replace

from encoder.codec.about import ABOUT, About
from encoder.codec.container import Header
from encoder.codec.extras import Extras
from encoder.codec.sound import PACKETS, SOUND, Sound, SoundFormat, SoundPart
from encoder.codec.subtitles import (
    CUES,
    MAX_CUE_BYTES,
    MAX_CUES,
    MAX_TRACKS,
    MILLISECONDS,
    TRACK,
    Cue,
    CuePart,
    TextTrack,
    parse_description,
)
from encoder.common.errors import BitstreamError

KINDS = frozenset({ABOUT, SOUND, PACKETS, TRACK, CUES})
"""Types of the chunks."""


class ExtrasReader:
    """Reader of the chunks, in their order."""

    def __init__(self) -> None:
        self.found = Extras()
        """Extras so far; they get the parts and cues below as these arrive."""
        self.parts: list[SoundPart] = []
        """Parts of the sound so far."""
        self.cues: list[list[Cue]] = []
        """Cues of each text track so far."""
        self._kinds = set[bytes]()
        self._cue_bytes = 0

    def take(self, kind: bytes, payload: bytes, header: Header, *, begun: bool) -> None:
        """Take a chunk of a clip; `begun` tells whether there has been a segment.

        Raises BitstreamError if the chunk breaks a rule, which leaves all as it was.
        """
        if kind == PACKETS:
            self._take_sound(SoundPart.parse(payload), header)
        elif kind == CUES:
            if self._cue_bytes + len(payload) > MAX_CUE_BYTES:
                raise BitstreamError(f"cues of a clip have over {MAX_CUE_BYTES} bytes")
            self._take_cues(CuePart.parse(payload), header)
            self._cue_bytes += len(payload)
        elif begun or (kind in self._kinds and kind != TRACK):
            raise BitstreamError("it is out of order")
        elif kind == SOUND:
            sound = Sound(SoundFormat.parse(payload), self.parts)
            self.found = replace(self.found, sound=sound)
        elif kind == TRACK:
            self._begin_track(*parse_description(payload))
        else:
            self.found = replace(self.found, about=About.parse(payload))
        self._kinds.add(kind)

    def extend(self, other: "ExtrasReader") -> None:
        """Take over what the reader of another file of the same clip has beyond this one."""
        heard = self.parts[-1].stop if self.parts else 0
        self.parts += [part for part in other.parts if part.first >= heard]
        for known, cues in zip(self.cues, other.cues, strict=False):
            known.extend(cues[len(known) :])

    def _take_sound(self, part: SoundPart, header: Header) -> None:
        sound = self.found.sound
        if sound is None:
            raise BitstreamError("the sound is not described")
        last = part.stop - 1
        if part.first < sound.stop or sound.format.seconds(last) >= header.duration:
            raise BitstreamError(f"packets {part.first} to {last} cannot follow")
        self.parts.append(part)

    def _begin_track(self, number: int, track: TextTrack) -> None:
        if number != len(self.cues) or number >= MAX_TRACKS:
            raise BitstreamError("it is out of order")
        self.cues.append([])
        tracks = (*self.found.subtitles, replace(track, cues=self.cues[-1]))
        self.found = replace(self.found, subtitles=tracks)

    def _take_cues(self, part: CuePart, header: Header) -> None:
        if part.track >= len(self.cues):
            raise BitstreamError(f"text track {part.track} is not described")
        known = self.cues[part.track]
        first, last = part.cues[0].start, part.cues[-1].start
        follows = not known or known[-1].start <= first
        if not follows or last >= header.duration * MILLISECONDS:
            raise BitstreamError(f"cues from {first} to {last} ms cannot follow")
        if sum(map(len, self.cues)) + len(part.cues) > MAX_CUES:
            raise BitstreamError(f"clip has over {MAX_CUES} cues")
        known.extend(part.cues)

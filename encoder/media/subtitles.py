"""Subtitles of a source as cues of WebVTT, in time with its pictures."""

import logging
import re
from dataclasses import replace
from fractions import Fraction
from html import escape
from math import floor

from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle

from encoder.codec.plain_text import one_line
from encoder.codec.subtitles import (
    MAX_CUES,
    MAX_TITLE,
    MAX_TRACKS,
    MILLISECONDS,
    Cue,
    TextTrack,
    is_text,
)
from encoder.common.errors import SourceError
from encoder.media.decoding import opened
from encoder.media.metadata import language_of, shortened
from encoder.media.source import Source

ALL = "all"
NONE = "none"
STAYS = 5 * MILLISECONDS
"""Time for which a cue without an end is shown at most."""
FIELDS = 8
"""Commas before the text in FFmpeg's events of ASS."""
BLOCK = re.compile(r"\{([^}]*)\}")
"""Block of commands between texts of ASS."""
COMMAND = re.compile(r"\\(?:([biu])(\d*)|p(\d+)|(r))(?![a-z])")
"""Commands that are followed: bold, italic, underline, a drawing, and back to none of them."""
NO_BREAK = "\N{NO-BREAK SPACE}"
LINE_BREAKS = {r"\N": "\n", r"\n": " ", r"\h": NO_BREAK}
PLAIN = 400
"""Characters of a text that is too long for a cue: escaped, they fit in any case."""

logger = logging.getLogger(__name__)


def read_subtitles(source: Source, wanted: str) -> list[TextTrack]:
    """Return the text tracks of a source: `all`, `none`, or those in languages such as `en,de`.

    Tracks of pictures are left out, and so are tracks that repeat another. Raises SourceError.
    """
    if wanted == NONE or source.path.is_dir():
        return []
    languages = None if wanted == ALL else [each.strip() for each in wanted.split(",")]
    tracks: list[TextTrack] = []
    known: list[str] = []
    try:
        with opened(source.path) as container:
            for number, stream in enumerate(container.streams.subtitles):
                language = language_of(stream.metadata)
                known.append(language)
                if languages is not None and language not in languages:
                    continue
                title = shortened(stream.metadata.get("title", ""), MAX_TITLE)
                track = TextTrack(language, title, _cues(container, stream, source))
                if not track.cues:
                    logger.info("subtitle track %d has no text, and is left out", number)
                elif track not in tracks:
                    tracks.append(track)
                container.seek(0)
    except FFmpegError as error:
        raise SourceError(
            f"cannot read the subtitles of {source.path}: {error.strerror} "
            "(--subtitles none leaves them out)"
        ) from None
    except OSError as error:
        raise SourceError(f"cannot read {source.path}: {error.strerror}") from None
    for language in languages or ():
        if language not in known:
            found = ", ".join(filter(None, known)) or "none"
            raise SourceError(f"no subtitles in {language!r} in {source.path}, which has {found}")
    return _bounded(tracks)


def _cues(container: InputContainer, stream: SubtitleStream, source: Source) -> list[Cue]:
    """Return the cues of a track, in the order of their starts."""
    end = source.count / source.rate * MILLISECONDS
    origin = source.track.origin or Fraction(0)
    unit = stream.time_base or Fraction(1, MILLISECONDS)
    found: list[tuple[int, int | None, str]] = []
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        start = round((packet.pts * unit - origin) * MILLISECONDS)
        length = round((packet.duration or 0) * unit * MILLISECONDS)
        texts = _texts(packet, stream)
        found += [(start, start + length if length else None, text) for text in texts]
    found.sort(key=lambda cue: cue[0])
    cues: list[Cue] = []
    for (start, stop, text), following in zip(found, [*found[1:], None], strict=True):
        latest = (
            start + STAYS if following is None else min(max(following[0], start + 1), start + STAYS)
        )
        shown = Cue(max(start, 0), min(latest if stop is None else stop, floor(end)), text)
        if shown.start < shown.stop:
            cues.append(shown)
    return cues


def _texts(packet: "Packet[SubtitleStream]", stream: SubtitleStream) -> list[str]:
    """Return the texts of a packet; pictures and undecodable events are left out."""
    try:
        decoded = stream.codec_context.decode2(packet)
    except InvalidDataError:
        return []
    events = [each for each in decoded or () if isinstance(each, AssSubtitle)]
    texts = [webvtt_text(each.ass.decode(errors="replace")) for each in events]
    return [text for text in texts if text]


def webvtt_text(event: str) -> str:
    """Return the text of a WebVTT cue for an event of ASS, into which FFmpeg turns all formats.

    Bold, italic and underline are kept.
    """
    runs: list[tuple[str, str]] = []
    tags = ""
    is_drawing = False
    for place, piece in enumerate(BLOCK.split(event.split(",", FIELDS)[-1])):
        if place % 2 == 0:
            if piece and not is_drawing:
                runs.append((tags, _plain(piece)))
            continue
        for tag, on, drawing, reset in COMMAND.findall(piece):
            if tag:
                tags = tags.replace(tag, "") + tag * (on not in ("", "0"))
            elif drawing:
                is_drawing = drawing != "0"
            elif reset:
                tags = ""
    plain = "".join(text for _, text in runs)
    marked = "".join(
        "".join(f"<{tag}>" for tag in tags)
        + _escaped(text)
        + "".join(f"</{x}>" for x in tags[::-1])
        for tags, text in runs
    )
    text = _lines(marked)
    return text if is_text(text) else _lines(_escaped(plain.strip()[:PLAIN]))


def _plain(text: str) -> str:
    for mark, shown in LINE_BREAKS.items():
        text = text.replace(mark, shown)
    return text.replace("\\{", "{").replace("\\}", "}")


def _escaped(text: str) -> str:
    return escape(text, quote=False)


def _lines(text: str) -> str:
    """Return a text without empty lines and control characters."""
    lines = map(one_line, text.split("\n"))
    return "\n".join(line for line in lines if line)


def _bounded(tracks: list[TextTrack]) -> list[TextTrack]:
    """Return as many tracks and cues as a clip can hold."""
    left = MAX_CUES
    kept: list[TextTrack] = []
    for track in tracks[:MAX_TRACKS]:
        kept.append(replace(track, cues=track.cues[:left]))
        left -= len(kept[-1].cues)
    if kept != tracks:
        logger.warning("subtitles are cut: a clip has at most %d cues", MAX_CUES)
    return [track for track in kept if track.cues]

"""Subtitles of a source as cues of WebVTT, in time with its pictures."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from html import escape
from math import floor
from typing import Any, cast

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
            streams = list(container.streams.subtitles)
            known = [language_of(stream.metadata) for stream in streams]
            chosen = [
                stream
                for stream, language in zip(streams, known, strict=True)
                if languages is None or language in languages
            ]
            events = _events(container, chosen, source)
            for stream in chosen:
                number = streams.index(stream)
                title = shortened(stream.metadata.get("title", ""), MAX_TITLE)
                track = TextTrack(known[number], title, _cues(events[stream.index], source))
                if not track.cues:
                    logger.info("subtitle track %d has no text, and is left out", number)
                elif track not in tracks:
                    tracks.append(track)
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


Event = tuple[int, int | None, str]
"""Start, end and text of a cue as the source has it, in milliseconds; None is no end."""


def _events(
    container: InputContainer, streams: Sequence[SubtitleStream], source: Source
) -> dict[int, list[Event]]:
    """Return the events of each track by its index; there are none without a decoder."""
    origin = source.track.origin or Fraction(0)
    # PyAV gives no codec context where FFmpeg has no decoder.
    readable = [stream for stream in streams if stream.codec_context is not None]  # pyright: ignore[reportUnnecessaryComparison]
    found: dict[int, list[Event]] = {stream.index: [] for stream in streams}
    for packet in container.demux(readable) if readable else ():
        stream = cast("SubtitleStream", packet.stream)
        if packet.pts is None or not packet.size:
            continue
        unit = stream.time_base or Fraction(1, MILLISECONDS)
        start = round((packet.pts * unit - origin) * MILLISECONDS)
        length = round((packet.duration or 0) * unit * MILLISECONDS)
        end = start + length if length else None
        found[stream.index] += [(start, end, text) for text in _texts(packet, stream)]
    return found


def _cues(events: Sequence[Event], source: Source) -> list[Cue]:
    """Return the cues of a track while there are pictures, in the order of their starts."""
    end = floor(source.count / source.rate * MILLISECONDS)
    ordered = sorted(events, key=lambda event: event[0])
    cues: list[Cue] = []
    for (start, stop, text), following in zip(ordered, [*ordered[1:], None], strict=False):
        latest = start + STAYS
        if following is not None:
            latest = min(max(following[0], start + 1), latest)
        cue = Cue(max(start, 0), min(latest if stop is None else stop, end), text)
        if cue.start < cue.stop:
            cues.append(cue)
    return cues


def _texts(packet: "Packet[Any]", stream: SubtitleStream) -> list[str]:
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

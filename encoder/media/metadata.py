"""Facts about a film in its source: title, language, date and chapters."""

from collections.abc import Mapping
from fractions import Fraction

from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream

from encoder.codec.about import MAX_VALUE, About, Chapter
from encoder.codec.plain_text import is_language, one_line
from encoder.codec.subtitles import MILLISECONDS
from encoder.common.errors import SourceError
from encoder.media.decoding import opened
from encoder.media.source import Source

UNKNOWN = "und"
"""Language of tracks whose language is not told."""
DATES = ("date", "year", "creation_time")
"""Names of a date, the best first."""
UNSET = ("1970-01-01T00:00:00", "1904-01-01T00:00:00")
"""Beginnings of times that stand for none: the origins of Unix and of MP4."""
MAX_CHAPTERS = 512
MAX_TITLE = MAX_VALUE // 2
"""Largest title of a film or chapter, in bytes."""


def read_about(source: Source) -> About:
    """Return the facts that a source tells about its film; raises SourceError."""
    if source.path.is_dir():
        return About()
    try:
        with opened(source.path) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            dates = [tags[name] for name in DATES if not tags.get(name, UNSET[0]).startswith(UNSET)]
            streams: list[Stream] = [*container.streams.video, *container.streams.audio]
            languages = [language_of(stream.metadata) for stream in streams]
            return About(
                title=shortened(tags.get("title", ""), MAX_TITLE),
                language=next(filter(None, languages), ""),
                date=shortened(dates[0] if dates else "", MAX_TITLE),
                chapters=tuple(_chapters(container, source)),
            )
    except FFmpegError as error:
        raise SourceError(f"cannot read {source.path}: {error.strerror}") from None
    except OSError as error:
        raise SourceError(f"cannot read {source.path}: {error.strerror}") from None


def _chapters(container: InputContainer, source: Source) -> list[Chapter]:
    """Return the chapters that begin while there are pictures; a first one begins at 0."""
    starts: dict[int, str] = {}
    end = source.count / source.rate * MILLISECONDS
    for chapter in sorted(container.chapters(), key=lambda each: each["start"]):
        unit = Fraction(chapter["time_base"] or 0)
        start = round((chapter["start"] * unit - (source.track.origin or 0)) * MILLISECONDS)
        if start < end:
            starts[max(start, 0)] = shortened(chapter["metadata"].get("title", ""), MAX_TITLE)
    return [Chapter(start, title) for start, title in sorted(starts.items())][:MAX_CHAPTERS]


def language_of(tags: Mapping[str, str]) -> str:
    """Return the language tag of a track; nothing if it is not told, or no tag."""
    language = tags.get("language", "")
    return language if is_language(language) and language != UNKNOWN else ""


def shortened(text: str, limit: int) -> str:
    """Return a text without line breaks and other control characters, of a number of bytes."""
    return one_line(text).encode(errors="replace")[:limit].decode(errors="ignore").strip()

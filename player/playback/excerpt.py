"""Excerpts of a clip: the sound, subtitles and chapters of a part of it, for a video file."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from av.container import OutputContainer

from encoder.codec.extras import Extras
from encoder.codec.subtitles import MILLISECONDS

if TYPE_CHECKING:
    from av.container.core import Chapter

UNIT = Fraction(1, MILLISECONDS)


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Extras of a part of a clip."""

    extras: Extras
    start: Fraction
    """Its start, in seconds since the clip's."""
    seconds: Fraction
    """Its length."""

    def label(self, container: OutputContainer) -> None:
        """Write title, date and chapters into a video file, before its first packet."""
        about = self.extras.about
        told = {"title": about.title, "date": about.date}
        container.metadata.update({name: text for name, text in told.items() if text})
        chapters = self._chapters()
        if chapters:
            container.set_chapters(chapters)

    def _chapters(self) -> "list[Chapter]":
        chapters = self.extras.about.chapters
        begin = round(self.start * MILLISECONDS)
        end = begin + round(self.seconds * MILLISECONDS)
        found: list[Chapter] = []
        for place, chapter in enumerate(chapters):
            stop = chapters[place + 1].start if place + 1 < len(chapters) else end
            first, last = max(chapter.start, begin), min(stop, end)
            if first < last:
                found.append(
                    {
                        "id": len(found) + 1,
                        "start": first - begin,
                        "end": last - begin,
                        "time_base": UNIT,
                        "metadata": {"title": chapter.title} if chapter.title else {},
                    }
                )
        return found

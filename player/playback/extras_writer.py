"""Everything of a clip but its pictures, written into a video file beside them."""

from fractions import Fraction

from av.container import OutputContainer

from player.playback.excerpt import Excerpt
from player.playback.sound_writer import SoundWriter
from player.playback.subtitle_writer import SubtitleWriter


class ExtrasWriter:
    """Writer of an excerpt's sound, subtitles and metadata."""

    def __init__(self, container: OutputContainer, excerpt: Excerpt) -> None:
        """Add the tracks and the metadata to a file, before its first packet."""
        excerpt.label(container)
        extras = excerpt.extras
        self._tracks: list[SoundWriter | SubtitleWriter] = []
        if extras.sound is not None:
            self._tracks.append(SoundWriter(container, excerpt, extras.sound))
        self._tracks += [SubtitleWriter(container, excerpt, track) for track in extras.subtitles]

    def write(self, seconds: Fraction) -> None:
        """Write what begins before a time, in seconds since the excerpt's start."""
        for track in self._tracks:
            track.write(seconds)

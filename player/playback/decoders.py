"""The life of a playlist's decoders: opening, looking ahead, and stopping."""

from collections.abc import Sequence
from fractions import Fraction

from player.metrics import ClipMetrics
from player.playback.clip_source import ClipSource
from player.playback.decode_thread import DecodeThread


class Decoders:
    """The decoder of the present clip, that of the next one, and those that are stopping.

    The encoder thread opens and stops them.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        counts: ClipMetrics,
        decode: type[DecodeThread] = DecodeThread,
    ) -> None:
        self.present: DecodeThread | None = None
        self._sources = sources
        self._counts = counts
        self._decode = decode
        self._upcoming: tuple[int, DecodeThread] | None = None
        """Index of the next clip and its decoder, which was opened before it is needed."""
        self._stopping: list[DecodeThread] = []

    def open(self, index: int, *, start: float, speed: Fraction) -> DecodeThread:
        """Decode a clip of the playlist instead of the present one.

        A decoder that `look_ahead` opened is used if it starts at the right frame.
        """
        upcoming = self._upcoming
        self._upcoming = None
        self._stop(self.present)
        if upcoming is not None and upcoming[0] == index and start == 0:
            self.present = upcoming[1]
            self.present.set_speed(speed)
        else:
            self._stop(upcoming[1] if upcoming else None)
            self.present = self._start(index, start, speed)
        return self.present

    def look_ahead(self, index: int, speed: Fraction) -> None:
        """Open the decoder of the next clip, unless one is open already."""
        if self._upcoming is None:
            self._upcoming = index, self._start(index, 0.0, speed)

    def stop(self) -> None:
        """Stop all decoders, without waiting for them."""
        self._stop(self.present)
        self._stop(self._upcoming[1] if self._upcoming else None)
        self.present = None
        self._upcoming = None

    def join(self) -> None:
        """Wait until all stopped decoders have ended."""
        for decoder in self._stopping:
            decoder.join()

    def _start(self, index: int, start: float, speed: Fraction) -> DecodeThread:
        source = self._sources[index]
        return self._decode(
            source.clip, source.open_engine, start=start, speed=speed, counts=self._counts
        )

    def _stop(self, decoder: DecodeThread | None) -> None:
        self._stopping = [stopping for stopping in self._stopping if not stopping.has_ended]
        if decoder is not None:
            decoder.stop()
            self._stopping.append(decoder)

"""Decoded sound of an audio track, in time with the pictures: silence in gaps, overlaps cut."""

import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.error import InvalidDataError
from numpy.typing import NDArray

from encoder.codec.sound import MAX_PACKETS, PACKET_SAMPLES, RATE
from encoder.media.decoding import opened

TOLERANCE = RATE // 25
"""Samples by which sound may be late or early (40 ms) before silence is put in, or sound cut."""
SPARE_PACKETS = 8
"""Packets of a clip for the delay of an encoder, and for those before the first that is heard."""

Samples = NDArray[np.int16]
"""Interleaved samples (N, channels) at 48 kHz."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioTrack:
    """A track of sound, and the part of it that is heard."""

    path: Path
    number: int
    """Number of the track, from 0."""
    times: list[int | None]
    """Time of each packet, in the stream's unit."""
    origin: Fraction | None
    """The file's time of the first picture, in seconds, if it has times."""
    seconds: Fraction
    """Time that the pictures last."""

    @property
    def samples(self) -> int:
        """Number of samples that are heard, as many as a clip can hold at most."""
        return min(ceil(self.seconds * RATE), (MAX_PACKETS - SPARE_PACKETS) * PACKET_SAMPLES)

    def packets(self) -> Generator[tuple[bytes, int | None]]:
        """Yield each packet, and the sample at which it is played; None if that is not known."""
        with opened(self.path) as container:
            stream = container.streams.audio[self.number]
            unit = stream.time_base or Fraction(1, RATE)
            packets = (packet for packet in container.demux(stream) if packet.size)
            for packet, time in zip(packets, self.times, strict=False):
                yield bytes(packet), self.place(time, unit)

    def place(self, time: int | None, unit: Fraction) -> int | None:
        """Return the sample, from the first picture on, of a time of the track."""
        if time is None or self.origin is None:
            return None
        return round((time * unit - self.origin) * RATE)


def blocks(pieces: Iterator[Samples], count: int, channels: int) -> Generator[Samples]:
    """Yield at least `count` samples in blocks of a packet, with silence at the end."""
    rest = np.zeros((0, channels), np.int16)
    left = -(-count // PACKET_SAMPLES)
    for piece in pieces:
        rest = np.concatenate([rest, piece])
        while len(rest) >= PACKET_SAMPLES and left:
            yield rest[:PACKET_SAMPLES]
            rest = rest[PACKET_SAMPLES:]
            left -= 1
        if not left:
            return
    for _ in range(left):
        block = np.zeros((PACKET_SAMPLES, channels), np.int16)
        block[: len(rest)] = rest
        yield block
        rest = rest[:0]


def placed(track: AudioTrack, channels: int) -> Generator[Samples]:
    """Yield the samples from the first picture on, with silence in gaps, and overlaps cut."""
    reached = at = 0
    for place, samples in _runs(track, channels):
        at = at if place is None else place
        # A hole as long as the film is not held in memory.
        for start in range(reached, min(at, track.samples), RATE):
            yield np.zeros((min(RATE, at - start), channels), np.int16)
        reached = max(reached, min(at, track.samples))
        found = samples[max(reached - at, 0) :]
        at += len(samples)
        if len(found):
            yield found
            reached += len(found)
        if reached >= track.samples:
            return


def _runs(track: AudioTrack, channels: int) -> Generator[tuple[int | None, Samples]]:
    """Yield decoded samples, the first ones after each break of the times with their place."""
    resampler: AudioResampler | None = None
    shape: object = None
    expected = 0.0
    for frame, place in _frames(track):
        rate, kind = frame.sample_rate, (frame.sample_rate, frame.layout.name, frame.format.name)
        is_late = place is not None and abs(place - expected) > TOLERANCE
        start = None
        if resampler is None or is_late or kind != shape:
            if resampler is not None:
                yield from ((None, each) for each in _resampled(resampler, None, channels))
            layout = "mono" if channels == 1 else "stereo"
            # Into integers, FFmpeg mixes down without clipping.
            resampler, shape = AudioResampler(format="s16", layout=layout, rate=RATE), kind
            start = round(expected) if place is None else place
            expected = float(start)
        frame.pts = None  # the resampler would fill gaps by itself
        for each in _resampled(resampler, frame, channels):
            yield start, each
            start = None
        expected += frame.samples * RATE / rate
    if resampler is not None:
        yield from ((None, each) for each in _resampled(resampler, None, channels))


def _frames(track: AudioTrack) -> Generator[tuple[AudioFrame, int | None]]:
    """Yield decoded frames with their places; packets that cannot be decoded are left out."""
    broken = 0
    with opened(track.path) as container:
        stream = container.streams.audio[track.number]
        unit = stream.time_base or Fraction(1, RATE)
        times = iter(track.times)
        for packet in container.demux(stream):
            if packet.size:
                packet.pts = next(times, None)
                packet.dts = None
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except (InvalidDataError, EOFError):
                broken += 1
                continue
            for frame in frames:
                yield frame, track.place(frame.pts, unit)
    if broken:
        logger.warning("%d packets of the sound of %s cannot be decoded", broken, track.path)


def _resampled(
    resampler: AudioResampler, frame: AudioFrame | None, channels: int
) -> Iterator[Samples]:
    for made in resampler.resample(frame):
        yield np.asarray(made.to_ndarray(), np.int16).reshape(-1, channels)

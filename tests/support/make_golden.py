"""Writes files that must decode for ever, unless they are there already: one of version 2, and two each with sound and subtitles.

The others come from networks and encoders of earlier states.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import torch
from golden import DATA, digest, pictures

from encoder.codec.about import About, Chapter
from encoder.codec.clip import Clip
from encoder.codec.container import Header
from encoder.codec.entropy import Integers
from encoder.codec.extras import Extras
from encoder.codec.segment import Quantized, Segment
from encoder.codec.sound import PACKET_SAMPLES, RATE, Sound, SoundFormat, SoundPart
from encoder.codec.subtitles import Cue, TextTrack
from encoder.codec.tensor_header import NOTHING, Shape
from encoder.jobs.trace import trace
from encoder.models.pyramid import Pyramid, PyramidConfig

HEIGHT, WIDTH, FRAMES = 34, 58, 4
HEADER = Header(
    width=WIDTH,
    height=HEIGHT,
    frames=4 * FRAMES,
    rate=Fraction(25),
    continuous=True,
    settings="golden",
)
NETWORK = PyramidConfig(
    height=HEIGHT,
    width=WIDTH,
    frames=FRAMES,
    margin=(4, 6),
    channels=4,
    blocks=1,
    temporal=((1, 2, 16), (3, 2, 8)),
    still=((2, 4), (2, 8)),
    cell=16,
)
NAME = "v2-pyramid"
SMALL = 4
LATENT_AXES = 4
LAST_KEY = 3
"""The segments are key, delta, delta, key."""


def make() -> Clip:
    """Return four segments of random weights, of many widths."""
    random = np.random.default_rng(1)
    topology = trace(Pyramid(NETWORK))

    def segment(index: int) -> Segment:
        tensors: dict[str, Quantized] = {}
        for name, shape in topology.tensors.items():
            integers = _integers(shape, random)
            axis = int(random.integers(0, min(len(shape), 2)))
            has_channels = random.integers(0, 2)
            channels = (
                random.integers(-3, 4, shape[axis]).astype(np.int32) if has_channels else NOTHING
            )
            tensors[name] = Quantized(
                integers=integers,
                step=float(np.float32(0.3 / (1 + np.abs(integers).mean()))),
                channels=channels,
                channel_axis=axis,
                delta=index not in (0, LAST_KEY) and bool(random.integers(0, 3)),
            )
        return Segment.encode(FRAMES * index, FRAMES, tensors, topology.tensors)

    return Clip(HEADER, topology, tuple(map(segment, range(4))))


def _integers(shape: Shape, random: np.random.Generator) -> Integers:
    """Return integers whose magnitude depends on some of the axes, and which may change little along the first."""
    axes = random.integers(0, 2, len(shape))
    along = [length if axis else 1 for length, axis in zip(shape, axes, strict=True)]
    scale = random.uniform(0.2, 20) * np.exp(random.normal(0, 1, along))
    if len(shape) == LATENT_AXES and shape[-1] > SMALL:
        # What is near has like magnitudes, as in latents that were fitted.
        walk = random.normal(0, 0.7, shape[1:]).cumsum(1).cumsum(2)
        scale = 3 * np.exp((walk - walk.mean()) / 2)
    values = random.laplace(0, scale, shape)
    if random.integers(0, 2):
        values = values.cumsum(0) / len(values)
    return np.rint(values).clip(-127, 127).astype(np.int32)


def with_sound(clip: Clip) -> Clip:
    """Return a clip with a rising tone, of which a packet is missing."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = RATE, "mono", "s16"
    encoder.bit_rate = 16_000
    times = np.arange(round(clip.header.duration * RATE)) / RATE
    tone = (10_000 * np.sin(2 * np.pi * (300 + 500 * times) * times)).astype(np.int16)
    packets: list[bytes] = []
    for start in range(0, len(tone) - PACKET_SAMPLES + 1, PACKET_SAMPLES):
        block = tone[start : start + PACKET_SAMPLES].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        frame.sample_rate = RATE
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    form = SoundFormat(channels=1, delay=312, language="en")
    sound = Sound(form, [SoundPart(0, tuple(packets[:5])), SoundPart(6, tuple(packets[6:]))])
    return replace(clip, extras=Extras(sound=sound))


def with_subtitles(clip: Clip) -> Clip:
    """Return a clip with subtitles in two languages, and with facts about the film."""
    english = [
        Cue(0, 200, "One &amp; all"),
        Cue(150, 420, "<i>Two</i>\nlines"),
        Cue(400, 900, "Three"),
    ]
    about = About(
        title="Golden",
        language="en",
        date="2026-11-28",
        chapters=(Chapter(0, "Begin"), Chapter(320, "Ende – gut")),  # noqa: RUF001
    )
    tracks = (TextTrack("en", "", english), TextTrack("de", "Für alle", [Cue(330, 640, "Drei")]))
    return replace(clip, extras=Extras(subtitles=tracks, about=about))


def write(name: str, make_clip: Callable[[], Clip]) -> None:
    """Write a file, its pictures and the digests of its weights."""
    path, digests = DATA / f"{name}.nerv", DATA / "digests.json"
    if path.exists():
        return
    torch.manual_seed(0)
    clip = make_clip()
    path.write_bytes(bytes(clip))
    np.save(DATA / f"{name}.npy", pictures(clip))
    known = json.loads(digests.read_text()) | {name: digest(clip)}
    digests.write_text(json.dumps(known, indent=2) + "\n")


def main() -> None:
    """Write the files."""
    write(NAME, make)
    for version, name in (("v1", "v1-fast"), ("v2", NAME)):
        for kind, add in (("sound", with_sound), ("subtitles", with_subtitles)):
            write(
                f"{version}-{kind}",
                lambda name=name, add=add: add(Clip.read(DATA / f"{name}.nerv")),
            )


if __name__ == "__main__":
    main()

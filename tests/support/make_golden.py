"""Writes the files of version 1 that must decode for ever: not to be run again for this version."""

import json
from fractions import Fraction

import numpy as np
import torch
from golden import DATA, digest, pictures

from encoder.codec.clip import Clip
from encoder.codec.coder import CoderName
from encoder.codec.container import Header
from encoder.codec.entropy import Integers
from encoder.codec.segment import Quantized, Segment
from encoder.codec.tensor_header import NOTHING, Shape
from encoder.codec.topology import Topology
from encoder.jobs.trace import trace
from encoder.models.fast import Fast, FastConfig
from encoder.models.nerv import Nerv, NervConfig

HEIGHT, WIDTH, FRAMES = 18, 30, 4
HEADER = Header(
    width=WIDTH,
    height=HEIGHT,
    frames=4 * FRAMES,
    rate=Fraction(25),
    continuous=True,
    settings="golden",
)
SIZES = {
    "stem_channels": 4,
    "trunk_channels": 4,
    "rank": 3,
    "scene_channels": 2,
    "latents": ((1, 2), (3, 2)),
}
LAST_KEY = 3
"""The segments are key, delta, delta, key."""


def topologies() -> dict[str, Topology]:
    """Return a network with a camera, and one that maps times by an encoding."""
    config = FastConfig(height=HEIGHT, width=WIDTH, frames=FRAMES, margin=(4, 6), **SIZES)
    return {
        "fast": trace(Fast(config)),
        "nervpp": trace(Nerv(NervConfig(height=HEIGHT, width=WIDTH, frames=FRAMES))),
    }


def make(topology: Topology, coder: CoderName) -> Clip:
    """Return four segments of random weights, of many widths."""
    random = np.random.default_rng(1)

    def segment(index: int) -> Segment:
        tensors: dict[str, Quantized] = {}
        for name, shape in topology.tensors.items():
            integers = _integers(shape, random)
            axis = int(random.integers(0, min(len(shape), 2)))
            has_channels = coder == "range" and random.integers(0, 2)
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
        return Segment.encode(FRAMES * index, FRAMES, tensors, topology.tensors, coder=coder)

    return Clip(HEADER, topology, tuple(map(segment, range(4))))


def _integers(shape: Shape, random: np.random.Generator) -> Integers:
    """Return integers whose magnitude depends on some of the axes, and which may change little along the first."""
    axes = random.integers(0, 2, len(shape))
    along = [length if axis else 1 for length, axis in zip(shape, axes, strict=True)]
    scale = random.uniform(0.2, 20) * np.exp(random.normal(0, 1, along))
    values = random.laplace(0, scale, shape)
    if random.integers(0, 2):
        values = values.cumsum(0) / len(values)
    return np.rint(values).clip(-127, 127).astype(np.int32)


def main() -> None:
    """Write the files."""
    torch.manual_seed(0)
    made = topologies()
    clips = {
        "v1-fast": make(made["fast"], "range"),
        "v1-nervpp": make(made["nervpp"], "range"),
        "v1-huffman": make(made["fast"], "huffman"),
    }
    for name, clip in clips.items():
        (DATA / f"{name}.nerv").write_bytes(bytes(clip))
        np.save(DATA / f"{name}.npy", pictures(clip))
    (DATA / "v1.json").write_text(
        json.dumps({name: digest(clip) for name, clip in clips.items()}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()

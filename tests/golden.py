"""Files of version 1 that must decode for ever, and what they decode to.

They were made by `python tests/golden.py`, which is not to be run again for this version: a decoder that reads them
differently is wrong, whatever the encoder of the day writes.
"""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.container import Header
from encoder.codec.decoder import ReferenceDecoder
from encoder.codec.segment import CoderName, Quantized, Segment
from encoder.codec.topology import Topology
from encoder.models.fast import Fast, FastConfig
from encoder.models.nervpp import NervPP, NervPPConfig
from encoder.trace import trace

DATA = Path(__file__).parent / "data"
HEIGHT, WIDTH, FRAMES = 18, 30, 4
HEADER = Header(width=WIDTH, height=HEIGHT, frames=4 * FRAMES, rate=Fraction(25), continuous=True, settings="golden")
SIZES = {"stem_channels": 4, "trunk_channels": 4, "rank": 3, "scene_channels": 2, "latents": ((1, 2), (3, 2))}
LAST_KEY = 3
"""The segments are key, delta, delta, key."""


def topologies() -> dict[str, Topology]:
    """Return a network with a camera, and one that maps times by an encoding."""
    config = FastConfig(height=HEIGHT, width=WIDTH, frames=FRAMES, margin=(4, 6), **SIZES)
    return {"fast": trace(Fast(config)), "nervpp": trace(NervPP(NervPPConfig(height=HEIGHT, width=WIDTH, frames=FRAMES)))}


def make(topology: Topology, coder: CoderName) -> Clip:
    """Return four segments of random weights, of many widths."""
    random = np.random.default_rng(1)

    def segment(index: int) -> Segment:
        tensors: dict[str, Quantized] = {}
        for name, shape in topology.tensors.items():
            scale = random.uniform(0.2, 20) * np.exp(random.normal(0, 1, (shape[0], *[1] * (len(shape) - 1))))
            integers = np.rint(random.laplace(0, scale, shape)).clip(-127, 127).astype(np.int32)
            is_delta = index not in (0, LAST_KEY) and bool(random.integers(0, 3))
            tensors[name] = Quantized(integers=integers, step=float(np.float32(0.3 / (1 + scale.mean()))), delta=is_delta)
        return Segment.encode(FRAMES * index, FRAMES, tensors, topology.tensors, coder=coder)

    return Clip(replace(HEADER), topology, tuple(map(segment, range(4))))


def digest(clip: Clip) -> list[str]:
    """Return the SHA-256 of each segment's weights, as float32 in the topology's order."""
    models = SegmentModels(clip)
    weights = [models.weights(index) for index in range(len(clip.segments))]
    return [hashlib.sha256(b"".join(x.astype("<f4").tobytes() for x in each.values())).hexdigest() for each in weights]


def pictures(clip: Clip) -> NDArray[np.uint8]:
    """Return a picture of each segment, one of them between two frames."""
    decoder = ReferenceDecoder(clip)
    return np.stack([decoder.frame(time) for time in (0, 5, 9.5, 15)])


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
    (DATA / "v1.json").write_text(json.dumps({name: digest(clip) for name, clip in clips.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()

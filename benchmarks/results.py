"""Measure what docs/explanation/results.md shows: `python benchmarks/results.py MEASUREMENT CLIP`, on a machine that does nothing else.

Each measurement appends its points to benchmarks/data/results.json; `python benchmarks/tables.py` prints the tables made of them.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from decoding import decoding, integers
from evenness import keys, scenes
from fits import encoder, fit, measure
from speed import film, large, lengths, speed, workers
from tables import CLIPS, RESULTS, Point, load
from unseen import inpainting, interpolation

from encoder.cli.compress import RUNG_START
from encoder.cli.options import SAMPLE
from encoder.codec import tensor_coder
from encoder.codec.segment import Segment
from encoder.compare import anchors
from encoder.compare.anchors import CODECS
from encoder.config import Budget, Compression, bits_per_pixel
from encoder.media.metrics import psnr_db
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS, Preset
from encoder.training import qat as quantizing
from encoder.training import step
from encoder.training.ptq import quantize
from encoder.training.qat import QatQuantizer

RATE_WEIGHTS = (0.02, 0.05, 0.12, 0.3)
"""Weights of a bit per pixel, for four rates of this pipeline."""
LADDER_BITS_PER_PIXEL = (0.04, 0.06, 0.085, 0.115)
"""Sizes of a ladder's rungs."""
ABLATION_WEIGHTS = (0.04, 0.08)
"""Weights of a bit per pixel at which all techniques are used, the first of them where one is left out."""
ABLATION_EPOCHS = 40
"""Epochs of these fits, about a minute's: not seconds, so that a machine's noise cannot be taken for a technique's gain."""
ABLATION_SEEDS = (0, 1)
TARGET_BYTES = (40_000, 80_000, 140_000)
"""Sizes that fits are steered to."""
EPOCH_PAIRS = 7
PAPER_BITS = (8, 7, 6, 5)
PAPER_PRUNE = 0.2
CODEC_RATES = 5


def ours(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a point for each of four rates, each fitted on its own."""
    for weight in RATE_WEIGHTS:
        yield {"lambda_": weight} | fit(
            video, PRESETS["fast"], Budget(seconds=seconds), Compression(lambda_=weight)
        )[1]


def ladder(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a point for each of four rates, each of which goes on from one fit for half of that fit's time."""
    base, _ = fit(video, PRESETS["fast"], Budget(seconds=seconds), Compression())
    for bits in LADDER_BITS_PER_PIXEL:
        rung = encoder(
            video,
            PRESETS["fast"],
            Compression(file_bytes=bits_per_pixel(bits)(video)),
            states=base.states,
        )
        for _ in rung.run(Budget(seconds=seconds / 2), start=RUNG_START):
            pass
        yield {"target": bits} | measure(rung.clip(), video)


def paper(video: Video, seconds: int) -> Iterator[Point]:
    """Yield points of the papers' pipeline: a fit with pruning, quantised to several numbers of bits, in Huffman's code."""
    pipeline = Compression(bits=8, prune=PAPER_PRUNE, coder="huffman")
    made, first = fit(video, PRESETS["fast"], Budget(seconds=seconds), pipeline)
    yield {"bits": 8} | first
    network = made.network(0)
    network.load_state_dict(made.states[0])
    for bits in PAPER_BITS[1:]:
        tensors = quantize(
            dict(network.named_parameters()), None, bits, given=made.given, huffman=True
        ).values()
        names = dict(zip(made.topology.tensors, tensors, strict=True))
        segment = Segment.encode(
            0, len(video.frames), names, made.topology.tensors, coder="huffman"
        )
        yield {"bits": bits} | measure(replace(made.clip(), segments=(segment,)), video)


def targets(video: Video, seconds: int) -> Iterator[Point]:
    """Yield points of fits that are steered to a size, and of a rung that goes on from the last of them."""
    for size in TARGET_BYTES:
        made, point = fit(
            video, PRESETS["fast"], Budget(seconds=seconds), Compression(file_bytes=size)
        )
        yield {"target_bytes": size} | point
    rung = encoder(
        video, PRESETS["fast"], Compression(file_bytes=TARGET_BYTES[0]), states=made.states
    )
    for _ in rung.run(Budget(seconds=seconds / 2), start=RUNG_START):
        pass
    yield {"target_bytes": TARGET_BYTES[0], "after_bytes": TARGET_BYTES[-1]} | measure(
        rung.clip(), video
    )


def overhead(video: Video, _: int) -> Iterator[Point]:
    """Yield by how much the rate's term makes an epoch longer: the median over pairs of epochs with it and without it."""
    ratios: list[float] = []
    for _ in range(EPOCH_PAIRS):
        seconds: list[float] = []
        for bits in (QatQuantizer.bits, lambda *_: torch.zeros((), requires_grad=True)):
            with patch.object(QatQuantizer, "bits", bits):
                began = time.perf_counter()
                epochs = encoder(video, PRESETS["fast"], Compression()).run(
                    Budget(epochs=2), start=0.5
                )
                seconds += [time.perf_counter() - began for step in epochs if step.finished is None]
        ratios.append((seconds[1] - seconds[0]) / (seconds[3] - seconds[2]))
    yield {"rate_term_share": float(np.median(ratios)) - 1}


def techniques() -> dict[str, tuple[Preset, dict[tuple[Any, str], Any]]]:
    """Return what can be left out: the preset to fit then, and the values that modules' constants take."""
    preset = PRESETS["fast"]
    unpredicted = [way for way in tensor_coder.MODES if not way & tensor_coder.PREDICTED]
    one_scale = {
        (tensor_coder, "WAYS"): (0, tensor_coder.PREDICTED),
        (quantizing, "PLANE_AXES"): (0, 1, 2, 3),
    }
    return {
        "nothing": (preset, {}),
        "the camera": (replace(preset, camera=False), {}),
        "the matrix optimiser": (
            replace(preset, recipe=replace(preset.recipe, optimizer="adam")),
            {},
        ),
        "rate and noise before half of the time": (
            preset,
            {(step, "RATE_FROM"): 0.5, (step, "NOISE_FROM"): 0.5},
        ),
        "noise": (preset, {(step, "NOISE_FROM"): step.ROUND_FROM}),
        "learned steps": (preset, {(step, "STEP_LEARNING_RATES"): (0.0, 0.0)}),
        "steps of channels": (
            preset,
            {(quantizing, "_channel_shape"): lambda _, tensor: [1] * tensor.ndim},
        ),
        "latents fitted to the rounded network": (preset, {(step, "FREEZE_FROM"): 2.0}),
        "scales of rows and columns": (preset, one_scale),
        "prediction of latents": (
            preset,
            {(tensor_coder, "WAYS"): unpredicted, (quantizing, "PREDICT"): False},
        ),
    }


def ablations(video: Video, _: int) -> Iterator[Point]:
    """Yield points of fits that leave one technique out, with two seeds; the whole at two rates, to tell bytes from dB."""
    limit = Budget(epochs=ABLATION_EPOCHS)
    for name, (preset, values) in techniques().items():
        with ExitStack() as stack:
            for (module, constant), value in values.items():
                stack.enter_context(patch.object(module, constant, value))
            for weight, seed in product(
                ABLATION_WEIGHTS if name == "nothing" else ABLATION_WEIGHTS[:1], ABLATION_SEEDS
            ):
                made = {"without": name, "lambda_": weight, "seed": seed}
                yield made | fit(video, preset, limit, Compression(lambda_=weight), seed)[1]


def codecs(video: Video, _: int) -> Iterator[Point]:
    """Yield points of the classic codecs."""
    height, width = video.frames.shape[2:]
    for codec in CODECS.values():
        for factor in codec.rates(CODEC_RATES):
            data = anchors.encode(video, codec, factor)
            pairs = zip(
                anchors.decode(data, codec, height=height, width=width), video.frames, strict=True
            )
            quality = float(np.mean([psnr_db(decoded, original) for decoded, original in pairs]))
            yield {"codec": codec.title, "crf": factor, "bytes": len(data), "psnr_db": quality}


MEASUREMENTS: dict[str, Callable[[Video, int], Iterator[Point]]] = {
    "ours": ours,
    "ladder": ladder,
    "paper": paper,
    "ablations": ablations,
    "targets": targets,
    "overhead": overhead,
    "codecs": codecs,
    "interpolation": interpolation,
    "inpainting": inpainting,
    "speed": speed,
    "lengths": lengths,
    "workers": workers,
    "film": film,
    "large": large,
    "keys": keys,
    "scenes": scenes,
    "decoding": decoding,
    "integers": integers,
}


def main() -> None:
    """Run a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("clip", choices=CLIPS, nargs="?", default="bunny")
    parser.add_argument(
        "--source", type=Path, default=SAMPLE, help="the clip's video (default: the bundled sample)"
    )
    parser.add_argument("--seconds", type=int, default=120, help="time for each fit (default: 120)")
    args = parser.parse_args()
    made = {"measurement": args.measurement, "clip": args.clip, "seconds": args.seconds}
    old = [point for point in load() if not made.items() <= point.items()]
    new: list[Point] = []
    video = read_video(args.source, size=CLIPS[args.clip])
    for point in MEASUREMENTS[args.measurement](video, args.seconds):
        new.append(made | point)
        print(new[-1], flush=True)
        RESULTS.write_text(json.dumps([*old, *new], indent=1) + "\n")


if __name__ == "__main__":
    main()

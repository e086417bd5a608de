"""Size and quality of files: nervcast, its ladder, the papers' pipeline, and classic codecs."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import inf
from statistics import median

from benchmarks.fits import (
    FAST,
    Measurement,
    make_encoder,
    measure,
    run_fit,
    with_recipe,
)
from benchmarks.points import Point
from encoder.cli.compress import RUNG_START
from encoder.codec.segment import Segment
from encoder.codec.tensor_coder import MODES
from encoder.codec.tensor_header import CONTEXT, PREDICTED
from encoder.compare import anchors
from encoder.compare.anchors import CODECS
from encoder.compare.evaluation import frame_quality, mean_quality
from encoder.config import Budget, Compression, FitConfig
from encoder.media.video import Video
from encoder.presets import Preset
from encoder.segmentation.plan import make_plan
from encoder.training.ptq import quantize

RATE_WEIGHTS = (0.02, 0.05, 0.12, 0.3)
"""Weights of a bit per pixel, for four rates of nervcast."""
FIT_SECONDS = (15, 30, 60, 120, 300)
"""Times of fits with the same lambda."""
LADDER_BITS_PER_PIXEL = (0.04, 0.06, 0.085, 0.115)
"""Sizes of a ladder's rungs."""
ABLATION_WEIGHTS = (0.04, 0.08)
"""Weights of a bit per pixel for the full method; fits without a technique have the first."""
ABLATION_EPOCHS = 40
"""Epochs of these fits, about a minute: with seconds, a slow machine would look like a loss."""
ABLATION_SEEDS = (0, 1)
MOTION_STEPS = (1, 2, 4)
"""Distances of the frames that are taken of a clip: every second one moves twice as fast."""
MOTION_EPOCHS = 100
"""Epochs of a fit to all frames; those of a part have as many steps."""
TARGET_BYTES = (40_000, 80_000, 140_000)
"""Sizes that fits are steered to."""
EPOCH_PAIRS = 7
"""Pairs of epochs with the rate term and without it."""
NEVER = 10**9
"""Number of steps between two evaluations of the rate term that no fit reaches."""
PAPER_BITS = (8, 7, 6, 5)
PAPER_PRUNE = 0.2
CODEC_RATES = 5


def ours(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a point for each of four rates, with a fit each."""
    for weight in RATE_WEIGHTS:
        encoder = make_encoder(video, FAST, Compression(lambda_=weight))
        clip = run_fit(encoder, Budget(seconds=seconds))
        yield {"lambda_": weight} | measure(clip, video)


def times(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a point for each time of a fit up to the given one, at the preset's own rate."""
    for limit in FIT_SECONDS:
        if limit <= seconds:
            encoder = make_encoder(video, FAST, Compression())
            clip = run_fit(encoder, Budget(seconds=limit))
            yield {"fit_seconds": limit} | measure(clip, video)


def ladder(video: Video, seconds: int) -> Iterator[Point]:
    """Yield a point for each of four rates; each continues one fit for half of that fit's time."""
    base = make_encoder(video, FAST, Compression())
    run_fit(base, Budget(seconds=seconds))
    for bits in LADDER_BITS_PER_PIXEL:
        wanted = FitConfig(bits_per_pixel=bits).compression(video)
        rung = make_encoder(video, FAST, wanted, states=base.states)
        clip = run_fit(rung, Budget(seconds=seconds / 2), start=RUNG_START)
        yield {"target": bits} | measure(clip, video)


def paper(video: Video, seconds: int) -> Iterator[Point]:
    """Yield points of the papers' pipeline for several numbers of bits.

    One fit with pruning is quantized to each of them, and written in Huffman's code.
    """
    pipeline = Compression(bits=PAPER_BITS[0], prune=PAPER_PRUNE, coder="huffman")
    encoder = make_encoder(video, FAST, pipeline)
    clip = run_fit(encoder, Budget(seconds=seconds))
    yield {"bits": PAPER_BITS[0]} | measure(clip, video)
    network = encoder.network(0)
    network.load_state_dict(encoder.states[0])
    tensors = dict(network.named_parameters())
    shapes = clip.topology.tensors
    for bits in PAPER_BITS[1:]:
        found = quantize(tensors, None, bits, given=encoder.given, huffman=True).values()
        named = dict(zip(shapes, found, strict=True))
        segment = Segment.encode(0, video.count, named, shapes, coder="huffman")
        yield {"bits": bits} | measure(replace(clip, segments=(segment,)), video)


def motion(video: Video, _: int) -> Iterator[Point]:
    """Yield points of fast versions of a clip, with the latents for low and for high motion."""
    for step in MOTION_STEPS:
        part = Video(video.frames[::step], video.rate)
        settings = FitConfig()
        plan = make_plan(part, FAST, segment_frames=settings.segment_frames, key_interval=1)
        for name, value in (("low", 0.0), ("high", inf)):
            chosen = replace(plan, unsteadiness=value)
            encoder = make_encoder(part, FAST, Compression(), plan=chosen)
            clip = run_fit(encoder, Budget(epochs=MOTION_EPOCHS * step))
            about = {"every": step, "unsteadiness": plan.unsteadiness, "latents": name}
            yield about | measure(clip, part)


def targets(video: Video, seconds: int) -> Iterator[Point]:
    """Yield points of fits that are steered to a size, and of a rung that continues the last."""
    encoder = None
    for size in TARGET_BYTES:
        encoder = make_encoder(video, FAST, Compression(file_bytes=size))
        clip = run_fit(encoder, Budget(seconds=seconds))
        yield {"target_bytes": size} | measure(clip, video)
    assert encoder is not None  # there are sizes
    wanted = Compression(file_bytes=TARGET_BYTES[0])
    rung = make_encoder(video, FAST, wanted, states=encoder.states)
    clip = run_fit(rung, Budget(seconds=seconds / 2), start=RUNG_START)
    key = {"target_bytes": TARGET_BYTES[0], "after_bytes": TARGET_BYTES[-1]}
    yield key | measure(clip, video)


def overhead(video: Video, _: int) -> Iterator[Point]:
    """Yield the share by which the rate term lengthens an epoch, as the median of pairs."""
    schedule = replace(FAST.recipe.schedule, rate_every=NEVER)
    unrated = with_recipe(FAST, schedule=schedule)
    ratios = [
        _second_epoch(video, FAST) / _second_epoch(video, unrated) for _ in range(EPOCH_PAIRS)
    ]
    yield {"rate_term_share": median(ratios) - 1}


def _second_epoch(video: Video, preset: Preset) -> float:
    """Return the seconds of the second epoch, for the first one also allocates."""
    encoder = make_encoder(video, preset, Compression())
    ends = [
        time.perf_counter()
        for step in encoder.run(Budget(epochs=2), start=0.5)
        if step.is_whole and step.finished is None
    ]
    return ends[1] - ends[0]


def techniques() -> dict[str, Preset]:
    """Return the preset without each technique that can be left out."""
    schedule = FAST.recipe.schedule
    quantization = FAST.recipe.quantization
    unpredicted = tuple(mode for mode in MODES if not mode & PREDICTED)
    plain = tuple(mode for mode in MODES if not mode & CONTEXT)
    whole = replace(quantization, has_contexts=False, plane_axes=(0, 1, 2, 3))
    schedules = {
        "rate and noise before half of the time": replace(schedule, rate_from=0.5, noise_from=0.5),
        "noise": replace(schedule, noise_from=schedule.round_from),
        "latents fitted to the rounded network": replace(schedule, freeze_from=2.0),
    }
    quantizations = {
        "learned steps": replace(quantization, step_learning_rates=(0.0, 0.0)),
        "steps of channels": replace(quantization, has_channel_steps=False),
        "contexts": replace(quantization, has_contexts=False, coder_modes=plain),
        "contexts, and scales of rows and columns": replace(whole, coder_modes=(0, PREDICTED)),
        "prediction of latents": replace(quantization, coder_modes=unpredicted, predicts=False),
    }
    return {
        "nothing": FAST,
        "the camera": replace(FAST, camera=False),
        "the matrix optimiser": with_recipe(FAST, optimizer="adam"),
        **{name: with_recipe(FAST, schedule=value) for name, value in schedules.items()},
        **{name: with_recipe(FAST, quantization=value) for name, value in quantizations.items()},
    }


def ablations(video: Video, _: int) -> Iterator[Point]:
    """Yield points of fits without one technique each, with two seeds.

    The full method is fitted at two rates, to compare bytes with decibels.
    """
    for name, preset in techniques().items():
        weights = ABLATION_WEIGHTS if name == "nothing" else ABLATION_WEIGHTS[:1]
        for weight, seed in product(weights, ABLATION_SEEDS):
            encoder = make_encoder(video, preset, Compression(lambda_=weight), seed=seed)
            clip = run_fit(encoder, Budget(epochs=ABLATION_EPOCHS))
            yield {"without": name, "lambda_": weight, "seed": seed} | measure(clip, video)


def codecs(video: Video, _: int) -> Iterator[Point]:
    """Yield points of the classic codecs."""
    width, height = video.size
    for codec in CODECS.values():
        for factor in codec.rates(CODEC_RATES):
            data = anchors.encode(video, codec, factor)
            decoded = anchors.decode(data, codec, height=height, width=width)
            pairs = zip(decoded, video.frames, strict=True)
            quality = mean_quality([frame_quality(*pair) for pair in pairs])
            yield {
                "codec": codec.title,
                "crf": factor,
                "bytes": len(data),
                "psnr_db": quality.psnr_db,
                "ms_ssim": quality.ms_ssim,
            }


MEASUREMENTS: Mapping[str, Measurement] = {
    "ours": ours,
    "times": times,
    "ladder": ladder,
    "paper": paper,
    "codecs": codecs,
    "ablations": ablations,
    "targets": targets,
    "overhead": overhead,
    "motion": motion,
}

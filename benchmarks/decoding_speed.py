"""Speed of decoding the same weights with PyTorch, plain ONNX Runtime, and the engines."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fits import FAST, Measurement, make_encoder, run_fit
from benchmarks.points import Point
from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.graph_names import TIME
from encoder.common.onnx_runtime import Session
from encoder.config import Budget, Compression, SizeName
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.size import size_text
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import find_preset
from export.engines.base import Engine, Network
from export.engines.registry import open_engine
from export.graph import build_graph
from export.passes.i420 import CHROMA, CHROMA_OFFSET, LUMA, LUMA_OFFSET
from export.passes.int8 import Int8Calibrator

DECODED: tuple[tuple[str, SizeName, tuple[int, int]], ...] = (
    ("fast", "S", (640, 360)),
    ("fast", "S", (1280, 720)),
    ("nerv++", "M", (320, 180)),
    ("nerv*++", "M", (320, 180)),
    ("nerv++", "S", (640, 360)),
)
"""Presets, sizes of the network, and of frames."""
ENGINES = ("openvino", "onnxruntime-cpu")
FRAMES = 24
"""Frames of the clips, which are decoded again and again."""
BATCH = 8
"""Frames that are decoded at once."""
ROUNDS = 9
"""Turns of each decoder: machines are noisy."""
ROUND_SECONDS = 0.7
PAUSE_SECONDS = 0.5
"""Pause before a turn, in which the threads of the decoder before it go to sleep.

ONNX Runtime's threads keep their cores busy for a while when they wait for work.
"""

Decode = Callable[[], object]


def decoding(_: Video, __: int) -> Iterator[Point]:
    """Yield frames per second to I420 in memory, of networks after one epoch of fitting."""
    for name, size, frame_size in DECODED:
        whole = read_video(SAMPLE, size=frame_size)
        video = Video(whole.frames[:FRAMES], whole.rate)
        encoder = make_encoder(video, find_preset(name), Compression(), size=size)
        clip = run_fit(encoder, Budget(epochs=1))
        with contextlib.ExitStack() as stack:
            engines = {
                engine: stack.enter_context(open_engine(clip, engine, batch=BATCH))
                for engine in ENGINES
            }
            decoders = {
                "PyTorch": eager_decoder(encoder, clip),
                "ONNX Runtime": plain_decoder(clip),
            }
            decoders |= {engine: engine_decoder(opened) for engine, opened in engines.items()}
            key = {"preset": name, "size": size, "frame": size_text(frame_size)}
            for decoder, fps in race(decoders).items():
                yield key | {"decoder": decoder} | fps


def integers(video: Video, seconds: int) -> Iterator[Point]:
    """Yield frames per second with 8-bit integers and without, and the loss of quality."""
    clip = run_fit(make_encoder(video, FAST, Compression()), Budget(seconds=seconds))
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        rgb = build_graph(SegmentModels(clip), 0, pixels="rgb")
        calibrator = Int8Calibrator(rgb, video.frames, Path(folder))
        found = calibrator.choose()
        decoders: dict[str, Decode] = {}
        for name in ENGINES:
            engine = stack.enter_context(open_engine(clip, name, batch=BATCH))
            quantized = engine.load(calibrator.apply(engine.graph(0), found.convolutions))
            stack.callback(quantized.close)
            decoders[name] = network_decoder(engine, engine.network(0))
            decoders[f"{name}, integers"] = network_decoder(engine, quantized)
        lost = {
            "loss_db": found.loss_db,
            "share": found.share,
            "loss_of_all_db": found.loss_of_all_db,
        }
        for decoder, fps in race(decoders).items():
            yield {"decoder": decoder} | fps | lost


def engine_decoder(engine: Engine) -> Decode:
    """Return a decoder of a batch by an engine."""
    times = np.arange(BATCH, dtype=np.float64)
    return lambda: engine.frames(times)


def network_decoder(engine: Engine, network: Network) -> Decode:
    """Return a decoder of a batch by a network that an engine has loaded, in all of its streams."""
    times = np.arange(BATCH, dtype=np.float32)
    frames = np.empty((BATCH, *engine.picture), np.uint8)
    size = engine.micro_batch
    parts = [slice(start, start + size) for start in range(0, BATCH, size)]

    def decode() -> object:
        for stream, part in enumerate(parts):
            network.start(stream, times[part])
        for stream, part in enumerate(parts):
            network.fetch(stream, frames[part])
        return frames

    return decode


def plain_decoder(clip: Clip) -> Decode:
    """Return a decoder of the exported graph, with our conversion of colours but no rewrites."""
    session = Session(build_graph(SegmentModels(clip), 0, rewrites=()))
    times = np.arange(BATCH, dtype=np.float32)
    return lambda: session.run({TIME: times})


def eager_decoder(encoder: SegmentEncoder, clip: Clip) -> Decode:
    """Return a decoder in PyTorch, with feature maps in its fastest memory format."""
    network = encoder.network(0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = SegmentModels(clip).weights(0).values()
    names = [name for name, _ in network.named_parameters()]
    tensors = {name: torch.from_numpy(x) for name, x in zip(names, weights, strict=True)}
    network.load_state_dict(tensors, strict=False)
    network.eval()
    height, width = clip.header.even_size
    luma = torch.tensor([LUMA])[:, :, None, None]
    chroma = torch.tensor(CHROMA)[:, :, None, None]
    times = torch.arange(BATCH, dtype=torch.float32)

    def planes(rgb: Tensor) -> Tensor:
        y = F.conv2d(rgb, luma) + LUMA_OFFSET
        uv = F.conv2d(F.avg_pool2d(rgb, 2), chroma) + CHROMA_OFFSET
        lower = uv.reshape(BATCH, height // 2, width)
        return torch.cat([y.reshape(BATCH, height, width), lower], 1)

    def decode() -> object:
        with torch.inference_mode():
            rgb = network(times)[:, :, :height, :width]
            # As in the graphs: colours beyond black and white are clipped last.
            return planes(rgb).round().clamp(0, 255).to(torch.uint8).numpy()

    return decode


def race(decoders: Mapping[str, Decode]) -> dict[str, Point]:
    """Return the median and the range of the frames per second of decoders that take turns."""
    found: dict[str, list[float]] = {name: [] for name in decoders}
    for decode in decoders.values():
        decode()  # the first run also allocates
    for _ in range(ROUNDS):
        for name, decode in decoders.items():
            time.sleep(PAUSE_SECONDS)
            began = time.perf_counter()
            batches = 0
            while (seconds := time.perf_counter() - began) < ROUND_SECONDS:
                decode()
                batches += 1
            found[name].append(batches * BATCH / seconds)
    return {
        name: {"fps": median(fps), "slowest": min(fps), "fastest": max(fps)}
        for name, fps in found.items()
    }


MEASUREMENTS: Mapping[str, Measurement] = {"decoding": decoding, "integers": integers}

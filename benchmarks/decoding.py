"""How fast clips are decoded: by PyTorch, by ONNX Runtime as it comes, and by our engines, of the same weights."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import onnx
import torch
from fits import encoder
from tables import Point
from torch import Tensor

from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.graph_names import TIME
from encoder.common.onnx_runtime import Session
from encoder.config import Budget, Compression, SizeName
from encoder.jobs.segment_encoder import SegmentEncoder
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import PRESETS
from export import graph
from export.engines.base import Engine
from export.engines.registry import open_engine
from export.graph import CHROMA, CHROMA_OFFSET, LUMA, LUMA_OFFSET, build_graph
from export.passes.int8 import Int8Calibrator

DECODED: tuple[tuple[str, SizeName, tuple[int, int]], ...] = (
    ("fast", "S", (640, 360)),
    ("fast", "S", (1280, 720)),
    ("nerv++", "M", (320, 180)),
    ("nerv*++", "M", (320, 180)),
    ("nerv++", "S", (640, 360)),
)
"""Presets, sizes of the network, and of frames."""
PAUSE_SECONDS = 0.5
"""Time in which the threads of the one before go to sleep: ONNX Runtime's wait for more work without letting go of the core."""
REWRITES = (
    *("fold_constants", "multiply_places", "distribute_heads", "sigmoid_colours"),
    *("shuffle_last", "whole_pixels", "single_planes"),
)
ENGINES = ("openvino", "onnxruntime-cpu")
FRAMES = 24
"""Of the clips that are decoded again and again."""
BATCH, ROUNDS, ROUND_SECONDS = 8, 9, 0.7
"""Frames at once, and how often and for how long each decodes, in turn: machines are noisy."""

Decode = Callable[[], object]


def decoding(_: Video, __: int) -> Iterator[Point]:
    """Yield frames per second to I420 in memory, of networks after an epoch: what they show takes no longer or shorter."""
    for name, size, frame_size in DECODED:
        whole = read_video(SAMPLE, size=frame_size)
        video = Video(whole.frames[:FRAMES], whole.rate)
        made = encoder(video, PRESETS[name], Compression(), size=size)
        for _ in made.run(Budget(epochs=1)):
            pass
        clip = Clip.parse(bytes(made.clip()))
        with contextlib.ExitStack() as stack:
            engines = {
                engine: stack.enter_context(contextlib.closing(_engine(clip, engine)))
                for engine in ENGINES
            }
            decoders = {"PyTorch": _eager(made, clip), "ONNX Runtime": _plain(clip)}
            decoders |= {engine: _batch(opened) for engine, opened in engines.items()}
            for decoder, fps in _race(decoders).items():
                yield {
                    "preset": name,
                    "size": size,
                    "frame": "x".join(map(str, frame_size)),
                    "decoder": decoder,
                } | fps


def integers(video: Video, seconds: int) -> Iterator[Point]:
    """Yield frames per second with 8-bit integers and without, and what they lose."""
    made = encoder(video, PRESETS["fast"], Compression())
    for _ in made.run(Budget(seconds=seconds)):
        pass
    clip = Clip.parse(bytes(made.clip()))
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        quantiser = Int8Calibrator(
            build_graph(SegmentModels(clip), 0, pixels="rgb"), video.frames, Path(folder)
        )
        found = quantiser.choose()
        decoders: dict[str, Decode] = {}
        for name in ENGINES:
            decoders[name] = _batch(stack.enter_context(contextlib.closing(_engine(clip, name))))
            with patch(
                "export.engines.base.build_graph",
                lambda *a, **k: quantiser.apply(build_graph(*a, **k), found.convolutions),
            ):
                decoders[f"{name}, integers"] = _batch(
                    stack.enter_context(contextlib.closing(_engine(clip, name)))
                )
        lost = {
            "loss_db": found.loss_db,
            "share": found.share,
            "loss_of_all_db": found.loss_of_all_db,
        }
        for decoder, fps in _race(decoders).items():
            yield {"decoder": decoder} | fps | lost


def _engine(clip: Clip, name: str) -> Engine:
    return open_engine(clip, name, batch=BATCH)


def _batch(engine: Engine) -> Decode:
    times = np.arange(BATCH, dtype=np.float64)
    return lambda: engine.frames(times)


def _plain(clip: Clip) -> Decode:
    """Return what runs the network as it was exported, with nothing but our conversion of colours at its end."""

    def unchanged(_: onnx.ModelProto) -> None:
        pass

    with patch.multiple(graph, **dict.fromkeys(REWRITES, unchanged)):
        session = Session(build_graph(SegmentModels(clip), 0))
    times = np.arange(BATCH, dtype=np.float32)
    return lambda: session.run({TIME: times})


def _eager(made: SegmentEncoder, clip: Clip) -> Decode:
    """Return what runs the network in PyTorch, whose feature maps lie in memory as is the fastest for it."""
    network = made.network(0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = SegmentModels(clip).weights(0).values()
    names = [name for name, _ in network.named_parameters()]
    network.load_state_dict(
        {name: torch.from_numpy(x) for name, x in zip(names, weights, strict=True)}, strict=False
    )
    network.eval()
    height, width = clip.header.even_size
    luma, chroma = (torch.tensor(rows)[:, :, None, None] for rows in ([LUMA], CHROMA))
    times = torch.arange(BATCH, dtype=torch.float32)

    def planes(rgb: Tensor) -> Tensor:
        y = torch.nn.functional.conv2d(rgb, luma) + LUMA_OFFSET
        uv = (
            torch.nn.functional.conv2d(torch.nn.functional.avg_pool2d(rgb, 2), chroma)
            + CHROMA_OFFSET
        )
        return torch.cat(
            [y.reshape(BATCH, height, width), uv.reshape(BATCH, height // 2, width)], 1
        )

    def decode() -> object:
        with torch.inference_mode():
            return (
                planes(network(times)[:, :, :height, :width].clamp(0, 1))
                .round()
                .to(torch.uint8)
                .numpy()
            )

    return decode


def _race(decoders: Mapping[str, Decode]) -> dict[str, Point]:
    """Return the median of frames per second of several that take turns, and their range."""
    found: dict[str, list[float]] = {name: [] for name in decoders}
    for decode in decoders.values():
        decode()  # the first also allocates
    for _ in range(ROUNDS):
        for name, decode in decoders.items():
            time.sleep(PAUSE_SECONDS)
            began, batches = time.perf_counter(), 0
            while (seconds := time.perf_counter() - began) < ROUND_SECONDS:
                decode()
                batches += 1
            found[name].append(batches * BATCH / seconds)
    return {
        name: {"fps": median(fps), "slowest": min(fps), "fastest": max(fps)}
        for name, fps in found.items()
    }

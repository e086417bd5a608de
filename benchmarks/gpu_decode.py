"""Speed of decoding on a GPU, and the differences from the reference decoder."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.fits import make_encoder, run_fit
from benchmarks.gpu_jobs import Job
from benchmarks.points import Point
from encoder.cli.options import SAMPLE
from encoder.codec.clip import Clip
from encoder.codec.graph_names import TIME
from encoder.common.onnx_runtime import operator_seconds
from encoder.config import Budget, Compression, SizeName
from encoder.media.size import size_text
from encoder.media.source import read_video
from encoder.media.video import Video
from encoder.presets import find_preset
from export.benchmark import measure_speed
from export.engines.base import Engine
from export.engines.ort import OnnxRuntimeCpu, OnnxRuntimeCuda
from export.engines.registry import open_engine
from export.roofline import Ceilings, measure_ceilings
from export.verify import verify

FRAMES = 24
"""Frames of the clips, which are decoded again and again."""
VERIFIED_FRAMES = 4
"""Frames that are compared with the reference decoder's, which takes its time."""
LARGEST = 12
"""Operators of a graph that are named, those that take the most time."""


class Fp16WithoutGraph(OnnxRuntimeCuda):
    """The engine without a CUDA graph."""

    wants_graph = False


class Fp32(OnnxRuntimeCuda):
    """The engine in single precision."""

    precision = "fp32"


class Fp32WithoutGraph(Fp32):
    """The engine in single precision, without a CUDA graph."""

    wants_graph = False


CUDA: Mapping[str, Callable[..., Engine]] = {
    "fp16, CUDA graph": OnnxRuntimeCuda,  # as clips are played
    "fp16": Fp16WithoutGraph,
    "fp32, CUDA graph": Fp32,
    "fp32": Fp32WithoutGraph,
}
"""Kinds of ONNX Runtime's engine on CUDA."""
CPU: Mapping[str, Callable[..., Engine]] = {"fp32": OnnxRuntimeCpu}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    clips: Sequence[tuple[str, SizeName, tuple[int, int]]]
    """Presets, sizes of the network, and of frames; the most valuable first."""
    engines: Mapping[str, Callable[..., Engine]]
    batches: Sequence[int]
    seconds: float
    """Time of each measurement."""
    named: Sequence[str]
    """Other engines, by name, which are measured where they run."""
    job_seconds: float
    """Time that a measurement takes at most, until its first point."""


WHOLE = Scale(
    clips=(
        ("fast", "S", (1280, 720)),
        ("nerv++", "M", (1280, 720)),
        ("fast", "S", (1920, 1080)),
        ("nerv++", "M", (1920, 1080)),
    ),
    engines=CUDA,
    batches=(8, 1, 32),
    seconds=0.5,
    named=("tensorrt", "tensorrt-rtx"),
    job_seconds=15,
)
SMOKE = Scale(
    clips=(("fast", "XS", (64, 36)),),
    engines=CPU,
    batches=(2, 1),
    seconds=0.02,
    named=(),
    job_seconds=0,
)


def jobs(*, smoke: bool) -> Iterator[Job]:
    """Yield the measurements of all clips, with each clip's most valuable first."""
    scale = SMOKE if smoke else WHOLE
    ceilings: dict[str, Ceilings] = {}
    clips = [_Decoded(*clip, scale, ceilings) for clip in scale.clips]
    for clip in clips:
        yield Job(f"decode {clip.name}", clip.speeds, scale.job_seconds)
        yield Job(f"verify {clip.name}", clip.verdicts, scale.job_seconds)
        yield Job(f"operators of {clip.name}", clip.operators, scale.job_seconds)


class _Decoded:
    """A clip with its measurements."""

    def __init__(
        self,
        preset: str,
        size: SizeName,
        frame_size: tuple[int, int],
        scale: Scale,
        ceilings: dict[str, Ceilings],
    ) -> None:
        """Take the limits of each kind of engine that are known so far."""
        self.name = f"{preset} {size} {size_text(frame_size)}"
        self._preset = preset
        self._size: SizeName = size
        self._frame_size = frame_size
        self._scale = scale
        self._ceilings = ceilings

    @cached_property
    def _clip(self) -> Clip:
        """The clip, after one epoch: its speed does not depend on its weights."""
        whole = read_video(SAMPLE, size=self._frame_size)
        video = Video(whole.frames[:FRAMES], whole.rate)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = make_encoder(
            video, find_preset(self._preset), Compression(), size=self._size, device=device
        )
        return run_fit(encoder, Budget(epochs=1))

    def _key(self) -> Point:
        return {"preset": self._preset, "size": self._size, "frame": size_text(self._frame_size)}

    def speeds(self) -> Iterator[Point]:
        """Yield the speed of each engine and batch, the batches of one kind first."""
        for batch in self._scale.batches:
            for kind, make in self._scale.engines.items():
                point = self._key() | {"engine": "onnxruntime", "kind": kind, "batch": batch}
                yield point | self._speed(make, batch, kind)
            for name in self._scale.named:
                point = self._key() | {"engine": name, "kind": "fp16", "batch": batch}

                def open_named(clip: Clip, *, batch: int, name: str = name) -> Engine:
                    return open_engine(clip, name, batch=batch)

                yield point | self._speed(open_named, batch, name)

    def _speed(self, make: Callable[..., Engine], batch: int, kind: str) -> Point:
        """Return the speed of an engine, or why there is none."""
        try:
            if kind not in self._ceilings:
                with closing(make(self._clip, batch=1)) as single:
                    self._ceilings[kind] = measure_ceilings(single)
            with closing(make(self._clip, batch=batch)) as engine:
                speed = measure_speed(
                    engine, self._ceilings[kind], report=lambda _: None, seconds=self._scale.seconds
                )
                recorded = getattr(engine, "is_recorded", None)
        except Exception as error:  # noqa: BLE001 (whatever a library raises is the result)
            return {"refused": f"{type(error).__name__}: {error}".splitlines()[0]}
        found = asdict(speed) | {"floor_ms": speed.floor_ms, "bound": speed.bound}
        found |= {"share": speed.share, "recorded": recorded}
        return {name: found[name] for name in found if name not in ("engine", "batch")}

    def verdicts(self) -> Iterator[Point]:
        """Yield how far each engine's frames are from the reference decoder's."""
        clip = _start_of(self._clip, VERIFIED_FRAMES)
        for kind, make in self._scale.engines.items():
            with (
                closing(make(clip, batch=4, pixels="rgb")) as rgb,
                closing(make(clip, batch=4)) as played,
            ):
                (verdict,) = verify(clip, [(rgb, played)], report=lambda _: None)
            yield self._key() | {"kind": kind, "holds": verdict.holds} | asdict(verdict)

    def operators(self) -> Iterator[Point]:
        """Yield the time of each operator of a frame, and where it runs."""
        for kind, make in self._scale.engines.items():
            if "graph" in kind:
                continue
            with closing(make(self._clip, batch=1)) as engine:
                model = engine.graph(0)
                provider = getattr(engine, "provider", "CPUExecutionProvider")
            with TemporaryDirectory() as folder:
                found = operator_seconds(
                    model, {TIME: np.zeros(1, np.float32)}, Path(folder), provider=provider
                )
            for (operator, where), seconds in Counter(found).most_common(LARGEST):
                yield self._key() | {
                    "kind": kind,
                    "operator": operator,
                    "provider": where,
                    "milliseconds": 1000 * seconds,
                }


def _start_of(clip: Clip, frames: int) -> Clip:
    """Return the same clip with fewer frames of the same segment."""
    segment = replace(clip.segments[0], frames=frames)
    return replace(clip, header=replace(clip.header, frames=frames), segments=(segment,))

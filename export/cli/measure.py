"""Commands `bench` and `verify`, which measure the speed and check the frames of engines."""

import argparse
import contextlib
import logging
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.common.console import Commands, show_table
from encoder.common.errors import EngineError
from encoder.common.flags import add_flags, from_flags
from encoder.common.progress import progress
from encoder.media.reading import Reading, source_file
from export.engines.names import DEFAULT_BATCH, ENGINE_NAMES

if TYPE_CHECKING:
    from encoder.codec.clip import Clip
    from export.engines.base import Engine
    from export.graph import PixelFormat

BATCHES = (1, 8, 32)
COLUMNS = (
    "engine",
    "precision",
    "batch",
    "decode_fps",
    "fps",
    "realtime",
    "p50_ms",
    "p95_ms",
    "floor_ms",
    "share",
    "bound",
)
"""Columns of the table of measurements."""
NONE_RUNS = "no engine runs this clip here"
DIFFERENT = 1
"""Exit code if the frames of an engine differ too much."""

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the commands `bench` and `verify`."""
    bench = commands.add(
        "bench",
        _bench,
        summary="measure how fast engines decode a clip, and the limits of the machine",
        example="python -m export bench bunny.nerv --engine openvino --batch 1 8",
    )
    verify = commands.add(
        "verify",
        _verify,
        summary="compare the frames of engines with the reference decoder's; "
        "exit code 1 where they differ too much",
        example="python -m export verify bunny.nerv encoder/data/bunny_720p.mp4 --engine openvino",
    )
    for command in (bench, verify):
        command.add_argument("clip", type=Path, help="a .nerv file")
        command.add_argument(
            "--engine",
            nargs="+",
            metavar="NAME",
            help=f"of {', '.join(ENGINE_NAMES)} (default: all that run here)",
        )
        command.add_argument("--json", action="store_true", help="print one JSON list")
    default = " ".join(map(str, BATCHES))
    bench.add_argument(
        "--batch",
        nargs="+",
        type=int,
        default=BATCHES,
        metavar="N",
        help=f"frames per call (default: {default})",
    )
    verify.add_argument(
        "source", type=Path, nargs="?", help="the video or folder that the clip was fitted to"
    )
    add_flags(verify, Reading)
    verify.add_argument(
        "--tolerance",
        type=int,
        metavar="STEPS",
        help="largest difference allowed (default: 1, in 16 bits 4)",
    )


def _bench(args: argparse.Namespace) -> None:
    from encoder.codec.clip import Clip
    from export.benchmark import DecodeSpeed, measure_speed
    from export.engines.base import check_batch
    from export.hardware import describe
    from export.roofline import measure_ceilings

    clip = Clip.read(args.clip)
    speeds: list[DecodeSpeed] = []
    for batch in args.batch:
        check_batch(batch)
    for name in _names(args.engine):
        with _opened(clip, name, batch=1, named=bool(args.engine)) as single:
            if single is None:
                continue
            ceilings = measure_ceilings(single)
        if not speeds:
            logger.info("%s", describe())
        for batch in args.batch:
            with _opened(clip, name, batch=batch, named=bool(args.engine)) as engine:
                if engine is not None:
                    with progress(f"measuring {name}, batch {engine.batch}") as update:
                        speeds.append(measure_speed(engine, ceilings, report=update))
    if not speeds:
        raise EngineError(NONE_RUNS)
    rows = [
        asdict(speed) | {"floor_ms": speed.floor_ms, "share": speed.share, "bound": speed.bound}
        for speed in speeds
    ]
    if args.json:
        show_table(rows, as_json=True)
        return
    show_table([{name: row[name] for name in COLUMNS} for row in rows], as_json=False)
    for speed in speeds:
        logger.info(
            "%s, batch %d, is bound by %s: %.3g GFLOP and %.3g MB a frame take "
            "%.3g and %.3g ms at %.4g GFLOP/s and %.3g GB/s, launches %.2g ms, the copy %.2g ms",
            *(
                speed.engine,
                speed.batch,
                speed.bound,
                speed.gflop,
                speed.megabytes,
                speed.arithmetic_ms,
                speed.memory_ms,
            ),
            *(speed.peak_gflops, speed.peak_gbytes, speed.launches_ms, speed.copy_ms),
        )


def _verify(args: argparse.Namespace) -> int:
    from encoder.codec.clip import Clip
    from export.engines.registry import open_engine
    from export.verify import verify

    clip = Clip.read(args.clip)
    with contextlib.ExitStack() as stack, progress("decoding", total=clip.header.frames) as update:
        source = None
        if args.source is not None:
            from encoder.media.source import Source
            from encoder.media.video import check_count

            path = stack.enter_context(source_file(args.source))
            source = Source(
                path,
                size=(clip.header.width, clip.header.height),
                reading=from_flags(Reading, args),
            )
            check_count(source, clip.header.frames)
        engines: list[tuple[Engine, Engine]] = []
        for name in _names(args.engine):
            rgb = stack.enter_context(_opened(clip, name, named=bool(args.engine), pixels="rgb"))
            if rgb is not None:
                # RGB is compared with the source; I420 is played.
                engines.append(
                    (rgb, stack.enter_context(contextlib.closing(open_engine(clip, name))))
                )
        if not engines:
            raise EngineError(NONE_RUNS)
        verdicts = verify(clip, engines, source=source, tolerance=args.tolerance, report=update)
    show_table(
        [asdict(verdict) | {"holds": verdict.holds} for verdict in verdicts], as_json=args.json
    )
    return 0 if all(verdict.holds for verdict in verdicts) else DIFFERENT


def _names(named: Sequence[str] | None) -> Sequence[str]:
    return ENGINE_NAMES if named is None else list(dict.fromkeys(named))


@contextlib.contextmanager
def _opened(
    clip: "Clip",
    name: str,
    *,
    named: bool,
    batch: int = DEFAULT_BATCH,
    pixels: "PixelFormat" = "i420",
) -> Generator["Engine | None"]:
    """Open an engine for a while; yield None if it does not run here and was not named."""
    from export.engines.registry import open_engine

    try:
        engine = open_engine(clip, name, batch=batch, pixels=pixels)
    except EngineError as error:
        if named:
            raise
        logger.info("%s is left out: %s", name, error)
        yield None
        return
    with contextlib.closing(engine):
        yield engine

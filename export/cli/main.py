"""Turn a clip into ONNX graphs, TensorRT engines or a web page, and measure engines."""

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from encoder.common.atomic_file import newest_clip, replacing, writable
from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags, from_flags
from encoder.common.progress import progress
from encoder.media.reading import Reading
from export.cli import measure
from export.engines.names import BUILDERS, DEFAULT_BATCH

if TYPE_CHECKING:
    import onnx

    from encoder.codec.clip import Clip, SegmentModels

Build = Callable[[int], "onnx.ModelProto"]
"""Function that returns the graph of a segment."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("export", __doc__, install="nervcast[player]")
    to_onnx = commands.add(
        "onnx",
        _onnx,
        summary="write the clip's ONNX graphs",
        example="python -m export onnx bunny.nerv -o bunny.onnx",
    )
    to_trt = commands.add(
        "trt",
        _trt,
        summary="build the clip's TensorRT engines, without a GPU by TensorRT for RTX",
        example="python -m export trt bunny.nerv -o bunny.engine --for sm89 sm120",
    )
    _add_web(commands)
    for command, precision in ((to_onnx, "fp32"), (to_trt, "fp16")):
        command.set_defaults(default_precision=precision, symmetric=command is to_trt)
        command.add_argument(
            "clip",
            nargs="?",
            type=Path,
            help="a .nerv file (default: the newest of the current folder)",
        )
        command.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="file to write (default: the clip's name in the current folder); "
            "of several segments each gets a number",
        )
        command.add_argument(
            "--pixels",
            choices=("i420", "rgb"),
            default="i420",
            help="pixel format of the decoded frames (default: i420)",
        )
        command.add_argument(
            "--precision",
            choices=("fp32", "fp16"),
            help=f"precision of the network (default: {precision})",
        )
        command.add_argument(
            "--int8",
            type=Path,
            metavar="SOURCE",
            help="8-bit integers for the convolutions that lose less than 0.1 dB together, "
            "measured against this video",
        )
        add_flags(command, Reading)
    _add_engine_options(to_trt)
    measure.add(commands)
    return commands.main(argv)


def _add_web(commands: Commands) -> None:
    to_web = commands.add(
        "web",
        _web,
        summary="write a folder that any static host serves, with clips that browsers decode",
        example="python -m export web bunny.nerv -o site",
    )
    to_web.add_argument(
        "clips",
        nargs="*",
        type=Path,
        metavar="CLIP",
        help=".nerv files, or lists of ladders (default: the newest clip of the current folder)",
    )
    to_web.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("site"),
        metavar="FOLDER",
        help="folder to write (default: site)",
    )
    to_web.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="PACKAGE",
        help="unpacked npm package onnxruntime-web, "
        "for clips with operators that the page's own kernels do not have",
    )


def _add_engine_options(to_trt: argparse.ArgumentParser) -> None:
    to_trt.add_argument(
        "--max-batch",
        type=int,
        default=DEFAULT_BATCH,
        metavar="N",
        help=f"most frames of a call (default: {DEFAULT_BATCH})",
    )
    to_trt.add_argument(
        "--builder",
        choices=BUILDERS,
        default=BUILDERS[0],
        help="TensorRT (needs a GPU), or TensorRT for RTX "
        "(default: auto, TensorRT where it and a GPU are)",
    )
    to_trt.add_argument(
        "--for",
        dest="targets",
        nargs="+",
        default=(),
        metavar="GPU",
        help="compute capabilities like sm80 sm89, or current, for TensorRT for RTX "
        "(default: all that it takes)",
    )


def _onnx(args: argparse.Namespace) -> None:
    import onnx

    def checked(model: "onnx.ModelProto") -> tuple[bytes, None]:
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(), None

    _export(args, ".onnx", checked)


def _web(args: argparse.Namespace) -> None:
    from export.web.folder import write_site

    clips = args.clips or [newest_clip()]
    size = write_site(clips, args.output, args.onnxruntime_web)
    logger.info(
        "%s: %d bytes; try it with python -m http.server --directory %s",
        *(args.output, size, args.output),
    )


def _floats(args: argparse.Namespace, models: "SegmentModels") -> Build:
    from export.graph import build_graph

    precision = args.precision or args.default_precision
    return lambda segment: build_graph(models, segment, pixels=args.pixels, precision=precision)


def _integers(args: argparse.Namespace, clip: "Clip", models: "SegmentModels") -> Build:
    from encoder.media.source import Source
    from encoder.media.video import check_count
    from export.graph import build_graph
    from export.passes.int8 import Int8Calibrator

    if args.precision == "fp16":
        raise SettingsError("--int8 keeps its other values in 32 bits: leave out --precision fp16")
    source = Source(
        args.int8, size=(clip.header.width, clip.header.height), reading=from_flags(Reading, args)
    )
    check_count(source, clip.header.frames)

    def build(index: int) -> "onnx.ModelProto":
        segment = clip.segments[index]
        frames = source.read(range(segment.start, segment.start + segment.frames))
        with TemporaryDirectory() as folder:
            rgb = build_graph(models, index, pixels="rgb")
            quantiser = Int8Calibrator(rgb, frames, Path(folder), symmetric=args.symmetric)
            graph = build_graph(models, index, pixels=args.pixels)
            exported = {name for node in graph.graph.node for name in node.output}
            found = quantiser.choose()
            chosen = [name for name in found.convolutions if name in exported]
            logger.info(
                "frames from %d: integers in %d of %d convolutions, "
                "%.0f %% of their arithmetic, lose %.3f dB; in all, %.3f dB",
                *(
                    segment.start,
                    len(chosen),
                    found.of,
                    100 * found.share,
                    found.loss_db,
                    found.loss_of_all_db,
                ),
            )
            return quantiser.apply(graph, chosen)

    return build


def _trt(args: argparse.Namespace) -> None:
    from export.engines.base import check_batch
    from export.engines.trt_build import build_rtx, build_tensorrt, pick_builder
    from export.engines.trt_cache import timing_cache_path

    check_batch(args.max_batch)
    builder = pick_builder(args.builder)
    if args.targets and builder == "tensorrt":
        raise SettingsError("--for is for TensorRT for RTX: name it with --builder rtx")
    targets: Sequence[str] = args.targets

    def build(model: "onnx.ModelProto") -> tuple[bytes, dict[str, object]]:
        nonlocal targets
        if builder == "tensorrt":
            plan = build_tensorrt(model, max_batch=args.max_batch, timing_cache=timing_cache_path())
        else:
            plan = build_rtx(model, max_batch=args.max_batch, targets=targets)
            targets = plan.targets  # those that the first segment found will do for all
        about = asdict(plan) | {"max_batch": args.max_batch, "pixels": args.pixels}
        about["precision"] = "int8" if args.int8 else args.precision or args.default_precision
        del about["data"]
        return plan.data, about

    _export(args, ".engine", build)


def _export(
    args: argparse.Namespace,
    suffix: str,
    convert: "Callable[[onnx.ModelProto], tuple[bytes, dict[str, object] | None]]",
) -> None:
    """Write a file for each segment, and beside it what `convert` says about it, as JSON."""
    from encoder.codec.clip import Clip, SegmentModels

    source = args.clip or newest_clip()
    clip = Clip.read(source)
    models = SegmentModels(clip)
    output = args.output or Path(source.with_suffix(suffix).name)
    names = [output]
    if len(clip.segments) > 1:
        names = [
            output.with_stem(f"{output.stem}-{index:03}") for index in range(len(clip.segments))
        ]
    for name in names:
        writable(name, source, args.int8)
        if suffix == ".engine":
            writable(_about(name), source, args.int8)
    build = _integers(args, clip, models) if args.int8 else _floats(args, models)
    with progress(f"exporting {source.name}", total=len(names)) as update:
        for index, name in enumerate(names):
            data, about = convert(build(index))
            if about is not None:
                _about(name).unlink(missing_ok=True)  # it would describe another engine
            with replacing(name) as part:
                part.write_bytes(data)
            if about is not None:
                segment = clip.segments[index]
                place = {"first_frame": segment.start, "frames": segment.frames}
                with replacing(_about(name)) as part:
                    text = json.dumps({"clip": source.name} | place | about, indent=1)
                    part.write_text(text + "\n")
            update(index + 1)
    logger.info(
        "%s: %d bytes%s",
        names[0],
        names[0].stat().st_size,
        f" and {len(names) - 1} more" * (len(names) > 1),
    )


def _about(engine: Path) -> Path:
    """Return the file that tells what an engine takes and gives."""
    return engine.with_name(f"{engine.name}.json")

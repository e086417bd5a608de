"""Turn a clip into ONNX graphs or TensorRT engines, and measure how engines decode it."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from encoder.codec.clip import Clip, SegmentModels
from encoder.codec.console import Commands, newest_clip, progress, replacing, writable
from export import cli_measure
from export.engine import DEFAULT_BATCH, check_batch

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("export", __doc__, install="nervcast")
    to_onnx = commands.add(
        "onnx", _onnx, summary="write the clip's ONNX graphs", example="python -m export onnx bunny.nerv -o bunny.onnx"
    )
    to_trt = commands.add(
        "trt",
        _trt,
        summary="build the clip's TensorRT engines (needs TensorRT and an NVIDIA GPU)",
        example="python -m export trt bunny.nerv -o bunny.engine --max-batch 32",
    )
    for command, precision in ((to_onnx, "fp32"), (to_trt, "fp16")):
        command.add_argument("clip", nargs="?", type=Path, help="a .nerv file (default: the newest of the current folder)")
        command.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="file to write (default: the clip's name in the current folder); of several segments each gets a number",
        )
        command.add_argument("--pixels", choices=("i420", "rgb"), default="i420", help="what comes out (default: i420)")
        command.add_argument(
            "--precision", choices=("fp32", "fp16"), default=precision, help=f"of the network (default: {precision})"
        )
    to_trt.add_argument(
        "--max-batch",
        type=int,
        default=DEFAULT_BATCH,
        metavar="N",
        help=f"most frames of a call (default: {DEFAULT_BATCH})",
    )
    cli_measure.add(commands)
    return commands.main(argv)


def _onnx(args: argparse.Namespace) -> None:
    def checked(model: onnx.ModelProto) -> bytes:
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()

    _export(args, ".onnx", checked)


def _trt(args: argparse.Namespace) -> None:
    from export.to_tensorrt import build_plan, import_tensorrt, timing_cache_path

    check_batch(args.max_batch)
    import_tensorrt()
    _export(args, ".engine", lambda m: build_plan(m, max_batch=args.max_batch, timing_cache=timing_cache_path()))


def _export(args: argparse.Namespace, suffix: str, convert: Callable[[onnx.ModelProto], bytes]) -> None:
    from export.graph import build_graph

    source = args.clip or newest_clip()
    clip = Clip.read(source)
    models = SegmentModels(clip)
    output = args.output or Path(source.with_suffix(suffix).name)
    names = [output]
    if len(clip.segments) > 1:
        names = [output.with_stem(f"{output.stem}-{index:03}") for index in range(len(clip.segments))]
    for name in names:
        writable(name, source)
    with progress(f"exporting {source.name}", total=len(names)) as update:
        for index, name in enumerate(names):
            with replacing(name) as part:
                part.write_bytes(convert(build_graph(models, index, pixels=args.pixels, precision=args.precision)))
            update(index + 1)
    logger.info("%s: %d bytes%s", names[0], names[0].stat().st_size, f" and {len(names) - 1} more" * (len(names) > 1))

"""Measure the figures of docs/explanation/results.md and docs/explanation/ablations.md.

Each measurement keeps its points in benchmarks/data. Nothing else should run on the machine.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.points import CLIPS, DATA, FILE_BYTES, MEASURED_FRAMES, load_points, record
from encoder.cli.options import SAMPLE, add_device
from encoder.common.console import Commands, show_table
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags, from_flags
from encoder.media.reading import Reading

if TYPE_CHECKING:
    from benchmarks.fits import Measurement
    from encoder.media.video import Video


@dataclass(frozen=True, kw_only=True)
class Group:
    """Measurements of one module."""

    summary: str
    """Description in one line."""
    names: tuple[str, ...]
    """Names of the measurements, the keys of the module's MEASUREMENTS."""


GPU_PARTS = ("fit", "decode")
GPU_MINUTES = 13.0
"""Default time of `gpu`."""
FITTING = 0.6
"""Share of the time of `gpu` for fits."""
GROUPS = {
    "rate-distortion": Group(
        summary="size and quality of files, against the papers' pipeline and classic codecs",
        names=(
            "ours",
            "times",
            "ladder",
            "paper",
            "codecs",
            "ablations",
            "targets",
            "overhead",
            "motion",
        ),
    ),
    "encoding-speed": Group(
        summary="speed of fits, against the papers' recipes, and for long and large videos",
        names=("speed", "operators", "lengths", "workers", "large", "film"),
    ),
    "decoding-speed": Group(
        summary="speed of decoding with PyTorch, ONNX Runtime and the engines",
        names=("decoding", "integers"),
    ),
    "allocation": Group(
        summary="evenness of the quality of segments",
        names=("scenes", "keys"),
    ),
    "held-out": Group(
        summary="quality of frames and pixels that networks were not fitted to",
        names=("interpolation", "inpainting"),
    ),
}
"""Measurements of points, by the name of their command, which is that of their module."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("benchmarks", __doc__, install="nervcast[all]")
    for name, group in GROUPS.items():
        example = f"python -m benchmarks {name} {group.names[0]}"
        command = commands.add(name, _measure, summary=group.summary, example=example)
        command.set_defaults(module=f"benchmarks.{name.replace('-', '_')}")
        command.add_argument("measurement", choices=group.names, help="measurement to make")
        _add_clip(command, seconds=120)
    _add_ablations(commands)
    _add_gpu(commands)
    _add_paper(commands)
    tables = commands.add(
        "tables",
        _tables,
        summary="print the tables of docs/explanation/results.md",
        example="python -m benchmarks tables",
    )
    _add_data(tables)
    return commands.main(argv)


def _add_ablations(commands: Commands) -> None:
    command = commands.add(
        "ablations",
        _ablations,
        summary="gain or loss of other choices than those of the preset `fast`",
        example='python -m benchmarks ablations fit bunny --seconds 30 --only "trunk: 24 channels"',
    )
    command.add_argument(
        "what",
        choices=("pace", "fit", "table"),
        help="time epochs of each choice, fit each choice, or print the table",
    )
    _add_clip(command, seconds=60, clips=FILE_BYTES)
    command.add_argument("--seed", type=int, default=0, help="seed of each fit (default: 0)")
    command.add_argument(
        "--only", nargs="+", default=[], metavar="CHOICE", help="choices to take (default: all)"
    )


def _add_gpu(commands: Commands) -> None:
    command = commands.add(
        "gpu",
        _gpu,
        summary="speed of fits and of decoding on an NVIDIA GPU, the most valuable figures first",
        example="python -m benchmarks gpu --part decode --minutes 5 -o gpu",
    )
    command.add_argument(
        "--part", choices=(*GPU_PARTS, "all"), default="all", help="part to measure (default: all)"
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=GPU_MINUTES,
        metavar="N",
        help=f"time for all measurements (default: {GPU_MINUTES:g})",
    )
    _add_output(command, "folder of the figures (JSON), tables and plots")
    command.add_argument(
        "--smoke", action="store_true", help="smallest form, which runs on a CPU as well"
    )


def _add_paper(commands: Commands) -> None:
    command = commands.add(
        "paper",
        _paper,
        summary="fit networks by NeRV++'s recipe for hours, and print the paper's figures too",
        example="python -m benchmarks paper --resize 160x90 --epochs 300 -o reproduction",
    )
    _add_output(command, "folder of the report; points that it holds are not fitted again")
    command.add_argument(
        "--source", type=Path, metavar="VIDEO", help="video (default: the bundled sample)"
    )
    command.add_argument(
        "--presets",
        nargs="+",
        default=["nerv", "nerv++"],
        metavar="NAME",
        help="networks to fit (default: nerv nerv++)",
    )
    command.add_argument(
        "--resize", default="160x90", metavar="WxH", help="frame size (default: 160x90)"
    )
    command.add_argument(
        "--epochs", type=int, default=300, metavar="N", help="epochs (default: 300)"
    )
    add_device(command)


def _add_output(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("-o", "--output", type=Path, metavar="FOLDER", required=True, help=text)


def _add_clip(
    command: argparse.ArgumentParser, *, seconds: int, clips: Iterable[str] = CLIPS
) -> None:
    command.add_argument(
        "clip", choices=tuple(clips), nargs="?", default="bunny", help="clip to measure"
    )
    command.add_argument(
        "--source",
        type=Path,
        metavar="VIDEO",
        help="video of the clip (default: the bundled sample, for bunny)",
    )
    command.add_argument("--resize", metavar="WxH", help="frame size (default: 320x180 for bunny)")
    add_flags(command, Reading, ("matrix",))
    command.add_argument(
        "--seconds", type=int, default=seconds, help=f"time for each fit (default: {seconds})"
    )
    _add_data(command)


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=DATA,
        help="folder of the points (default: benchmarks/data)",
    )


def _open(args: argparse.Namespace) -> "Video":
    """Return the clip's video; raises SettingsError, SourceError."""
    from encoder.media.size import parse_size
    from encoder.media.source import read_video

    if args.source is None and args.clip != "bunny":
        raise SettingsError(f"{args.clip} is not bundled: name its video with --source")
    size = CLIPS[args.clip] if args.resize is None else parse_size(args.resize)
    video = read_video(args.source or SAMPLE, size=size, reading=from_flags(Reading, args))
    return replace(video, frames=video.frames[:MEASURED_FRAMES])


def _measure(args: argparse.Namespace) -> None:
    measurements: Mapping[str, Measurement] = import_module(args.module).MEASUREMENTS
    measure = measurements[args.measurement]
    key = {"measurement": args.measurement, "clip": args.clip, "seconds": args.seconds}
    for point in record(measure(_open(args), args.seconds), key, args.data):
        print(point, flush=True)


def _ablations(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.ablations import Measured, ablation_table

    if args.what == "table":
        print("\n".join(ablation_table(args.data)))
        return
    torch.set_num_threads(1)
    measured = Measured.load(args.clip, args.data)
    video = _open(args)
    if args.what == "pace":
        lines = measured.pace(video, args.only)
    else:
        lines = measured.fit(video, args.seconds, args.seed, args.only)
    for line in lines:
        measured.save(args.data)
        print(line, flush=True)


def _gpu(args: argparse.Namespace) -> None:
    if not 0 < args.minutes < inf:
        raise SettingsError(f"minutes must be over 0, got {args.minutes:g}")
    from benchmarks import gpu_decode, gpu_fit
    from benchmarks.gpu_jobs import Deadline, run_jobs
    from benchmarks.gpu_report import write_gpu_report

    whole = Deadline(minutes=args.minutes, began=time.monotonic())
    # Fits would take all of the time.
    fits = replace(whole, minutes=args.minutes * FITTING) if args.part == "all" else whole
    jobs = {
        "fit": lambda: (gpu_fit.jobs(fits, smoke=args.smoke), fits),
        "decode": lambda: (gpu_decode.jobs(smoke=args.smoke), whole),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for part in GPU_PARTS if args.part == "all" else [args.part]:
        path = args.output / f"{part}.json"
        for point in run_jobs(*jobs[part](), path):
            print(point, flush=True)
        write_gpu_report(path)


def _paper(args: argparse.Namespace) -> int:
    from benchmarks.paper import POINT_COLUMNS, bd_rates, fit_networks, speeds, timed
    from encoder.compare.compare import Report, read_results

    code = fit_networks(
        args.output,
        source=args.source,
        size=args.resize,
        epochs=args.epochs,
        presets=args.presets,
        device=args.device,
    )
    if code:
        return code
    settings, _ = read_results(args.output)
    report = Report(args.output, settings)
    points = timed(report)
    print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in settings.items()))
    rows = [{name: getattr(point, name) for name in POINT_COLUMNS} for point in points]
    show_table(rows, as_json=False)
    for table in (bd_rates(report.bd_rates()), speeds(points)):
        show_table(list(table), as_json=False)
    return 0


def _tables(args: argparse.Namespace) -> None:
    from benchmarks.tables import others, tables

    points = load_points(args.data)
    for table in tables(points):
        print("\n".join(table), end="\n\n")
    for point in others(points):
        print(point)


if __name__ == "__main__":
    sys.exit(main())

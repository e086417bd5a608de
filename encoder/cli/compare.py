"""The command `compare`: compare networks and classic codecs on one video."""

import argparse
import logging
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.cli.options import SAMPLE, add_device
from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from encoder.common.flags import add_flags, from_flags
from encoder.common.progress import progress
from encoder.config import FitConfig
from encoder.media.reading import source_file

if TYPE_CHECKING:
    import torch

    from encoder.compare.contenders import Contender
    from encoder.jobs.gop import Progress
    from encoder.media.video import Video

BUDGET_SECONDS = 60.0
RATES = 4
MAX_RATES = 16
MIN_HOLDOUT_FRAMES = 3
OFFERED = frozenset(
    [
        "track",
        "matrix",
        "background",
        "resize",
        "budget",
        "epochs",
        "segment_frames",
        "key_interval",
        "seed",
        "bits",
        "prune",
        "coder",
    ]
)
"""Settings of a fit that are options of a comparison and hold for all of its networks."""

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command."""
    compare = commands.add(
        "compare",
        _compare,
        summary="compare networks and classic codecs on one video: encode, decode, measure, report",
        example="python -m encoder compare --presets nerv hnerv fast --codecs x264 x265 "
        "--budget 60 --rates 3 -o report",
    )
    compare.add_argument(
        "video",
        nargs="?",
        type=Path,
        help="video file or folder of images (default: the bundled sample)",
    )
    compare.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report"),
        metavar="FOLDER",
        help="folder of the report (default: report)",
    )
    compare.add_argument(
        "--presets",
        nargs="*",
        default=["fast"],
        metavar="NAME",
        help="networks to fit (default: fast)",
    )
    compare.add_argument(
        "--codecs",
        nargs="*",
        default=None,
        metavar="NAME",
        help="classic codecs (default: x264 x265 svtav1)",
    )
    compare.add_argument(
        "--rates",
        type=int,
        default=RATES,
        metavar="N",
        help=f"number of rates of each network and codec (default: {RATES})",
    )
    compare.add_argument(
        "--frame",
        type=int,
        metavar="N",
        help="frame to show in the report (default: the middle one)",
    )
    compare.add_argument(
        "--holdout",
        choices=("none", "odd"),
        default="none",
        help="frames to hold out: odd fits to the even frames and measures the odd ones "
        "(default: none)",
    )
    add_flags(compare, FitConfig, OFFERED, defaults={"budget": f"{BUDGET_SECONDS:g}"})
    add_device(compare)


def _compare(args: argparse.Namespace) -> None:
    from encoder.compare.compare import Report, compare
    from encoder.compare.report import PAGE, write_report
    from encoder.media.source import read_video
    from encoder.training.device import pick_device

    if not 1 <= args.rates <= MAX_RATES:
        raise SettingsError(f"rates must be in 1..{MAX_RATES}, got {args.rates}")
    if args.budget is None and args.epochs is None:
        args.budget = BUDGET_SECONDS
    config = from_flags(FitConfig, args)
    device = pick_device(args.device)
    systems = _systems(args, config, device)
    source = args.video or SAMPLE
    with source_file(source) as path:
        video = read_video(path, size=config.frame_size, reading=config.reading)
    frame = _frame(args, len(video.frames))
    is_held_out = args.holdout == "odd"
    report = Report(args.output, _settings(args, config, device, source, video))

    def show(step: "Progress") -> None:
        update(done() + step.done, f"{step.psnr_db:.2f} dB in training")

    def done() -> int:
        return sum(
            report.find(system.name, rate) is not None
            for system in systems
            for rate in system.rates
        )

    with progress("comparing", total=sum(len(system.rates) for system in systems)) as update:
        for point in compare(systems, video, report, is_held_out=is_held_out, show=show):
            update(
                done(),
                f"{point.system} {point.rate}: {point.file_bytes} bytes, {point.psnr_db:.2f} dB",
            )
            write_report(report, video, frame, is_held_out=is_held_out)
    write_report(report, video, frame, is_held_out=is_held_out)
    logger.info("see %s", args.output / PAGE)


def _systems(
    args: argparse.Namespace, config: FitConfig, device: "torch.device"
) -> "list[Contender]":
    from encoder.compare.anchors import CODECS
    from encoder.compare.contenders import AnchorContender, NetworkContender
    from encoder.presets import find_preset

    codecs = args.codecs
    if args.holdout == "odd":
        if codecs:
            raise SettingsError("classic codecs have no frames in between: leave --codecs out")
        for name in args.presets:
            if not find_preset(name).continuous:
                raise SettingsError(f"preset {name} has no frames in between")
    elif codecs is None:
        codecs = list(CODECS)
    systems: list[Contender] = [AnchorContender(name, args.rates) for name in codecs or ()]
    systems += [NetworkContender(name, args.rates, config, device) for name in args.presets]
    if not systems:
        raise SettingsError("there is nothing to compare: give --presets or --codecs")
    return systems


def _frame(args: argparse.Namespace, frames: int) -> int:
    if args.holdout == "none":
        frame = frames // 2 if args.frame is None else args.frame
        if not 0 <= frame < frames:
            raise SettingsError(f"frame must be in 0..{frames - 1}, got {frame}")
        return frame
    if frames < MIN_HOLDOUT_FRAMES:
        raise SettingsError(f"holding frames out needs {MIN_HOLDOUT_FRAMES} of them, got {frames}")
    frame = (frames - 1) // 4 * 2 + 1 if args.frame is None else args.frame
    if not (0 < frame < frames - 1 and frame % 2):
        raise SettingsError(
            f"frame must be one that is held out, odd and in 1..{frames - 2}, got {frame}"
        )
    return frame


def _settings(
    args: argparse.Namespace,
    config: FitConfig,
    device: "torch.device",
    source: Path,
    video: "Video",
) -> dict[str, object]:
    from importlib.metadata import version

    import numpy as np

    frames, _, height, width = video.frames.shape
    return {
        "nervcast": version("nervcast"),
        "video": source.name + config.reading.flags,
        "frames": frames,
        "size": f"{width}x{height}",
        "pixels": f"CRC-32 {zlib.crc32(np.ascontiguousarray(video.frames).data):08x}",
        "limit": str(config.limit(frames)),
        "segment_frames": config.segment_frames,
        "key_interval": config.key_interval,
        "coding": f"{config.bits or 'default'} bits, {config.prune:g} pruned, {config.coder} coder",
        "holdout": args.holdout,
        "device": _device_name(device),
        "seed": config.seed,
    }


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{device.type}, {capability}, {torch.get_num_threads()} threads"

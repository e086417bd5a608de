"""Serve clips to browsers, and decode them to files."""

import argparse
import contextlib
import ipaddress
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.codec.clip import Clip
from encoder.codec.console import Commands, clips_here, progress
from encoder.codec.container import MAX_DENOMINATOR
from encoder.codec.errors import BitstreamError, SettingsError
from encoder.codec.follower import Follower
from export.names import DEFAULT_BATCH, ENGINE_NAMES

if TYPE_CHECKING:
    from export.engine import Engine

SAMPLE = Path(__file__).parent / "data" / "bunny.nerv"
"""What `serve` shows where there is nothing else."""
MAX_NOTES = 10
"""Most lines about the damage of one clip."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    commands = Commands("player", __doc__, install="nervcast[player]")
    serve = commands.add(
        "serve", _serve, summary="stream clips to browsers over WebRTC", example="python -m player serve --port 8080"
    )
    serve.add_argument(
        "clips",
        nargs="*",
        type=Path,
        metavar="CLIP",
        help=".nerv files (default: all of the current folder, or else a bundled sample)",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    serve.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one (default: 8080)")
    serve.add_argument("--stun", metavar="URL", help="STUN server for viewers behind NAT, like stun:example.org:3478")
    decode = commands.add(
        "decode",
        _decode,
        summary="decode a clip to a video file or PNG images",
        example="python -m player decode bunny.nerv bunny.mp4 --fps 50",
    )
    decode.add_argument("clip", type=Path, help="a .nerv file")
    decode.add_argument("output", help="OUT.mp4, OUT.y4m or a new FOLDER/ for PNG images")
    decode.add_argument("--fps", type=_rate, help="frames per second; other than the clip's, times in between are decoded")
    for command in (serve, decode):
        command.add_argument(
            "--engine",
            default="auto",
            help=f"{', '.join(ENGINE_NAMES)}, or auto: the fastest here, which is measured once (default: auto)",
        )
        command.add_argument(
            "--batch", type=int, default=DEFAULT_BATCH, metavar="N", help=f"frames per call (default: {DEFAULT_BATCH})"
        )
    return commands.main(argv)


def _serve(args: argparse.Namespace) -> None:
    import asyncio

    from export.engines import open_engine
    from player.server import make_app, serve
    from player.sessions import MAX_PORT, Sessions
    from player.stream import Stream

    host = _address(args.host)
    if not 0 <= args.port <= MAX_PORT:
        raise SettingsError(f"port must be in 0..{MAX_PORT}, got {args.port}")
    clips = _read_clips(args.clips)

    def engine_of(clip: Clip) -> Callable[[], "Engine"]:
        return lambda: open_engine(clip, args.engine, batch=args.batch)

    streams = {
        name: Stream(found.clip, engine_of(found.clip), file_bytes=found.file_bytes, follower=found.follower)
        for name, found in clips.items()
    }
    # An engine that is not there is an error now, not when somebody watches.
    engine = engine_of(next(iter(clips.values())).clip)()
    engine.close()

    def announce(url: str) -> None:
        logger.info("serving %s on %s at %s (Ctrl-C stops)", ", ".join(streams), engine.name, url)

    async def run() -> None:
        await serve(make_app(streams, Sessions(host=host, stun=args.stun)), host, args.port, announce=announce)

    asyncio.run(run())


def _rate(text: str) -> Fraction:
    # Fraction alone would take 1e99999999, and compute it.
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}|/0*[1-9]\d{0,8})?", text):
        raise argparse.ArgumentTypeError(f"not a rate like 50 or 30000/1001: {text!r}")
    return Fraction(text).limit_denominator(MAX_DENOMINATOR)


def _address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise SettingsError(f"host must be an IP address of this machine, got {host!r}") from None


@dataclass(frozen=True)
class _Found:
    """A clip, and what follows its file if that is still being written."""

    clip: Clip
    file_bytes: int
    follower: Follower | None


def _read_clips(paths: Sequence[Path]) -> dict[str, _Found]:
    """Return the clips named, or else the readable ones of the current folder, or else the sample, by unique names."""
    found = {path: _find(path) for path in paths}
    if not paths:
        for path in clips_here():
            try:
                found[path] = _find(path)
            except BitstreamError as error:
                logger.warning("%s is left out: %s", path, error)
    if not found:
        found[SAMPLE] = _find(SAMPLE)
    clips: dict[str, _Found] = {}
    for path, each in found.items():
        name, number = path.stem, 2
        while name in clips:
            name, number = f"{path.stem}-{number}", number + 1
        clips[name] = each
    return clips


def _find(path: Path) -> _Found:
    """Read a clip; one without an end may still be growing."""
    follower = Follower(path)
    if not follower.is_whole:
        clip = follower.clip
        _warn(path, follower.damage)
        logger.info("%s is being written, or was cut off: %d of %d frames are there", path, clip.end, clip.header.frames)
        return _Found(clip, follower.file_bytes, follower)
    follower.close()
    return _Found(_read(path), path.stat().st_size, None)


def _read(path: Path) -> Clip:
    """Read a clip, whose damaged segments are reported and left out."""
    clip = Clip.read(path, strict=False)
    _warn(path, clip.damage)
    return clip


def _warn(path: Path, damage: Sequence[str]) -> None:
    for note in damage[:MAX_NOTES]:
        logger.warning("%s: %s", path, note)
    if len(damage) > MAX_NOTES:
        logger.warning("%s: and %d more", path, len(damage) - MAX_NOTES)


def _decode(args: argparse.Namespace) -> None:
    from export.engines import open_engine
    from player.output import frame_times, pick_writer

    clip = _read(args.clip)
    times = frame_times(clip.header, args.fps)
    writer = pick_writer(args.output)
    engine = open_engine(clip, args.engine, batch=args.batch, pixels=writer.pixels)
    with (
        contextlib.closing(engine),
        writer.open(Path(args.output), clip.header, args.fps or clip.header.rate) as write,
        progress(f"decoding on {engine.name}", total=len(times)) as update,
    ):
        for start in range(0, len(times), args.batch):
            write(engine.frames(times[start : start + args.batch]))
            update(min(start + args.batch, len(times)))

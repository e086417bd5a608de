"""The command `serve`."""

import argparse
import contextlib
import ipaddress
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.common.console import Commands
from encoder.common.errors import SettingsError
from player.cli.options import (
    TOKEN,
    add_engine_options,
    add_stream_options,
    engine_opener,
    ice_of,
    set_log_format,
    token_of,
)

if TYPE_CHECKING:
    import ssl

    from aiohttp import web

    from player.server.auth import Access

MAX_PORT = 65535
WATCH_TOKEN = "NERVCAST_WATCH_TOKEN"  # noqa: S105 (a name)
"""Environment variable for the token that only watches."""

logger = logging.getLogger(__name__)


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add(
        "serve",
        _run,
        summary="stream clips to browsers over WebRTC",
        example="python -m player serve --port 8080",
    )
    command.add_argument(
        "clips",
        nargs="*",
        metavar="CLIP",
        help=".nerv files or http(s) addresses "
        "(default: all files of the current folder, or else a bundled sample)",
    )
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    command.add_argument(
        "--port",
        type=int,
        default=8080,
        help="port to listen on; 0 takes a free one (default: 8080)",
    )
    _add_access(command)
    _add_limits(command)
    add_stream_options(command)
    _add_media(command)
    add_engine_options(command)


def _add_access(command: argparse.ArgumentParser) -> None:
    access = command.add_argument_group("access")
    access.add_argument(
        "--token", help=f"token that viewers must send, as in http://…/?token=…; also ${TOKEN}"
    )
    access.add_argument(
        "--watch-token",
        metavar="TOKEN",
        help="token that lets viewers watch, but not control the shared timeline; "
        f"also ${WATCH_TOKEN}",
    )
    access.add_argument(
        "--insecure", action="store_true", help="let everybody in who reaches the address"
    )
    access.add_argument(
        "--cert", type=Path, metavar="FILE", help="TLS certificate (PEM), with --key"
    )
    access.add_argument("--key", type=Path, metavar="FILE", help="TLS private key (PEM)")
    access.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="site whose pages may use this server, like https://example.org; "
        "may be given several times",
    )


def _add_limits(command: argparse.ArgumentParser) -> None:
    limits = command.add_argument_group("limits")
    limits.add_argument(
        "--max-viewers", type=_count, default=32, metavar="N", help="viewers in all (default: 32)"
    )
    limits.add_argument(
        "--max-per-address",
        type=_count,
        default=8,
        metavar="N",
        help="viewers of an address (default: 8)",
    )
    limits.add_argument(
        "--max-private",
        type=_count,
        default=2,
        metavar="N",
        help="timelines of one viewer alone (default: 2)",
    )
    limits.add_argument(
        "--idle-seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="when an unheard viewer counts as gone (default: 60)",
    )
    limits.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="how long SIGTERM lets viewers go on (default: 5)",
    )


def _add_media(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--media-host",
        metavar="ADDRESS",
        help="address for the media, if a proxy stands before --host (default: as --host)",
    )
    command.add_argument(
        "--public-ip",
        metavar="ADDRESS",
        help="IPv4 address that leads to this machine, port by port",
    )
    command.add_argument(
        "--stamp", action="store_true", help="draw the time into the pictures, to measure latency"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:  # noqa: PLR2004 (no machine has a million viewers)
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:  # noqa: PLR2004 (a day)
        raise argparse.ArgumentTypeError(f"not a number of seconds of at most a day: {text!r}")
    return seconds


def _run(args: argparse.Namespace) -> None:
    import asyncio

    from player.metrics import Metrics
    from player.playback.catalog import find_items
    from player.playback.channel import make_channels
    from player.server.app import make_app
    from player.server.limits import Limits
    from player.server.sessions import Sessions

    set_log_format(args)
    ice = ice_of(args)
    host = _address(args.host)
    media_host = _address(args.media_host) if args.media_host else None
    if not 0 <= args.port <= MAX_PORT:
        raise SettingsError(f"port must be in 0..{MAX_PORT}, got {args.port}")
    access = _access(args, host)
    tls = _tls(args.cert, args.key)
    limits = Limits(args.max_viewers, args.max_per_address, args.max_private, args.idle_seconds)
    with contextlib.ExitStack() as downloads:
        sources = find_items(args.clips, engine_opener(args), downloads)
        # A missing engine is an error now, not when the first viewer comes.
        engine = sources[0].open_engine(())
        engine.close()
        metrics = Metrics()
        channels = make_channels(sources, metrics, bitrate=args.bitrate, stamp=args.stamp)
        app = make_app(
            channels,
            Sessions(limits, ice),
            metrics,
            host=host,
            media_host=media_host,
            access=access,
        )
        announce = _announcer(", ".join(source.name for source in sources), engine.name, host)
        asyncio.run(_serve(app, host, args, tls, announce))


async def _serve(
    app: "web.Application",
    host: str,
    args: argparse.Namespace,
    tls: "ssl.SSLContext | None",
    announce: Callable[[str], None],
) -> None:
    """Serve an application, with a status line on the terminal."""
    from player.server.app import serve
    from player.server.app_keys import CHANNELS, SESSIONS
    from player.server.status_line import describe, showing

    def status() -> str:
        channels = [each for entry in app[CHANNELS].values() for each in entry.family]
        playouts = [each for channel in channels for each in channel.streams]
        return describe(playouts, [session.report for session in app[SESSIONS].all])

    async with showing(sys.stderr, status):
        await serve(
            app, host, args.port, tls=tls, drain_seconds=args.drain_seconds, announce=announce
        )


def _announcer(names: str, engine: str, host: str) -> Callable[[str], None]:
    """Return a function that logs the server's URL."""

    def announce(url: str) -> None:
        logger.info("serving %s on %s at %s (Ctrl-C stops)", names, engine, url)
        if ipaddress.ip_address(host).is_unspecified:
            logger.info("listening on all addresses of this machine")

    return announce


def _access(args: argparse.Namespace, host: str) -> "Access":
    from player.server.auth import Access

    return Access.parse(
        host,
        token=token_of(args.token, TOKEN),
        watch_token=token_of(args.watch_token, WATCH_TOKEN),
        insecure=args.insecure,
        origins=args.allow_origin,
    )


def _address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise SettingsError(f"host must be an IP address of this machine, got {host!r}") from None


def _tls(cert: Path | None, key: Path | None) -> "ssl.SSLContext | None":
    import ssl

    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise SettingsError("--cert and --key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise SettingsError(
            f"{cert} and {key} are no certificate and its key: {error.reason or error}"
        ) from None
    return context

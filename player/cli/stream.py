"""The commands that stream: `serve` and `publish`."""

import argparse
import contextlib
import ipaddress
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.common.console import Commands
from encoder.common.errors import SettingsError

if TYPE_CHECKING:
    import ssl

    from yarl import URL

    from encoder.codec.clip import Clip
    from export.engines.base import Engine
    from player.rtc.ice import Ice
    from player.server.auth import Access

MAX_PORT = 65535
MIN_BITRATE = 50_000
MAX_BITRATE = 100_000_000
TOKEN = "NERVCAST_TOKEN"  # noqa: S105 (a name)
WATCH_TOKEN = "NERVCAST_WATCH_TOKEN"  # noqa: S105 (a name)
"""Environment variables for what other users of the machine could see among a command's arguments."""

logger = logging.getLogger(__name__)


def add(commands: Commands) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add the commands; return their parsers."""
    serve = commands.add(
        "serve",
        _serve,
        summary="stream clips to browsers over WebRTC",
        example="python -m player serve --port 8080",
    )
    serve.add_argument(
        "clips",
        nargs="*",
        metavar="CLIP",
        help=".nerv files or http(s) addresses (default: all files of the current folder, or else a bundled sample)",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    serve.add_argument(
        "--port",
        type=int,
        default=8080,
        help="port to listen on; 0 takes a free one (default: 8080)",
    )
    access = serve.add_argument_group("access")
    access.add_argument(
        "--token", help=f"what viewers must know, as in http://…/?token=…; also ${TOKEN}"
    )
    access.add_argument(
        "--watch-token",
        metavar="TOKEN",
        help=f"lets one watch, but not control what others watch; also ${WATCH_TOKEN}",
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
        help="site whose pages may use this server, like https://example.org; may be given several times",
    )
    limits = serve.add_argument_group("limits")
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
    _add_common(serve)
    serve.add_argument(
        "--media-host",
        metavar="ADDRESS",
        help="address for the media, if a proxy stands before --host (default: as --host)",
    )
    serve.add_argument(
        "--public-ip",
        metavar="ADDRESS",
        help="IPv4 address that leads to this machine, port by port",
    )
    serve.add_argument(
        "--stamp", action="store_true", help="draw the time into the pictures, to measure latency"
    )
    publish = commands.add(
        "publish",
        _publish,
        summary="send a clip to a media server over WHIP",
        example="python -m player publish bunny.nerv http://localhost:8889/bunny/whip",
    )
    publish.add_argument("clip", metavar="CLIP", help="a .nerv file or its http(s) address")
    publish.add_argument(
        "url", metavar="WHIP_URL", help="the media server's address for publishers"
    )
    publish.add_argument("--token", help=f"sent as a Bearer token; also ${TOKEN}")
    publish.add_argument(
        "--codec", choices=("H264", "VP8"), default="H264", help="video codec (default: H264)"
    )
    publish.add_argument(
        "--redirect-token",
        action="store_true",
        help="also send the token to where another site redirects to (RFC 9725, 4.5)",
    )
    _add_common(publish)
    return serve, publish


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bitrate",
        type=_bitrate,
        metavar="BITS",
        help="bits per second of each encode, like 800k or 2.5M (default: by size and rate, 1M for 640x360 at 30 fps)",
    )
    command.add_argument(
        "--stun",
        metavar="URL",
        help="STUN server, for who is behind NAT, like stun:example.org:3478",
    )
    command.add_argument(
        "--turn", metavar="URL", help="TURN server, like turn:USER:PASSWORD@example.org:3478"
    )
    command.add_argument("--log-json", action="store_true", help="log JSON, an object a line")


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:  # noqa: PLR2004 (no machine has a million viewers)
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return int(text)


def _bitrate(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([kM]?)", text)
    bitrate = float(found[1]) * {"": 1, "k": 1e3, "M": 1e6}[found[2]] if found else 0
    if not MIN_BITRATE <= bitrate <= MAX_BITRATE:
        raise argparse.ArgumentTypeError(f"not bits per second in 50k..100M: {text!r}")
    return round(bitrate)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:  # noqa: PLR2004 (a day)
        raise argparse.ArgumentTypeError(f"not a number of seconds of at most a day: {text!r}")
    return seconds


def _serve(args: argparse.Namespace) -> None:
    import asyncio

    from player.metrics import Metrics
    from player.playback.catalog import find_items
    from player.playback.channel import make_channels
    from player.server.app import make_app, serve
    from player.server.sessions import Limits, Sessions
    from player.server.status_line import describe, showing

    ice = _common(args)
    host = _address(args.host)
    media_host = _address(args.media_host) if args.media_host else None
    if not 0 <= args.port <= MAX_PORT:
        raise SettingsError(f"port must be in 0..{MAX_PORT}, got {args.port}")
    access = _access(args, host)
    tls = _tls(args.cert, args.key)
    limits = Limits(args.max_viewers, args.max_per_address, args.max_private, args.idle_seconds)
    with contextlib.ExitStack() as downloads:
        items = find_items(args.clips, _opener(args), downloads)
        # An engine that is not there is an error now, not when somebody watches.
        engine = items[0].open_engine(())
        engine.close()
        metrics = Metrics()
        sessions = Sessions(limits, ice)
        channels = make_channels(items, metrics, bitrate=args.bitrate, stamp=args.stamp)

        def announce(url: str) -> None:
            names = ", ".join(item.name for item in items)
            logger.info("serving %s on %s at %s (Ctrl-C stops)", names, engine.name, url)
            if ipaddress.ip_address(host).is_unspecified:
                logger.info("listening on all addresses of this machine")

        def line() -> str:
            streams = [stream for channel in channels.values() for stream in channel.streams]
            return describe(streams, [dict(session.report) for session in sessions.all])

        async def run() -> None:
            app = make_app(
                channels, sessions, metrics, host=host, media_host=media_host, access=access
            )
            async with showing(sys.stderr, line):
                await serve(
                    app,
                    host,
                    args.port,
                    tls=tls,
                    drain_seconds=args.drain_seconds,
                    announce=announce,
                )

        asyncio.run(run())


def _publish(args: argparse.Namespace) -> None:
    import asyncio

    from player.metrics import Metrics
    from player.playback.catalog import find_items
    from player.playback.playout import Playout
    from player.rtc.aiortc_hooks import self_test
    from player.rtc.ice import offer_addresses
    from player.server.status_line import describe, showing
    from player.whip_client import publish

    ice = _common(args)
    url = _endpoint(args.url)
    with contextlib.ExitStack() as downloads:
        items = find_items([args.clip], _opener(args), downloads)
        stream = Playout(items, Metrics().of(items[0].name), bitrate=args.bitrate)

        async def run() -> None:
            this = asyncio.current_task()
            events = asyncio.get_running_loop()
            assert this is not None  # it runs
            events.add_signal_handler(
                signal.SIGTERM, this.cancel
            )  # the media server is told, as at Ctrl-C
            # Of a media server on this machine nothing comes from another one.
            is_here = url.host in ("127.0.0.1", "localhost", "::1")
            offer_addresses("127.0.0.1" if is_here else "0.0.0.0")  # noqa: S104
            await self_test()
            await ice.ask()
            following = asyncio.gather(items[0].keep_following(), ice.keep_asking())
            try:
                async with showing(sys.stderr, lambda: describe([stream])):
                    await publish(
                        stream,
                        url,
                        token=_token(args.token, TOKEN),
                        codec=args.codec,
                        ice=ice,
                        follow_with_token=args.redirect_token,
                    )
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await asyncio.to_thread(stream.close)
                items[0].close()

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(run())


def _endpoint(text: str) -> "URL":
    from yarl import URL

    try:
        # Byte by byte as it is given, where that is a URL: a signature may be part of it.
        url = URL(text, encoded=re.fullmatch("[!-~]+", text) is not None)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(
            f"a WHIP endpoint has an address like https://example.org/whip, got {text!r}"
        )
    if url.user is not None:
        raise SettingsError("a WHIP endpoint takes a --token, no user")
    return url


def _access(args: argparse.Namespace, host: str) -> "Access":
    from player.server.auth import Access

    return Access.parse(
        host,
        token=_token(args.token, TOKEN),
        watch_token=_token(args.watch_token, WATCH_TOKEN),
        insecure=args.insecure,
        origins=args.allow_origin,
    )


def _token(given: str | None, variable: str) -> str | None:
    """Return what was given or is set; nothing given by mistake, as by an unset variable of a shell, is an empty one."""
    return os.environ.get(variable) if given is None else given


def _common(args: argparse.Namespace) -> "Ice":
    from player.json_log import log_json
    from player.rtc.ice import Ice

    if args.log_json:
        log_json()
    return Ice.parse(args.stun, args.turn, getattr(args, "public_ip", None))


def _opener(args: argparse.Namespace) -> "Callable[[Clip, Collection[str]], Engine]":
    from export.engines.registry import open_engine

    return lambda clip, failed: open_engine(clip, args.engine, batch=args.batch, failed=failed)


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

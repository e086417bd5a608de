"""The command `publish`."""

import argparse
import contextlib
import re
import sys
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
    from yarl import URL

    from player.playback.playout import Playout
    from player.rtc.ice import Ice

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add(
        "publish",
        _run,
        summary="send a clip to a media server over WHIP",
        example="python -m player publish bunny.nerv http://localhost:8889/bunny/whip",
    )
    command.add_argument("clip", metavar="CLIP", help="a .nerv file or its http(s) address")
    command.add_argument(
        "url", metavar="WHIP_URL", help="the media server's address for publishers"
    )
    command.add_argument("--token", help=f"sent as a Bearer token; also ${TOKEN}")
    command.add_argument(
        "--codec", choices=("H264", "VP8"), default="H264", help="video codec (default: H264)"
    )
    command.add_argument(
        "--redirect-token",
        action="store_true",
        help="also send the token to where another site redirects to (RFC 9725, 4.5)",
    )
    add_stream_options(command)
    add_engine_options(command)


def _run(args: argparse.Namespace) -> None:
    import asyncio

    from player.metrics import Metrics
    from player.playback.catalog import find_items
    from player.playback.playout import Playout

    set_log_format(args)
    ice = ice_of(args)
    url = parse_endpoint(args.url)
    with contextlib.ExitStack() as downloads:
        sources = find_items([args.clip], engine_opener(args), downloads)
        playout = Playout(sources, Metrics().of(sources[0].name), bitrate=args.bitrate)
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_publish(args, playout, url, ice))


async def _publish(args: argparse.Namespace, playout: "Playout", url: "URL", ice: "Ice") -> None:
    """Publish a playout, with its background tasks, until the command is interrupted."""
    import asyncio
    import signal

    from player.rtc.aioice_hooks import HostAddresses, host_addresses
    from player.rtc.peer_connection import self_test
    from player.server.status_line import describe, showing
    from player.whip_client import publish

    this = asyncio.current_task()
    assert this is not None  # it runs
    # A cancelled publisher tells the media server, as at Ctrl-C.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    # A media server on this machine sends nothing from another one.
    host = "127.0.0.1" if url.host in LOCAL_HOSTS else "0.0.0.0"  # noqa: S104
    with host_addresses(HostAddresses(host)):
        await self_test()
        await ice.ask()
        following = asyncio.gather(playout.source.keep_following(), ice.keep_asking())
        try:
            async with showing(sys.stderr, lambda: describe([playout])):
                await publish(
                    playout,
                    url,
                    token=token_of(args.token, TOKEN),
                    codec=args.codec,
                    ice=ice,
                    follow_with_token=args.redirect_token,
                )
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await asyncio.to_thread(playout.close)
            playout.source.close()


def parse_endpoint(text: str) -> "URL":
    """Return the URL of a WHIP endpoint; raises SettingsError."""
    from yarl import URL

    try:
        # A valid URL is kept byte by byte: a signature may be part of it.
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

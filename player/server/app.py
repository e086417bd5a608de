"""The web server: its application, its start and its end."""

import asyncio
import gc
import ipaddress
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler
from yarl import URL

from player.metrics import Metrics
from player.playback.channel import Channel
from player.rtc.aioice_hooks import HostAddresses, host_addresses
from player.rtc.peer_connection import self_test
from player.server import routes_api, routes_here, routes_whep
from player.server.app_keys import CHANNELS, METRICS, SESSIONS
from player.server.auth import HEADERS, Access, guard
from player.server.controls import ControlError
from player.server.errors import failure
from player.server.listener import Connections
from player.server.sessions import Sessions

WEB = Path(__file__).parent / "web"
FILES = frozenset(path.name for path in WEB.iterdir())
"""Files of the page."""
MAX_BODY_BYTES = 1 << 16
GC_THRESHOLDS = (2_000, 5, 5)
"""Thresholds of the three generations of Python's garbage collector: many small collections.

With Python's own, one collection of abandoned sessions holds the event loop for 0.1 s.
"""
KEEP_SECONDS = 30.0
"""Time that a connection may be silent between two requests."""
LINGER_SECONDS = 1.0
"""Time to read the rest of a body that no handler read."""

CONNECTIONS = web.AppKey("connections", Connections)

routes = web.RouteTableDef()

logger = logging.getLogger(__name__)


def make_app(
    channels: Mapping[str, Channel],
    sessions: Sessions,
    metrics: Metrics,
    *,
    host: str,
    media_host: str | None = None,
    access: Access | None = None,
) -> web.Application:
    """Return the application that serves channels by name.

    `host` is the address for HTTP; `media_host` is that for media, if it is another one.
    """
    loopback = ipaddress.ip_address(host).is_loopback
    app = web.Application(
        client_max_size=MAX_BODY_BYTES,
        middlewares=[_count, guard(access or Access(), loopback=loopback), _json_errors],
    )
    app[CHANNELS] = channels
    app[SESSIONS] = sessions
    app[METRICS] = metrics
    app[CONNECTIONS] = Connections(HEADERS)
    for route in (*routes, *routes_api.routes, *routes_here.routes, *routes_whep.routes):
        assert isinstance(route, web.RouteDef)
        options = {**route.kwargs, "expect_handler": _expect}
        app.add_routes([web.RouteDef(route.method, route.path, route.handler, options)])
    app.on_response_prepare.append(_add_headers)
    app.cleanup_ctx.append(partial(_lifetime, HostAddresses(media_host or host)))
    return app


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    drain_seconds: float = 0.0,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM.

    SIGTERM lets the viewers go on for `drain_seconds`, without new ones. `announce` gets the URL
    once the server listens. Raises SettingsError for a busy port.
    """
    stop = asyncio.Event()
    leave = asyncio.Event()
    _handle_signals(app[SESSIONS], stop, leave)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=1.0,
        keepalive_timeout=KEEP_SECONDS,
        lingering_time=LINGER_SECONDS,
        auto_decompress=False,  # compressed bodies are refused unread
    )
    await runner.setup()
    connections = app[CONNECTIONS]
    try:
        address = await connections.listen(runner, host, port, tls)
        announce(str(_url(*address, scheme="https" if tls else "http")))
        await leave.wait()
        await _drain(app[SESSIONS], stop, drain_seconds)
    finally:
        connections.close()
        await runner.cleanup()


def _handle_signals(sessions: Sessions, stop: asyncio.Event, leave: asyncio.Event) -> None:
    """Set `leave` at SIGINT and SIGTERM, and `stop` at SIGINT and a second SIGTERM."""

    def interrupt() -> None:
        if stop.is_set():
            os._exit(1)  # the second time: an engine may take minutes to build
        stop.set()
        leave.set()

    def drain() -> None:
        if leave.is_set():
            interrupt()
        sessions.draining = True
        leave.set()

    events = asyncio.get_running_loop()
    events.add_signal_handler(signal.SIGINT, interrupt)
    events.add_signal_handler(signal.SIGTERM, drain)


async def _drain(sessions: Sessions, stop: asyncio.Event, seconds: float) -> None:
    """Wait until there are no viewers, until `stop` is set, or for a number of seconds."""
    if len(sessions) and not stop.is_set():
        logger.info(
            "stopping once %d viewers have left, in %g seconds at the latest",
            len(sessions),
            seconds,
        )
    emptied = asyncio.create_task(sessions.emptied.wait())
    stopped = asyncio.create_task(stop.wait())
    _, waiting = await asyncio.wait(
        {emptied, stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
    )
    for task in waiting:
        task.cancel()


def _url(address: str, port: int, *, scheme: str = "http") -> URL:
    """Return the URL of the server for a browser on this machine."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        address = "127.0.0.1" if isinstance(parsed, ipaddress.IPv4Address) else "::1"
    return URL.build(scheme=scheme, host=address, port=port)


async def _lifetime(addresses: HostAddresses, app: web.Application) -> AsyncIterator[None]:
    """Run the background tasks of an application from its start to its end."""
    with host_addresses(addresses):
        await self_test()
        channels = [each for entry in app[CHANNELS].values() for each in entry.family]
        sources = {id(source): source for channel in channels for source in channel.sources}
        tasks = [
            *(
                asyncio.create_task(each.keep_following())
                for each in sources.values()
                if each.follows
            ),
            asyncio.create_task(_prepare(app)),
            asyncio.create_task(app[SESSIONS].ice.keep_asking()),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await app[SESSIONS].close_all()
        finally:
            await asyncio.gather(*(asyncio.to_thread(channel.close) for channel in channels))


async def _prepare(app: web.Application) -> None:
    """Start the first channel for its first viewer, and decode the clips' thumbnails in turn."""
    single = [channel for channel in app[CHANNELS].values() if not channel.is_playlist]
    for index, channel in enumerate(single):
        await asyncio.to_thread(channel.draw_thumbnail)
        if index == 0:
            channel.shared.start()
    # The present objects stay: a collection among them would hold the event loop for 0.1 s.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


@web.middleware
async def _count(request: web.Request, handler: Handler) -> web.StreamResponse:
    with request.app[CONNECTIONS].busy(request):
        response = await handler(request)
    request.app[METRICS].responses.labels(str(response.status)).inc()
    return response


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    if request.path.startswith(routes_here.HERE):
        response.headers["Content-Security-Policy"] = routes_here.POLICY


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body that a client announces (`Expect`; RFC 9110, section 10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        return failure(HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected")
    if request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    return None


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlError as error:
        return failure(HTTPStatus.BAD_REQUEST, str(error))
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return failure(error.status, error.reason, allowed)


@routes.get("/")
async def page(_: web.Request) -> web.StreamResponse:
    """Send the page."""
    return web.FileResponse(WEB / "index.html")


@routes.get("/static/{name}")
async def static(request: web.Request) -> web.StreamResponse:
    """Send a file of the page."""
    name = request.match_info["name"]
    if name not in FILES:
        raise web.HTTPNotFound(reason="no such file")
    return web.FileResponse(WEB / name)

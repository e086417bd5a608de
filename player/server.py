"""The web server: the page, the clips' state and controls as JSON, and a WHEP endpoint for each clip."""

import asyncio
import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from yarl import URL

from encoder.codec.errors import SettingsError
from player.sessions import FullError, OfferError, Sessions
from player.stream import Stream

WEB = Path(__file__).parent / "web"
SDP = "application/sdp"
MAX_BODY_BYTES = 1 << 16
RETRY_SECONDS = 10
FOLLOW_SECONDS = 1.0
"""Time between two looks at files that are still being written."""

STREAMS = web.AppKey("streams", Mapping[str, Stream])
SESSIONS = web.AppKey("sessions", Sessions)

routes = web.RouteTableDef()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(streams: Mapping[str, Stream], sessions: Sessions) -> web.Application:
    """Return the application that serves streams by name."""
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_json_errors])
    app[STREAMS], app[SESSIONS] = streams, sessions
    app.add_routes(routes)
    app.router.add_static("/static", WEB)
    app.cleanup_ctx.append(_lifetime)
    return app


async def serve(app: web.Application, host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `announce` is told the URL once it is open. Raises SettingsError for a busy port."""
    stop = asyncio.Event()

    def interrupt() -> None:
        if stop.is_set():
            os._exit(1)  # the second time: an engine that takes minutes to build need not be waited for
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
        announce(str(_url(*runner.addresses[0][:2])))
        await stop.wait()
    finally:
        await runner.cleanup()


def _url(address: str, port: int) -> URL:
    """Return where a browser on this machine finds the server."""
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        address = "127.0.0.1" if isinstance(parsed, ipaddress.IPv4Address) else "::1"
    return URL.build(scheme="http", host=address, port=port)


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    following = [asyncio.create_task(_follow(stream)) for stream in app[STREAMS].values() if stream.follows]
    yield
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    try:
        await app[SESSIONS].close_all()
    finally:
        await asyncio.gather(*(asyncio.to_thread(stream.close) for stream in app[STREAMS].values()))


async def _follow(stream: Stream) -> None:
    while stream.follows:
        await asyncio.sleep(FOLLOW_SECONDS)
        await asyncio.to_thread(stream.follow)


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _error(error.status, error.reason, allowed)


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": reason}, status=status, headers=headers)


@routes.get("/")
async def page(_: web.Request) -> web.StreamResponse:
    """Send the page."""
    return web.FileResponse(WEB / "index.html")


@routes.get("/api/clips")
async def clips(request: web.Request) -> web.Response:
    """List the clips."""
    return web.json_response([_describe(name, stream) for name, stream in request.app[STREAMS].items()])


@routes.get("/api/clips/{clip}")
async def state(request: web.Request) -> web.Response:
    """Tell where a clip is and how fast it goes."""
    return web.json_response(_state(_stream(request)))


@routes.post("/api/clips/{clip}")
async def control(request: web.Request) -> web.Response:
    """Set what a JSON object names: `playing` and `loop` (booleans), `frame` (a number); answer with the state."""
    stream = _stream(request)
    # A page of another site can send a form, but not JSON.
    if request.content_type != "application/json":
        return _error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    try:
        wishes = await request.json()
    except (LookupError, RecursionError, ValueError):  # not JSON, not text, of an unknown charset, or absurd
        return _error(HTTPStatus.BAD_REQUEST, "the body is not JSON")
    problem = _check(wishes, stream)
    if problem is not None:
        return _error(HTTPStatus.BAD_REQUEST, problem)
    if "frame" in wishes:
        stream.seek(wishes["frame"])
    stream.loop = wishes.get("loop", stream.loop)
    stream.playing = wishes.get("playing", stream.playing)
    return web.json_response(_state(stream))


@routes.post("/whep/{clip}")
async def watch(request: web.Request) -> web.Response:
    """Answer a viewer's offer."""
    stream = _stream(request)
    if request.content_type != SDP:
        return _error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the offer must be {SDP}")
    try:
        name, answer = await request.app[SESSIONS].open(await request.text(), stream)
    except (LookupError, UnicodeDecodeError):
        return _error(HTTPStatus.BAD_REQUEST, "the offer is not text")
    except OfferError as error:
        return _error(HTTPStatus.BAD_REQUEST, str(error))
    except FullError:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, "too many viewers", {"Retry-After": str(RETRY_SECONDS)})
    headers = {"Location": f"{request.rel_url.raw_path}/{name}"}
    return web.Response(status=HTTPStatus.CREATED, text=answer, content_type=SDP, headers=headers)


@routes.delete("/whep/{clip}/{session}")
async def leave(request: web.Request) -> web.Response:
    """End a viewer's session."""
    if not await request.app[SESSIONS].close(request.match_info["session"]):
        return _error(HTTPStatus.NOT_FOUND, "no such session")
    return web.Response()


def _stream(request: web.Request) -> Stream:
    stream = request.app[STREAMS].get(request.match_info["clip"])
    if stream is None:
        raise web.HTTPNotFound(reason="no such clip")
    return stream


def _check(wishes: object, stream: Stream) -> str | None:
    """Return what is wrong with a control's body, if anything is."""
    kinds = {"playing": bool, "loop": bool, "frame": int}
    if not isinstance(wishes, dict):
        return "the body is not a JSON object"
    for key, value in wishes.items():
        if key not in kinds:
            return f"unknown key {key!r}, known are: {', '.join(kinds)}"
        if type(value) is not kinds[key]:
            return f"{key} must be of type {kinds[key].__name__}"
    last = stream.clip.end - 1
    if not 0 <= wishes.get("frame", 0) <= last:
        return f"frame must be in 0..{last}"
    return None


def _describe(name: str, stream: Stream) -> dict[str, object]:
    header = stream.clip.header
    return {
        "name": name,
        "width": header.width,
        "height": header.height,
        "frames": header.frames,
        "fps": float(header.rate),
        "bits_per_pixel": 8 * stream.file_bytes / (header.width * header.height * stream.clip.end),
        "file_bytes": stream.file_bytes,
    }


def _state(stream: Stream) -> dict[str, object]:
    return {
        "frame": stream.frame,
        "frames": stream.clip.end,
        "file_bytes": stream.file_bytes,
        "playing": stream.playing,
        "loop": stream.loop,
        "error": stream.error,
        **asdict(stream.figures),
    }

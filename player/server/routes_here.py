"""Routes of the page that decodes in the viewer's browser, and of the clips' files."""

import asyncio
from collections.abc import Mapping
from functools import cache

from aiohttp import web
from yarl import URL

from encoder.codec.ladder import Ladder, Rung
from export.web.folder import CLIPS, assets, describe
from player.playback.channel import Channel
from player.playback.clip_source import ClipSource
from player.server.app_keys import CHANNELS, CLIP, channel_of

HERE = "/here/"
"""Path of the page."""
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page and of its workers: they compile WebAssembly."""
CLIP_FILE = "clip.nerv"
"""Name of a clip's file in the addresses of the API; a ladder's largest rung has it too."""
LADDER = "ladder.json"
"""Name of the list of a ladder's rungs, whose files are beside it."""
TYPES = {
    ".bin": "application/octet-stream",
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
}

routes = web.RouteTableDef()


@cache
def _files() -> Mapping[str, bytes]:
    return {name: data for name, data in assets() if f".{name.rpartition('.')[2]}" in TYPES}


@routes.get(HERE)
async def page(_: web.Request) -> web.StreamResponse:
    """Send the page."""
    return _file("index.html")


@routes.get(HERE + CLIPS)
async def clips(request: web.Request) -> web.Response:
    """List the clips as the page reads them; each has the addresses of its file and its stream."""
    channels = request.app[CHANNELS].values()
    return web.json_response([_entry(each) for each in channels if not each.is_playlist])


@routes.get(HERE + "{name}")
async def file(request: web.Request) -> web.StreamResponse:
    """Send a file of the page."""
    return _file(request.match_info["name"])


@routes.get(f"/api/clips/{CLIP}/{LADDER}")
async def ladder(request: web.Request) -> web.Response:
    """Send the list of a clip's rungs, whose files are beside it."""
    family = channel_of(request).family
    if len(family) == 1:
        raise web.HTTPNotFound(reason="no such file")
    return web.json_response(Ladder([_rung(each.sources[0]) for each in family]).as_dict())


@routes.get(f"/api/clips/{CLIP}/{{file:[^/]+\\.nerv}}")
async def clip_file(request: web.Request) -> web.StreamResponse:
    """Send a clip's file, or that of a rung, as far as it has been written."""
    channel = channel_of(request)
    name = request.match_info["file"]
    paths = [] if channel.is_playlist else [rung.sources[0].path for rung in channel.family]
    path = next((each for each in paths if each is not None and each.name == name), None)
    if path is None and name == CLIP_FILE and paths:
        path = paths[-1]
    if path is None or not await asyncio.to_thread(path.is_file):
        raise web.HTTPNotFound(reason="no such file")
    return web.FileResponse(path, headers={"Content-Type": TYPES[".bin"]})


def _rung(source: ClipSource) -> Rung:
    header = source.clip.header
    assert source.path is not None  # a ladder's clips are files
    return Rung(
        file=source.path.name, bytes=source.file_bytes, width=header.width, height=header.height
    )


def _file(name: str) -> web.Response:
    data = _files().get(name)
    if data is None:
        raise web.HTTPNotFound(reason="no such file")
    kind = TYPES[f".{name.rpartition('.')[2]}"]
    charset = "utf-8" if kind.startswith("text/") else None
    return web.Response(body=data, content_type=kind, charset=charset)


def _entry(channel: Channel) -> dict[str, object]:
    source = channel.family[-1].sources[0]
    path = URL("/api/clips") / channel.name / (CLIP_FILE if len(channel.family) == 1 else LADDER)
    return describe(channel.name, str(path), source.clip, source.file_bytes) | {
        "stream": str(URL("/").with_query(clip=channel.name))
    }

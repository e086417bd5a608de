"""What the handlers find in the application."""

from collections.abc import Mapping

from aiohttp import web

from player.metrics import Metrics
from player.playback.channel import Channel
from player.server.sessions import Session, Sessions

CHANNELS = web.AppKey("channels", Mapping[str, Channel])
SESSIONS = web.AppKey("sessions", Sessions)
METRICS = web.AppKey("metrics", Metrics)

CLIP = "{clip:[^/]+}"
"""A clip's name in the path of a route: without its own pattern, aiohttp takes no name that holds braces."""


def channel_of(request: web.Request, name: str | None = None) -> Channel:
    """Return the channel of a name, or that of the path; raises HTTPNotFound."""
    channel = request.app[CHANNELS].get(request.match_info["clip"] if name is None else name)
    if channel is None:
        raise web.HTTPNotFound(reason="no such clip")
    return channel


def session_of(request: web.Request) -> Session:
    """Return the session of the path; raises HTTPNotFound."""
    try:
        return request.app[SESSIONS][request.match_info["session"]]
    except KeyError:
        raise web.HTTPNotFound(reason="no such session") from None


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as JSON."""
    return web.json_response({"error": reason}, status=status, headers=headers)

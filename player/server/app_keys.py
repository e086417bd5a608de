"""Keys of the application's parts, for the request handlers."""

from collections.abc import Mapping

from aiohttp import web

from player.metrics import Metrics
from player.playback.channel import Channel
from player.server.session import ViewerSession
from player.server.sessions import Sessions

CHANNELS = web.AppKey("channels", Mapping[str, Channel])
SESSIONS = web.AppKey("sessions", Sessions)
METRICS = web.AppKey("metrics", Metrics)

CLIP = "{clip:[^/]+}"
"""Pattern of a clip's name in a path. aiohttp's default pattern takes no name with braces."""


def channel_of(request: web.Request, name: str | None = None) -> Channel:
    """Return the channel of a name, or of the path; raises HTTPNotFound."""
    channel = request.app[CHANNELS].get(request.match_info["clip"] if name is None else name)
    if channel is None:
        raise web.HTTPNotFound(reason="no such clip")
    return channel


def session_of(request: web.Request) -> ViewerSession:
    """Return the session of the path; raises HTTPNotFound."""
    try:
        return request.app[SESSIONS][request.match_info["session"]]
    except KeyError:
        raise web.HTTPNotFound(reason="no such session") from None

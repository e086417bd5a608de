"""Routes of the JSON interface: clips, sessions and their controls, health and metrics."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from statistics import mean

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from encoder.codec.subtitles import MILLISECONDS
from player.playback.channel import Channel
from player.playback.playout import Playout
from player.server.app_keys import CHANNELS, CLIP, METRICS, SESSIONS, channel_of, session_of
from player.server.auth import MAY_CONTROL
from player.server.controls import (
    REPORTED,
    ControlError,
    Controls,
    object_of,
    report_of,
    rung_of,
)
from player.server.errors import RefusedError, failure, refusal
from player.server.routes_whep import body_of
from player.server.session import ViewerSession

JSON = "application/json"

routes = web.RouteTableDef()


@routes.get("/api/clips")
async def clips(request: web.Request) -> web.Response:
    """List the channels."""
    return web.json_response([_describe(channel) for channel in request.app[CHANNELS].values()])


@routes.get(f"/api/clips/{CLIP}")
async def clip_state(request: web.Request) -> web.Response:
    """Return the position and the speeds of a channel's shared timeline."""
    channel = channel_of(request).active
    return web.json_response(_state(channel, channel.shared))


@routes.post(f"/api/clips/{CLIP}")
async def control_clip(request: web.Request) -> web.Response:
    """Control a channel's shared timeline; return its state."""
    channel = channel_of(request).active
    body = await _json(request)
    if not request[MAY_CONTROL]:
        return _view_only()
    controls = Controls.parse(body, channel.shared)
    controls.carry_out(channel.shared, channel.in_step(channel.shared))
    return web.json_response(_state(channel, channel.shared))


@routes.get(f"/api/clips/{CLIP}/thumbnail.jpg")
async def thumbnail(request: web.Request) -> web.Response:
    """Send a small picture of a clip, or of a playlist's first clip."""
    found = channel_of(request, channel_of(request).sources[0].name).thumbnail
    if found is None:
        return failure(HTTPStatus.SERVICE_UNAVAILABLE, "not decoded yet", {"Retry-After": "1"})
    return web.Response(
        body=found, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"}
    )


@routes.get(f"/api/clips/{CLIP}/subtitles/{{number:[0-9]{{1,3}}}}.vtt")
async def subtitles(request: web.Request) -> web.Response:
    """Send a text track of a clip as WebVTT, as far as it has arrived."""
    channel = channel_of(request)
    tracks = channel.family[-1].sources[0].clip.extras.subtitles
    number = int(request.match_info["number"])
    if channel.is_playlist or number >= len(tracks):
        raise web.HTTPNotFound(reason="no such subtitles")
    text = await asyncio.to_thread(tracks[number].webvtt)
    return web.Response(text=text, content_type="text/vtt", charset="utf-8")


@routes.get("/api/sessions/{session}")
async def session_state(request: web.Request) -> web.Response:
    """Return the state of a viewer's session and its timeline."""
    return await _state_of(request, session_of(request))


@routes.post("/api/sessions/{session}")
async def control_session(request: web.Request) -> web.Response:
    """Move a viewer to another timeline, and control that timeline; return the state."""
    body = await _json(request)
    session = session_of(request)  # it may have ended while the body arrived
    clip = body.pop("clip", session.channel.name)
    private = body.pop("private", session.is_private)
    if not isinstance(clip, str) or not isinstance(private, bool):
        raise ControlError("clip must be a name, private true or false")
    # A viewer who stays at a ladder stays at its rung.
    channel = session.channel if clip == session.channel.name else channel_of(request, clip)
    chooses = "rung" in body
    rung = rung_of(body.pop("rung", None), len(channel.family))
    # The controls are checked before the move, so that an error leaves all as it is.
    controlled = session.playout if channel is session.channel else channel.shared
    controls = Controls.parse(body, controlled)
    if body and not (session.may_control or private):
        return _view_only()
    try:
        request.app[SESSIONS].move(session, channel, private=private)
    except RefusedError as error:
        return refusal(error)
    controls.carry_out(session.playout, session.channel.in_step(session.playout))
    if chooses:
        try:
            await request.app[SESSIONS].choose_rung(session, rung)
        except RefusedError as error:
            return refusal(error)
    return await _state_of(request, session)


@routes.put("/api/sessions/{session}/report")
async def report(request: web.Request) -> web.Response:
    """Take the measurements of a viewer's page; return the state."""
    body = await _json(request)
    session = session_of(request)
    session.report = report_of(body)
    return await _state_of(request, session)


@routes.get("/healthz")
async def healthz(_: web.Request) -> web.Response:
    """Tell that the server runs."""
    return web.json_response({"status": "alive"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """Tell whether viewers can come: a frame has been decoded, and the server is not stopping."""
    if request.app[SESSIONS].draining:
        return failure(HTTPStatus.SERVICE_UNAVAILABLE, "the server is about to stop")
    if not any(channel.shared.is_ready for channel in request.app[CHANNELS].values()):
        return failure(
            HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been decoded yet", {"Retry-After": "1"}
        )
    return web.json_response({"status": "ready"})


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Return the metrics in the format of Prometheus."""
    if not request[MAY_CONTROL]:
        return failure(HTTPStatus.FORBIDDEN, "this token does not read the metrics")
    sessions = request.app[SESSIONS].all
    await asyncio.gather(*(session.poll_stats() for session in sessions))
    for channel in request.app[CHANNELS].values():
        _set_gauges(channel, [s for s in sessions if s.channel in channel.family])
    return web.Response(
        body=request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _set_gauges(channel: Channel, watching: Sequence[ViewerSession]) -> None:
    """Set a channel's gauges from its playouts and its sessions."""
    counts = channel.counts
    stats = [playout.stats for each in channel.family for playout in each.streams]
    counts.viewers.set(sum(each.viewers for each in stats))
    counts.ahead.set(sum(each.ahead for each in stats))
    counts.damaged.set(max(each.damaged for each in stats))
    reported = {
        key: [value for s in watching if (value := s.report.get(key)) is not None]
        for key in REPORTED
    }
    counts.received_fps.set(min(reported["received_fps"], default=0))
    counts.presented_fps.set(min(reported["presented_fps"], default=0))
    counts.freezes.set(sum(reported["freezes"]))
    counts.latency_seconds.set(max(reported["latency_ms"], default=0) / 1000)
    rtts = [s.rtt_seconds for s in watching if s.rtt_seconds is not None]
    counts.rtt_seconds.set(mean(rtts or [0]))
    counts.loss.set(mean([s.loss for s in watching if s.loss is not None] or [0]))


async def _json(request: web.Request) -> dict[str, object]:
    # A page of another site can send a form, but not JSON (CORS asks for a preflight).
    if request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(reason=f"the body must be {JSON}")
    try:
        return object_of(json.loads(await body_of(request)))
    except (RecursionError, ValueError):
        raise web.HTTPBadRequest(reason="the body is not JSON") from None


def _view_only() -> web.Response:
    return failure(
        HTTPStatus.FORBIDDEN,
        "this token is view-only: it cannot control the shared timeline",
    )


def _describe(channel: Channel) -> Mapping[str, object]:
    source = channel.family[-1].sources[0]
    header = source.clip.header
    extras = source.clip.extras
    about = extras.about
    return {
        "name": channel.name,
        "title": about.title,
        "language": about.language,
        "date": about.date,
        "chapters": [
            {"start": chapter.start / MILLISECONDS, "title": chapter.title}
            for chapter in about.chapters
        ],
        "subtitles": [
            {"language": track.language, "title": track.title} for track in extras.subtitles
        ],
        "width": header.width,
        "height": header.height,
        "frames": header.frames,
        "fps": float(header.rate),
        "file_bytes": source.file_bytes,
        "bits_per_pixel": source.bits_per_pixel,
        "continuous": header.continuous,
        "settings": header.settings,
        "weights": source.clip.topology.weights,
        "playlist": [each.name for each in channel.sources] if channel.is_playlist else None,
        "rungs": [_rung(each) for each in channel.family] if len(channel.family) > 1 else [],
    }


def _rung(channel: Channel) -> Mapping[str, object]:
    source = channel.sources[0]
    header = source.clip.header
    return {"width": header.width, "height": header.height, "file_bytes": source.file_bytes}


async def _state_of(request: web.Request, session: ViewerSession) -> web.Response:
    await session.poll_stats()
    viewer = session.viewer
    return web.json_response(
        {
            **_state(session.channel, session.playout),
            "private": session.is_private,
            "may_control": session.may_control or session.is_private,
            "private_left": request.app[SESSIONS].private_left,
            "chooses_rung": session.chooses_rung,
            "codec": viewer.codec,
            "sent_fps": viewer.meter.per_second,
            "dropped": viewer.dropped,
            "queue": viewer.waiting,
            "rtt_ms": None if session.rtt_seconds is None else 1000 * session.rtt_seconds,
            "loss": session.loss,
        }
    )


def _state(channel: Channel, playout: Playout) -> Mapping[str, object]:
    source = playout.source
    header = source.clip.header
    return {
        "clip": channel.name,
        "item": source.name,
        "rung": channel.rung,
        "frame": playout.frame,
        "frames": source.clip.end,
        "fps": float(header.rate),
        "width": header.width,
        "height": header.height,
        "file_bytes": source.file_bytes,
        "bits_per_pixel": source.bits_per_pixel,
        "sound": source.clip.sound is not None,
        "playing": playout.playing,
        "loop": playout.loop,
        "speed": float(playout.speed),
        "error": playout.error,
        "stamped": playout.stamp,
        **asdict(playout.stats),
    }

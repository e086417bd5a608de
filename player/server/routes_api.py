"""Clips, sessions and their controls as JSON, and what operators ask for."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from statistics import mean

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from player.playback.channel import Channel
from player.playback.playout import Playout
from player.server.app_keys import (
    CHANNELS,
    CLIP,
    METRICS,
    SESSIONS,
    channel_of,
    failure,
    session_of,
)
from player.server.auth import MAY_CONTROL
from player.server.controls import REPORTED, ControlError, Controls, object_of, report_of
from player.server.routes_whep import body_of, refusal
from player.server.sessions import RefusedError, Session

JSON = "application/json"

routes = web.RouteTableDef()


@routes.get("/api/clips")
async def clips(request: web.Request) -> web.Response:
    """List the channels."""
    return web.json_response([_describe(channel) for channel in request.app[CHANNELS].values()])


@routes.get(f"/api/clips/{CLIP}")
async def clip_state(request: web.Request) -> web.Response:
    """Tell where a clip's shared timeline is and how fast it goes."""
    channel = channel_of(request)
    return web.json_response(_state(channel, channel.shared))


@routes.post(f"/api/clips/{CLIP}")
async def control_clip(request: web.Request) -> web.Response:
    """Carry out wishes for a clip's shared timeline; answer with its state."""
    channel = channel_of(request)
    body = await _json(request)
    if not request[MAY_CONTROL]:
        return _watch_only()
    Controls.parse(body, channel.shared).carry_out(channel.shared)
    return web.json_response(_state(channel, channel.shared))


@routes.get(f"/api/clips/{CLIP}/thumbnail.jpg")
async def thumbnail(request: web.Request) -> web.Response:
    """Send a small picture of a clip."""
    # A playlist's is that of its first clip.
    found = channel_of(request, channel_of(request).items[0].name).thumbnail
    if found is None:
        return failure(HTTPStatus.SERVICE_UNAVAILABLE, "not decoded yet", {"Retry-After": "1"})
    return web.Response(
        body=found, content_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"}
    )


@routes.get("/api/sessions/{session}")
async def session_state(request: web.Request) -> web.Response:
    """Tell what a viewer watches."""
    return await _state_of(request, session_of(request))


@routes.post("/api/sessions/{session}")
async def control_session(request: web.Request) -> web.Response:
    """Carry out a viewer's wishes: what to watch, and what to do with its timeline."""
    body = await _json(request)
    session = session_of(request)  # he may have left while the body came
    clip = body.pop("clip", session.channel.name)
    private = body.pop("private", session.is_private)
    if not isinstance(clip, str) or not isinstance(private, bool):
        raise ControlError("clip must be a name, private true or false")
    channel = channel_of(request, clip)
    # Before the move, so that nothing is done if something is wrong.
    stream = session.stream if channel is session.channel else channel.shared
    wishes = Controls.parse(body, stream)
    if body and not (session.may_control or private):
        return _watch_only()
    try:
        request.app[SESSIONS].move(session, channel, private=private)
    except RefusedError as error:
        return refusal(error)
    wishes.carry_out(session.stream)
    return await _state_of(request, session)


@routes.put("/api/sessions/{session}/report")
async def report(request: web.Request) -> web.Response:
    """Take what a viewer's page measured; answer with the state."""
    body = await _json(request)
    session = session_of(request)
    session.report = report_of(body)
    return await _state_of(request, session)


@routes.get("/healthz")
async def healthz(_: web.Request) -> web.Response:
    """Tell that the server lives."""
    return web.json_response({"status": "alive"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """Tell whether viewers can come: a first frame has been decoded, and the server is not about to stop."""
    if request.app[SESSIONS].draining:
        return failure(HTTPStatus.SERVICE_UNAVAILABLE, "the server is about to stop")
    if not any(channel.shared.is_ready for channel in request.app[CHANNELS].values()):
        return failure(
            HTTPStatus.SERVICE_UNAVAILABLE, "no frame has been decoded yet", {"Retry-After": "1"}
        )
    return web.json_response({"status": "ready"})


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Give Prometheus what has been counted."""
    if not request[MAY_CONTROL]:
        return failure(HTTPStatus.FORBIDDEN, "this token does not read the metrics")
    await asyncio.gather(*(session.poll_stats() for session in request.app[SESSIONS].all))
    for channel in request.app[CHANNELS].values():
        _gauge(channel, request.app[SESSIONS].all)
    return web.Response(
        body=request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


def _gauge(channel: Channel, sessions: Iterable[Session]) -> None:
    """Measure what is not counted as it happens."""
    counts = channel.counts
    figures = [stream.figures for stream in channel.streams]
    watching = [session for session in sessions if session.channel is channel]
    counts.viewers.set(sum(each.viewers for each in figures))
    counts.ahead.set(sum(each.ahead for each in figures))
    counts.damaged.set(max(each.damaged for each in figures))
    told = {
        key: [value for s in watching if (value := s.report.get(key)) is not None]
        for key in REPORTED
    }
    counts.received_fps.set(min(told["received_fps"], default=0))
    counts.presented_fps.set(min(told["presented_fps"], default=0))
    counts.freezes.set(sum(told["freezes"]))
    counts.latency_seconds.set(max(told["latency_ms"], default=0) / 1000)
    counts.rtt_seconds.set(
        mean([s.rtt_seconds for s in watching if s.rtt_seconds is not None] or [0])
    )
    counts.loss.set(mean([s.loss for s in watching if s.loss is not None] or [0]))


async def _json(request: web.Request) -> dict[str, object]:
    # A page of another site can send a form, but not JSON.
    if request.content_type != JSON:
        raise web.HTTPUnsupportedMediaType(reason=f"the body must be {JSON}")
    try:
        return object_of(json.loads(await body_of(request)))
    except (RecursionError, ValueError):
        raise web.HTTPBadRequest(reason="the body is not JSON") from None


def _watch_only() -> web.Response:
    return failure(
        HTTPStatus.FORBIDDEN,
        "this token is view-only: it cannot control the shared timeline",
    )


def _describe(channel: Channel) -> Mapping[str, object]:
    item = channel.items[0]
    header = item.clip.header
    return {
        "name": channel.name,
        "width": header.width,
        "height": header.height,
        "frames": header.frames,
        "fps": float(header.rate),
        "file_bytes": item.file_bytes,
        "bits_per_pixel": item.bits_per_pixel,
        "continuous": header.continuous,
        "settings": header.settings,
        "weights": item.clip.topology.weights,
        "playlist": [each.name for each in channel.items] if channel.is_playlist else None,
    }


async def _state_of(request: web.Request, session: Session) -> web.Response:
    await session.poll_stats()
    viewer = session.viewer
    sessions = request.app[SESSIONS]
    return web.json_response(
        {
            **_state(session.channel, session.stream),
            "private": session.is_private,
            "may_control": session.may_control or session.is_private,
            "private_left": sessions.private_left,
            "codec": viewer.codec,
            "sent_fps": viewer.meter.per_second,
            "dropped": viewer.dropped,
            "queue": viewer.waiting,
            "rtt_ms": None if session.rtt_seconds is None else 1000 * session.rtt_seconds,
            "loss": session.loss,
        }
    )


def _state(channel: Channel, stream: Playout) -> Mapping[str, object]:
    item = stream.item
    header = item.clip.header
    return {
        "clip": channel.name,
        "item": item.name,
        "frame": stream.frame,
        "frames": item.clip.end,
        "fps": float(header.rate),
        "width": header.width,
        "height": header.height,
        "file_bytes": item.file_bytes,
        "bits_per_pixel": item.bits_per_pixel,
        "playing": stream.playing,
        "loop": stream.loop,
        "speed": float(stream.speed),
        "error": stream.error,
        "stamped": stream.stamp,
        **asdict(stream.figures),
    }

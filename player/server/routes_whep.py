"""Routes of WHEP (draft-ietf-wish-whep): a viewer's offer, its further candidates, and its end."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import quote

from aiohttp import ClientError, web
from multidict import CIMultiDict

from player.rtc.sdp import MAX_CANDIDATES
from player.rtc.trickle import RestartError, add_candidates
from player.server.app_keys import CLIP, METRICS, SESSIONS, channel_of, session_of
from player.server.auth import MAY_CONTROL
from player.server.errors import CounterOfferError, RefusedError, failure, refusal

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
"""Media type of trickled candidates (RFC 8840, section 9)."""
BODY_SECONDS = 10.0
"""Time for a body to arrive."""
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
"""Charsets of bodies; others may take minutes to decode."""

routes = web.RouteTableDef()


@routes.options(f"/whep/{CLIP}")
async def describe_endpoint(request: web.Request) -> web.Response:
    """Return the media type of offers, and the STUN and TURN servers."""
    channel_of(request)
    headers = _with_links(request, [("Accept-Post", SDP), ("Allow", "GET, HEAD, OPTIONS, POST")])
    return web.Response(headers=headers)


@routes.get(f"/whep/{CLIP}")
async def endpoint(request: web.Request) -> web.Response:
    """Tell players, by GET or HEAD, that this is an endpoint of WHEP."""
    channel_of(request)
    headers = _with_links(request, [("Content-Type", SDP), ("Accept-Post", SDP)])
    return web.Response(headers=headers)


@routes.get(f"/whep/{CLIP}/{{session}}")
async def resource(request: web.Request) -> web.Response:
    """Tell that a session exists; it has no representation."""
    session_of(request)
    return web.Response(status=HTTPStatus.NO_CONTENT)


@routes.post(f"/whep/{CLIP}")
async def watch(request: web.Request) -> web.Response:
    """Answer a viewer's offer; `?private=1` gives the viewer a private timeline."""
    channel = channel_of(request)
    if request.content_type != SDP:
        return failure(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the offer must be {SDP}", {"Accept-Post": SDP}
        )
    outcomes = request.app[METRICS].sessions
    try:
        name, answer = await request.app[SESSIONS].open(
            await body_of(request),
            channel,
            address=request.remote or "",
            may_control=request[MAY_CONTROL],
            private=request.query.get("private") == "1",
        )
    except RefusedError as error:
        outcomes.labels(str(error.status.value)).inc()
        return refusal(error)
    except CounterOfferError as error:
        # WHEP (section 4.2) has 406 with our own offer, which the viewer may answer by PATCH.
        status = HTTPStatus.NOT_ACCEPTABLE
        name = error.name
        answer = error.offer
    else:
        status = HTTPStatus.CREATED
    outcomes.labels(str(status.value)).inc()
    # Players that are given nothing but an address have their token in it.
    query = f"?token={quote(token, safe='')}" if (token := request.query.get("token")) else ""
    location = f"{request.rel_url.raw_path}/{name}{query}"
    headers = _with_links(
        request, [("Content-Type", SDP), ("Location", location), ("Accept-Patch", FRAGMENT)]
    )
    return web.Response(status=status, body=answer.encode(), headers=headers)


@routes.patch(f"/whep/{CLIP}/{{session}}")
async def trickle(request: web.Request) -> web.Response:
    """Take further candidates of a viewer, or its answer to our offer."""
    if request.content_type == SDP:
        return await _take_answer(request)
    if request.content_type != FRAGMENT:
        return failure(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the fragment must be {FRAGMENT}",
            {"Accept-Patch": FRAGMENT},
        )
    fragment = await body_of(request)
    session = session_of(request)
    if session.connection.signalingState == "have-local-offer":
        return failure(HTTPStatus.CONFLICT, "the offer of this session is not answered yet")
    try:
        session.candidates += await add_candidates(
            session.connection,
            fragment,
            mids=session.mids,
            most=MAX_CANDIDATES - session.candidates,
        )
    except RestartError:
        return failure(
            HTTPStatus.UNPROCESSABLE_ENTITY, "ICE cannot be restarted: make a new session"
        )
    except ValueError as error:
        return failure(HTTPStatus.BAD_REQUEST, str(error))
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def _take_answer(request: web.Request) -> web.Response:
    text = await body_of(request)
    try:
        await request.app[SESSIONS].take_answer(session_of(request), text)
    except RefusedError as error:
        return refusal(error)
    return web.Response(status=HTTPStatus.NO_CONTENT)


@routes.delete(f"/whep/{CLIP}/{{session}}")
async def leave(request: web.Request) -> web.Response:
    """End a viewer's session."""
    session_of(request)
    await request.app[SESSIONS].close(request.match_info["session"])
    return web.Response()


async def body_of(request: web.Request) -> str:
    """Return a request's body, which must be UTF-8, as text.

    Raises HTTPBadRequest, and HTTPRequestTimeout if the body does not arrive.
    """
    if (request.charset or "utf-8").lower() not in CHARSETS:
        raise web.HTTPBadRequest(reason="the body must be UTF-8")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return (await request.read()).decode("utf-8")
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body does not come") from None
    except UnicodeDecodeError:
        raise web.HTTPBadRequest(reason="the body is not text") from None
    except (web.RequestPayloadError, ClientError, ConnectionError):
        raise web.HTTPBadRequest(
            reason="the body is not what its headers say, or breaks off"
        ) from None


def _with_links(request: web.Request, headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    links = (("Link", link) for link in request.app[SESSIONS].ice.links)
    return CIMultiDict([*headers, *links])

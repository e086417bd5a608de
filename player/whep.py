"""WHEP (draft-ietf-wish-whep): a viewer's offer, his further candidates, and his leaving."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from player.access import MAY_CONTROL
from player.ice import MAX_CANDIDATES, RestartError, add_candidates
from player.keys import METRICS, SESSIONS, channel_of, session_of
from player.responses import failure
from player.sessions import RefusedError

SDP, FRAGMENT = "application/sdp", "application/trickle-ice-sdpfrag"
BODY_SECONDS = 10.0
"""Time for a body to arrive."""
NOT_TEXT = (LookupError, UnicodeDecodeError)
"""What aiohttp raises for a body of an unknown charset, or of another than it says."""

routes = web.RouteTableDef()


@routes.options("/whep/{clip}")
async def offers(request: web.Request) -> web.Response:
    """Tell what an offer looks like, and which servers help to connect."""
    channel_of(request)
    headers = _with_links(request, [("Accept-Post", SDP), ("Allow", "OPTIONS, POST")])
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)


@routes.post("/whep/{clip}")
async def watch(request: web.Request) -> web.Response:
    """Answer a viewer's offer; with `?private=1` he gets a timeline of his own."""
    channel = channel_of(request)
    if request.content_type != SDP:
        return failure(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the offer must be {SDP}", {"Accept-Post": SDP})
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
    outcomes.labels("201").inc()
    headers = _with_links(request, [("Location", f"{request.rel_url.raw_path}/{name}"), ("Accept-Patch", FRAGMENT)])
    return web.Response(status=HTTPStatus.CREATED, text=answer, content_type=SDP, headers=headers)


@routes.patch("/whep/{clip}/{session}")
async def trickle(request: web.Request) -> web.Response:
    """Take further candidates of a viewer."""
    if request.content_type != FRAGMENT:
        return failure(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the fragment must be {FRAGMENT}", {"Accept-Patch": FRAGMENT})
    fragment = await body_of(request)
    session = session_of(request)
    try:
        session.candidates += await add_candidates(session.connection, fragment, most=MAX_CANDIDATES - session.candidates)
    except RestartError:
        return failure(HTTPStatus.UNPROCESSABLE_ENTITY, "ICE cannot be restarted: make a new session")
    except ValueError as error:
        return failure(HTTPStatus.BAD_REQUEST, str(error))
    return web.Response(status=HTTPStatus.NO_CONTENT)


@routes.delete("/whep/{clip}/{session}")
async def leave(request: web.Request) -> web.Response:
    """End a viewer's session."""
    session_of(request)
    await request.app[SESSIONS].close(request.match_info["session"])
    return web.Response()


async def body_of(request: web.Request) -> str:
    """Return a request's body as text; raises HTTPBadRequest, and HTTPRequestTimeout if it does not come."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.text()
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body does not come") from None
    except NOT_TEXT:
        raise web.HTTPBadRequest(reason="the body is not text") from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(reason="the body is not what its headers say") from None


def refusal(error: RefusedError) -> web.Response:
    """Return the response that says why not."""
    headers = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds is not None else None
    return failure(error.status, error.reason, headers)


def _with_links(request: web.Request, headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    links = (("Link", link) for link in request.app[SESSIONS].ice.links)
    return CIMultiDict([*headers, *links])

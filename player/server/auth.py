"""Access control: tokens, origins, hosts, and the security headers for browsers."""

import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from encoder.common.errors import SettingsError
from player.server.clients import RareLog, client_of
from player.server.errors import failure

MIN_TOKEN_LENGTH = 8
GUESSES = 10
"""Wrong tokens that a client may send within GUESS_SECONDS."""
GUESS_SECONDS = 60.0
MAX_GUESSERS = 4096
"""Most clients whose wrong tokens are counted."""
MAX_LOGGED = 100
"""Characters of a request's path that are logged."""
PROTECTED = ("/api/", "/here/clips.json", "/whep/", "/metrics")
"""Prefixes of the paths that need a token, if the server has one."""
logger = logging.getLogger(__name__)

MAY_CONTROL = web.RequestKey("may_control", bool)
"""Whether a request may control playouts that others watch too."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Server": "nervcast",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
CORS_HEADERS: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
    "Access-Control-Expose-Headers": "Location, Link, Accept-Post, Accept-Patch, Retry-After",
    "Access-Control-Max-Age": "600",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Settings of `serve` about access."""

    token: str | None = None
    """Token to watch and control."""
    watch_token: str | None = None
    """Token to watch, and to control a private timeline."""
    origins: frozenset[str] = frozenset()
    """Origins (RFC 6454) of the pages that may use the server; `*` for all."""

    @classmethod
    def parse(
        cls,
        host: str,
        *,
        token: str | None = None,
        watch_token: str | None = None,
        insecure: bool = False,
        origins: Sequence[str] = (),
    ) -> "Access":
        """Check the settings.

        Raises SettingsError, also for a host that other machines reach, without a token.
        """
        for each in (token, watch_token):
            if each is not None and (
                len(each) < MIN_TOKEN_LENGTH or not each.isascii() or not each.isprintable()
            ):
                raise SettingsError(
                    f"a token needs {MIN_TOKEN_LENGTH} or more printable ASCII characters"
                )
        if watch_token is not None and token is None:
            raise SettingsError("--watch-token needs --token, which controls the shared timeline")
        if token is not None and token == watch_token:
            raise SettingsError("--token and --watch-token are the same")
        if not ipaddress.ip_address(host).is_loopback and token is None and not insecure:
            raise SettingsError(
                f"{host} can be reached by other machines: "
                "give a --token, or --insecure to let everybody watch and control"
            )
        for origin in origins:
            if origin != "*" and not _is_origin(origin):
                raise SettingsError(f"an origin is like https://example.org, got {origin!r}")
        return cls(token=token, watch_token=watch_token, origins=frozenset(origins))

    def allows(self, given: str) -> bool | None:
        """Return whether a token allows control; None if it allows nothing.

        The comparison takes constant time.
        """
        token = given.encode(errors="surrogateescape")  # a header may hold any bytes
        controls = self.token is not None and hmac.compare_digest(token, self.token.encode())
        watches = self.watch_token is not None and hmac.compare_digest(
            token, self.watch_token.encode()
        )
        return True if controls else False if watches else None

    def allows_origin(self, origin: str) -> bool:
        """Return whether pages of an origin may use the server."""
        return "*" in self.origins or origin in self.origins


def _is_origin(text: str) -> bool:
    try:
        url = URL(text)
        return (
            url.scheme in ("http", "https") and url.host is not None and str(url.origin()) == text
        )
    except ValueError:
        return False


class _Guesses:
    """Counts the wrong tokens of each client."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """Time of the first wrong token, and their number, by client."""

    def note(self, client: str) -> bool:
        """Count a wrong token; return whether there were too many."""
        began, count = self._found.pop(client, (self._clock(), 0))
        if self._clock() - began > GUESS_SECONDS:
            began = self._clock()
            count = 0
        self._found[client] = began, count + 1
        if len(self._found) > MAX_GUESSERS:
            self._found.popitem(last=False)
        return count >= GUESSES


def guard(access: Access, *, loopback: bool) -> Middleware:
    """Return the middleware that checks tokens, answers other origins, and sets the headers."""
    guesses = _Guesses()
    log = RareLog(logger)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        try:
            response = _compressed(request) or _refusal(request, access, guesses, loopback=loopback)
            if response is None and _is_preflight(request):
                response = web.Response(status=HTTPStatus.NO_CONTENT)
            response = response or await handler(request)
        except ConnectionError:  # the client has gone
            raise
        except Exception as error:  # noqa: BLE001 (it is logged)
            # Our bug or a library's: the log has the details, the client gets a usual answer.
            shown = request.raw_path[:MAX_LOGGED]
            log.add(logging.ERROR, "%s %s failed", request.method, shown, error=error)
            response = failure(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the server's log"
            )
        response.headers["Vary"] = "Origin"
        # After an upgrade, a browser must not mix scripts of two versions.
        response.headers.setdefault("Cache-Control", "no-cache")
        if origin is not None and access.allows_origin(origin):
            response.headers.update(CORS_HEADERS)
            response.headers["Access-Control-Allow-Origin"] = origin
        else:
            response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    return middleware


def _is_preflight(request: web.Request) -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _compressed(request: web.Request) -> web.Response | None:
    """Return a refusal if the body is compressed: a small body may inflate to gigabytes."""
    if request.headers.get("Content-Encoding", "identity").lower() == "identity":
        return None
    response = failure(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "a body must not be compressed",
        {"Accept-Encoding": "identity"},
    )
    response.force_close()
    return response


def _refusal(
    request: web.Request, access: Access, guesses: _Guesses, *, loopback: bool
) -> web.Response | None:
    """Return a refusal if the request's host or token is wrong."""
    request[MAY_CONTROL] = True
    if access.token is None:
        # Another site's name can resolve to this machine (DNS rebinding), but its requests still
        # carry that name.
        if loopback and not _names_us(request.headers.get("Host", ""), access):
            return failure(HTTPStatus.MISDIRECTED_REQUEST, "this server is for this machine alone")
        return None
    if not request.path.startswith(PROTECTED) or _is_preflight(request):
        return None
    given = _token(request)
    may_control = access.allows(given)
    if may_control is not None:
        request[MAY_CONTROL] = may_control
        return None
    if given and guesses.note(client_of(request.remote)):
        return failure(
            HTTPStatus.TOO_MANY_REQUESTS,
            "too many wrong tokens",
            {"Retry-After": str(int(GUESS_SECONDS))},
        )
    return failure(HTTPStatus.UNAUTHORIZED, "a token is needed", {"WWW-Authenticate": "Bearer"})


def _names_us(header: str, access: Access) -> bool:
    """Return whether `Host` is this machine's loopback, or an origin that may use the server."""
    try:
        host = URL(f"http://{header}").host or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or any(
            URL(origin).host == host for origin in access.origins - {"*"}
        )


def _token(request: web.Request) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else request.query.get("token", "")

"""HTTP connections: limits for each client, time limits, and room for new clients."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from encoder.common.errors import SettingsError
from player.server.clients import RareLog, client_of
from player.server.errors import failure

MAX_CONNECTIONS = 512
"""Open connections, those in a TLS handshake included."""
MAX_PER_ADDRESS = 128
"""Open connections of one client."""
ASK_SECONDS = 10.0
"""Time for a TLS handshake and the headers of the first request."""
BACKLOG = 128
TROUBLE_SECONDS = 0.1
"""Pause after a connection that the system could not accept."""
ACCEPT_SECONDS = 0.001
"""Pause after each accepted connection, so that a flood of them does not hold the event loop."""

logger = logging.getLogger(__name__)


class Connections:
    """The open connections of an application. Those that send no request are closed."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Take the headers of responses to requests that are not HTTP."""
        self._headers = headers
        self._open: dict[_Connection, None] = {}
        """Open connections, the oldest first."""
        self._by_protocol: dict[asyncio.BaseProtocol, _Connection] = {}
        """Open connections by their protocols."""
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._counts: Counter[str] = Counter()
        """Number of open connections of each client."""
        self._log = RareLog(logger)

    def __len__(self) -> int:
        """Return the number of open connections, those in a TLS handshake included."""
        return len(self._open)

    async def listen(
        self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None
    ) -> tuple[str, int]:
        """Accept connections for a runner that is set up; return address and port.

        Raises SettingsError for a busy port.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from None
        self._socket.setblocking(False)  # noqa: FBT003 (the library's signature)
        self._accepting = asyncio.create_task(self._accept(self._socket, runner, tls))
        address, taken = self._socket.getsockname()[:2]
        return address, taken

    @contextlib.contextmanager
    def busy(self, request: web.BaseRequest) -> Generator[None]:
        """Mark a request's connection as busy while the body runs."""
        connection = self._by_protocol.get(request.protocol)
        if connection is not None:
            connection.has_asked = True
            connection.is_busy = True
            connection.since = time.monotonic()
        try:
            yield
        finally:
            if connection is not None:
                connection.is_busy = False
                connection.since = time.monotonic()

    def close(self) -> None:
        """Accept no more connections."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._socket is not None:
            self._socket.close()

    def complain(
        self, request: BaseRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP, or that failed by a fault of ours."""
        if status != HTTPStatus.INTERNAL_SERVER_ERROR or isinstance(error, ValueError):
            code = HTTPStatus.BAD_REQUEST if isinstance(error, ValueError) else status
            reason = "the request is not HTTP"
            self._log.add(
                logging.INFO, "not HTTP, from %s: %s", request.remote, type(error).__name__
            )
        else:
            code = status
            reason = "internal error, see the server's log"
            self._log.add(logging.ERROR, "a request failed", error=error)
        response = failure(code, reason, self._headers)
        response.force_close()
        return response

    async def _accept(
        self, listener: socket.socket, runner: web.AppRunner, tls: ssl.SSLContext | None
    ) -> None:
        events = asyncio.get_running_loop()
        tasks = set[asyncio.Task[None]]()
        try:
            while True:
                try:
                    accepted, address = await events.sock_accept(listener)
                except OSError as error:  # too many open files, or the client has gone
                    logger.debug("no connection: %s", error)
                    await asyncio.sleep(TROUBLE_SECONDS)
                    continue
                client = client_of(address[0])
                if self._make_room(client):
                    connection = _Connection(client, accepted)
                    self._open[connection] = None
                    self._counts[client] += 1
                    task = asyncio.create_task(self._begin(connection, runner, tls))
                    connection.task = task
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    accepted.close()
                await asyncio.sleep(ACCEPT_SECONDS)
        finally:
            for task in tasks:
                task.cancel()

    async def _begin(
        self, connection: "_Connection", runner: web.AppRunner, tls: ssl.SSLContext | None
    ) -> None:
        """Hand a connection to the application, after a TLS handshake if there is one."""
        events = asyncio.get_running_loop()
        server = runner.server
        assert server is not None  # it is set up
        silence = events.call_later(ASK_SECONDS, connection.end_silence)

        def end() -> None:
            silence.cancel()  # it refers to the connection
            self._forget(connection)
            if connection.handler is not None:
                self._by_protocol.pop(connection.handler, None)
                connection.handler = None

        def make() -> RequestHandler:
            options = server._kwargs  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            handler = _Handler(server, self.complain, end, loop=events, **options)
            connection.handler = handler
            self._by_protocol[handler] = connection
            return handler

        try:
            seconds = ASK_SECONDS if tls else None
            await events.connect_accepted_socket(
                make, connection.socket, ssl=tls, ssl_handshake_timeout=seconds
            )
        except (OSError, asyncio.CancelledError):  # OSError includes errors of TLS
            end()
            connection.socket.close()

    def _make_room(self, client: str) -> bool:
        """Return whether there is room for another connection of a client.

        A client with too many connections loses its oldest idle one. When the server is full, the
        client with the most connections loses its oldest idle one. If none is idle, the oldest
        request ends.
        """
        is_greedy = self._counts[client] >= MAX_PER_ADDRESS
        if not is_greedy and len(self._open) < MAX_CONNECTIONS:
            return True
        idle = [
            each
            for each in self._open
            if not each.is_busy and (each.client == client or not is_greedy)
        ]
        candidates = idle or ([] if is_greedy else list(self._open))
        most = max((self._counts[each.client] for each in candidates), default=0)
        oldest = min(
            (each for each in candidates if self._counts[each.client] == most),
            key=lambda each: each.since,
            default=None,
        )
        if oldest is None:
            return False
        self._forget(oldest)
        oldest.end()
        return True

    def _forget(self, connection: "_Connection") -> None:
        """Remove a connection from the counts; it may have been removed before."""
        if connection in self._open:
            del self._open[connection]
            self._counts[connection.client] -= 1
            if not self._counts[connection.client]:
                del self._counts[connection.client]


class _Connection:
    """A connection, from the time at which it is accepted."""

    def __init__(self, client: str, accepted: socket.socket) -> None:
        self.client = client
        self.socket = accepted
        self.since = time.monotonic()
        """Time at which its present state began, idle or busy."""
        self.has_asked = False
        self.is_busy = False
        self.task: asyncio.Task[None] | None = None
        self.handler: RequestHandler | None = None

    def end_silence(self) -> None:
        """Close it if it has not sent a request."""
        if not self.has_asked:
            self.end()

    def end(self) -> None:
        """Close it at once."""
        if self.handler is not None and self.handler.transport is not None:
            self.handler.transport.abort()
        elif self.task is not None:
            self.task.cancel()


class _Handler(RequestHandler):
    """A handler that reports its end, and answers requests that are not HTTP with JSON."""

    __slots__ = ("_complain", "_end")

    def __init__(
        self,
        server: web.Server,
        complain: Callable[[BaseRequest, int, BaseException | None], web.StreamResponse],
        end: Callable[[], None],
        **options: object,
    ) -> None:
        super().__init__(server, **options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        self._complain = complain
        self._end = end

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end."""
        self._end()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed."""
        del message  # it may quote the request
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        return self._complain(request, status, exc)

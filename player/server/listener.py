"""Connections of HTTP: few of each address, none that asks for nothing, and room for newcomers whatever others hold."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from encoder.common.errors import SettingsError
from player.server.app_keys import failure

MAX_CONNECTIONS = 512
MAX_PER_ADDRESS = 128
"""Connections that are open at once, from their first packet on, in all and of one address."""
ASK_SECONDS = 10.0
"""Time from a connection's beginning to the end of its first request's headers, the handshake of TLS included."""
BACKLOG = 128
TROUBLE_SECONDS = 0.1
"""Time to wait where the system has no room for another connection."""
LOG_SECONDS = 10.0
"""Least time between two lines about requests that are none."""

logger = logging.getLogger(__name__)


class Connections:
    """Listens for an application, and forgets who only connects."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Take the headers of answers to requests that are none."""
        self._headers = headers
        self._open: dict[_Connection, None] = {}
        """In the order in which they came."""
        self._of: dict[asyncio.BaseProtocol, _Connection] = {}
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._logged = -LOG_SECONDS
        self._unlogged = 0

    def __len__(self) -> int:
        """Return the number of connections, those included whose handshake is under way."""
        return len(self._open)

    async def listen(
        self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None
    ) -> tuple[str, int]:
        """Accept connections for a runner that is set up; return address and port. Raises SettingsError for a busy port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port"
            ) from None
        self._socket.setblocking(False)  # noqa: FBT003 (as the library has it)
        self._accepting = asyncio.create_task(self._accept(self._socket, runner, tls))
        address, taken = self._socket.getsockname()[:2]
        return address, taken

    @contextlib.contextmanager
    def busy(self, request: web.BaseRequest):  # noqa: ANN201 (a context)
        """Keep a request's connection while it is answered."""
        connection = self._of.get(request.protocol)
        if connection is not None:
            connection.has_asked = True
            connection.is_busy = True
        try:
            yield
        finally:
            if connection is not None:
                connection.is_busy = False
                connection.since = time.monotonic()

    def close(self) -> None:
        """Accept no more."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._socket is not None:
            self._socket.close()

    def complain(
        self, request: BaseRequest, status: int, error: BaseException | None
    ) -> web.StreamResponse:
        """Answer a request that is none; one line of the log is for all that come within a while."""
        self._unlogged += 1
        if time.monotonic() - self._logged >= LOG_SECONDS:
            logger.info(
                "%d requests that are not HTTP, the last of %s: %s",
                self._unlogged,
                request.remote,
                type(error).__name__,
            )
            self._logged = time.monotonic()
            self._unlogged = 0
        code = HTTPStatus.BAD_REQUEST if status == HTTPStatus.INTERNAL_SERVER_ERROR else status
        response = failure(code, "the request is not HTTP", self._headers)
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
                except OSError as error:  # no more files, or who came has gone
                    logger.debug("no connection: %s", error)
                    await asyncio.sleep(TROUBLE_SECONDS)
                    continue
                if not self._make_room(address[0]):
                    accepted.close()
                    continue
                connection = _Connection(address[0], accepted)
                self._open[connection] = None
                task = connection.task = asyncio.create_task(self._begin(connection, runner, tls))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()

    async def _begin(
        self, connection: "_Connection", runner: web.AppRunner, tls: ssl.SSLContext | None
    ) -> None:
        """Hand a connection to the application, after the handshake of TLS if there is one."""
        events = asyncio.get_running_loop()
        server = runner.server
        assert server is not None  # it is set up
        silence = events.call_later(ASK_SECONDS, connection.end_silence)

        def end() -> None:
            silence.cancel()  # it would keep what has ended
            self._open.pop(connection, None)
            if connection.handler is not None:
                self._of.pop(connection.handler, None)
                connection.handler = None

        def make() -> RequestHandler:
            options = server._kwargs  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            handler = _Handler(server, self.complain, end, loop=events, **options)
            connection.handler = handler
            self._of[handler] = connection
            return handler

        try:
            seconds = ASK_SECONDS if tls else None
            await events.connect_accepted_socket(
                make, connection.socket, ssl=tls, ssl_handshake_timeout=seconds
            )
        except (OSError, asyncio.CancelledError):  # among them what goes wrong in a handshake
            end()
            connection.socket.close()

    def _make_room(self, address: str) -> bool:
        """Return whether there is room for a connection of an address; who holds too many loses the oldest that is at rest."""
        counts = Counter(connection.address for connection in self._open)
        if counts[address] >= MAX_PER_ADDRESS:
            greedy = address
        elif len(self._open) >= MAX_CONNECTIONS:
            greedy = max(counts, key=counts.__getitem__, default=None)
        else:
            return True
        theirs = [
            connection
            for connection in self._open
            if connection.address == greedy and not connection.is_busy
        ]
        if not theirs:
            return False
        oldest = min(theirs, key=lambda connection: connection.since)
        del self._open[oldest]
        oldest.end()
        return True


class _Connection:
    """A connection, from the time at which it is accepted."""

    def __init__(self, address: str, accepted: socket.socket) -> None:
        self.address = address
        self.socket = accepted
        self.since = time.monotonic()
        """When it began to be at rest."""
        self.has_asked = self.is_busy = False
        self.task: asyncio.Task[None] | None = None
        self.handler: RequestHandler | None = None

    def end_silence(self) -> None:
        """End it if it has not asked for anything."""
        if not self.has_asked:
            self.end()

    def end(self) -> None:
        """End it."""
        if self.handler is not None and self.handler.transport is not None:
            self.handler.transport.abort()
        elif self.task is not None:
            self.task.cancel()


class _Handler(RequestHandler):
    """Tells of its end, and answers what is not HTTP as the rest of the server does."""

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
        """Take note of the end."""
        self._end()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that cannot be read."""
        del message  # it may quote the request
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        return self._complain(request, status, exc)

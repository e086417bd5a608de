"""Connections of HTTP: few enough, and none that does not ask for anything."""

import asyncio
import ssl

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from encoder.codec.errors import SettingsError

MAX_CONNECTIONS = 512
ASK_SECONDS = 10.0
"""Time from a connection's beginning to the end of its first request's headers."""
BACKLOG = 128


class Connections:
    """Listens for an application, and forgets who only connects."""

    def __init__(self) -> None:
        self._silent: set[RequestHandler] = set()
        """Connections that have not sent a request yet."""
        self._listener: asyncio.Server | None = None

    async def listen(self, runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[str, int]:
        """Accept connections for a runner that is set up; return address and port. Raises SettingsError for a busy port."""
        events, server = asyncio.get_running_loop(), runner.server
        assert server is not None  # it is set up

        def accept() -> asyncio.Protocol:
            if len(server.connections) >= MAX_CONNECTIONS:
                return _Refusal()
            handler = server()
            self._silent.add(handler)
            events.call_later(ASK_SECONDS, self._end_silence, handler)
            return handler

        try:
            self._listener = await events.create_server(
                accept, host, port, ssl=tls, ssl_handshake_timeout=ASK_SECONDS if tls else None, backlog=BACKLOG
            )
        except OSError as error:
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
        address, taken = self._listener.sockets[0].getsockname()[:2]
        return address, taken

    def note(self, request: web.BaseRequest) -> None:
        """Take note that a connection has sent a request."""
        self._silent.discard(request.protocol)

    def close(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            self._listener.close()

    def _end_silence(self, handler: RequestHandler) -> None:
        if handler in self._silent:
            self._silent.discard(handler)
            handler.force_close()


class _Refusal(asyncio.Protocol):
    """Ends a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()

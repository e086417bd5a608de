"""A lossy or narrow network: a relay of datagrams on 127.0.0.1, which a viewer talks to in place of the server."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, Self

from aiohttp import web
from aiohttp.typedefs import Handler

LOOPBACK = "127.0.0.1"
CANDIDATE = re.compile(
    r"a=candidate:\S+ 1 udp \d+ (?P<host>\S+) (?P<port>\d+) typ host.*", re.IGNORECASE
)
MEDIA = range(128, 192)
"""First bytes of RTP and RTCP (RFC 7983), the datagrams that may be lost.

STUN and DTLS always pass: who waits for their answers asks again after half a second or more, then after twice as long,
so that connecting would take any time, and sometimes fail. What is to be seen is how video bears loss.
"""

QUEUE_SECONDS = 0.3
"""Longest time that a datagram waits in a narrow network."""
Direction = Literal["down", "up"]
Address = tuple[str, int]


class Relay:
    """Drops a random part of the media between one viewer and the server: `down` to the viewer, `up` from there.

    async with Relay(down=0.02) as relay:
        answer = relay.rewrite(await post(without_candidates(offer)))
    """

    def __init__(
        self, *, down: float = 0.0, up: float = 0.0, seed: int = 0, rate: float | None = None
    ) -> None:
        self.rate = rate
        """Bits per second that pass to the viewer, which may be changed at any time; None for any number."""
        self._free_at = 0.0
        self.loss: dict[Direction, float] = {"down": down, "up": up}
        """Fractions, which may be changed at any time."""
        self.passed: Counter[Direction] = Counter()
        """Datagrams of media."""
        self.dropped: Counter[Direction] = Counter()
        # Either direction has its own, so that what one does leaves the other's losses as they are.
        self._random = {direction: random.Random(f"{seed} {direction}") for direction in self.loss}
        self._viewer, self._server = _End(self._up), _End(self._down)

    async def __aenter__(self) -> Self:
        """Open a socket for each side."""
        loop = asyncio.get_running_loop()
        for end in (self._viewer, self._server):
            await loop.create_datagram_endpoint(lambda end=end: end, (LOOPBACK, 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        for end in (self._viewer, self._server):
            end.transport.close()
            await end.closed.wait()

    @property
    def address(self) -> Address:
        """Where the viewer finds the server."""
        return self._viewer.transport.get_extra_info("sockname")

    def rewrite(self, answer: str) -> str:
        """Return a server's answer (SDP, of bundled media) with the relay as its only candidate, and relay to the one it had."""
        found = [match for line in answer.splitlines() if (match := CANDIDATE.fullmatch(line))]
        best = next((match for match in found if match["host"] == LOOPBACK), found[0])
        self._server.peer = (best["host"], int(best["port"]))
        host, port = self.address
        lines = without_candidates(answer).splitlines()
        # The transport of all media is that of the first section, which ends where the second begins.
        sections = [index for index, line in enumerate(lines) if line.startswith("m=")]
        end = sections[1] if len(sections) > 1 else len(lines)
        lines[end:end] = [
            f"a=candidate:1 1 udp 2130706431 {host} {port} typ host",
            "a=end-of-candidates",
        ]
        return "\r\n".join(lines) + "\r\n"

    @property
    def middleware(self) -> Any:
        """Middleware of an application whose answers lead browsers through the relay."""

        @web.middleware
        async def through_the_relay(request: web.Request, handler: Handler) -> web.StreamResponse:
            response = await handler(request)
            if request.method == "POST" and response.status == 201:
                assert isinstance(response, web.Response)
                response.text = self.rewrite(response.text or "")
            return response

        return through_the_relay

    def _up(self, data: bytes, sender: Address) -> None:
        self._viewer.peer = sender
        self._forward("up", data, self._server)

    def _down(self, data: bytes, _: Address) -> None:
        self._forward("down", data, self._viewer)

    def _forward(self, direction: Direction, data: bytes, to: "_End") -> None:
        wait = 0.0
        if data and data[0] in MEDIA:
            lost = self._random[direction].random() < self.loss[direction]
            (self.dropped if lost else self.passed)[direction] += 1
            if lost:
                return
            wait = self._queue(8 * len(data)) if direction == "down" and self.rate else 0.0
        if wait > QUEUE_SECONDS:
            self.dropped[direction] += 1
        elif wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send, data, to)
        else:
            self._send(data, to)

    def _queue(self, bits: int) -> float:
        """Return the time that a datagram waits for those before it; one that waits too long takes no room."""
        now = asyncio.get_running_loop().time()
        wait = max(self._free_at - now, 0.0)
        if wait <= QUEUE_SECONDS:
            self._free_at = now + wait + bits / (self.rate or 1.0)
        return wait

    @staticmethod
    def _send(data: bytes, to: "_End") -> None:
        if to.peer is not None and not to.transport.is_closing():
            to.transport.sendto(data, to.peer)


class _End(asyncio.DatagramProtocol):
    """The socket of one side."""

    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self.transport: asyncio.DatagramTransport
        self.peer: Address | None = None
        """Who is at the other end, once that is known."""
        self.closed = asyncio.Event()
        self.datagram_received = received

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.closed.set()


def without_candidates(sdp: str) -> str:
    """Return an SDP without candidates: of a viewer's offer, so that the server finds no way past the relay.

    It learns the viewer's address from the first packet, as with browsers.
    """
    lines = (
        line
        for line in sdp.splitlines()
        if not line.startswith(("a=candidate:", "a=end-of-candidates"))
    )
    return "\r\n".join(lines) + "\r\n"

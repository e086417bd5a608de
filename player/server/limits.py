"""Limits of a server's viewers."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from player.server.clients import client_of
from player.server.errors import RETRY_SECONDS, RefusedError, UnavailableError


@dataclass(frozen=True)
class Limits:
    """Limits of a server's viewers."""

    viewers: int = 32
    per_address: int = 8
    """Viewers of one client: an IPv4 address, or an IPv6 network."""
    private: int = 2
    """Private timelines, each with an engine and a video encoder of its own."""
    idle_seconds: float = 60.0
    """Time without RTCP of a viewer after which its session ends."""

    def check_room(self, address: str, present: Sequence[str]) -> None:
        """Raise RefusedError if a viewer does not fit beside those at the present addresses."""
        if len(present) >= self.viewers:
            raise UnavailableError("too many viewers")
        client = client_of(address)
        if sum(client_of(each) == client for each in present) >= self.per_address:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many viewers from this address",
                retry_seconds=RETRY_SECONDS,
            )

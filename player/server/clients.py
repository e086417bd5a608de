"""Clients of a server: their identity by address, and log lines that no client can multiply."""

import ipaddress
import logging
import time
from collections.abc import Callable

PREFIX_BITS = 64
"""Bits of an IPv6 address that the network assigns; a client chooses the others freely."""
LOG_SECONDS = 10.0
"""Least time between two log lines of a kind that clients cause."""


def client_of(address: str | None) -> str:
    """Return the identity of a client: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, PREFIX_BITS), strict=False))


class RareLog:
    """Logs at most one line in LOG_SECONDS for all events of a kind."""

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._logged = -LOG_SECONDS
        self._count = 0

    def add(
        self, level: int, message: str, *arguments: object, error: BaseException | None = None
    ) -> None:
        """Count an event. If a line is due, log the event and the count since the last line."""
        self._count += 1
        if self._clock() - self._logged < LOG_SECONDS:
            return
        suffix = f" ({self._count} times)" if self._count > 1 else ""
        self._logger.log(level, "%s%s", message % arguments, suffix, exc_info=error)
        self._logged = self._clock()
        self._count = 0

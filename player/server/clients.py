"""Clients of a server: who counts as one, and log lines that no client can multiply."""

import ipaddress
import logging
import time
from collections.abc import Callable

PREFIX_BITS = 64
"""Bits of an IPv6 address that its network assigns; a client chooses the rest freely."""
LOG_SECONDS = 10.0
"""Least time between two lines of a kind that clients cause."""


def client_of(address: str | None) -> str:
    """Return the client that an IP address counts as: itself, or its /64 network of IPv6."""
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
    """Logs one line for all events of a kind that come within a while."""

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
        """Count an event, and log it with the number of events since the last line, if it is time."""
        self._count += 1
        if self._clock() - self._logged < LOG_SECONDS:
            return
        suffix = f" ({self._count} times)" if self._count > 1 else ""
        self._logger.log(level, "%s%s", message % arguments, suffix, exc_info=error)
        self._logged = self._clock()
        self._count = 0

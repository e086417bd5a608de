"""Retries of HTTP requests: reasons of failures, exponential backoff, and Retry-After."""

import os
import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import aiohttp

from encoder.common.console import printable
from encoder.common.errors import first_line

MAX_BACKOFF_SECONDS = 30.0


class TransientError(Exception):
    """A failure that may pass: a later request may succeed."""

    def __init__(self, reason: str, *, retry_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds
        """Shortest backoff, as the server asks for."""


def backoff_seconds(failures: int, first_seconds: float, error: Exception | None = None) -> float:
    """Return the time to wait after a number of failures in a row, the last by an error.

    The time doubles with each failure after the first. A TransientError can make it longer.
    """
    doublings = min(max(failures - 1, 0), 64)  # the power of a longer row overflows
    seconds = min(first_seconds * 2.0**doublings, MAX_BACKOFF_SECONDS)
    return max(seconds, error.retry_seconds if isinstance(error, TransientError) else 0.0)


def retry_after_seconds(headers: Mapping[str, str], *, most: float) -> float:
    """Return the time that a Retry-After header asks for (RFC 9110, 10.2.3), at most a limit.

    The header holds seconds or a date. The time is 0 if it holds neither.
    """
    text = headers.get("Retry-After", "")
    try:
        seconds = (
            float(text)
            if text.strip().isdecimal()
            else parsedate_to_datetime(text).timestamp() - time.time()
        )
    except (OverflowError, TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), most)


def cause_of(error: Exception) -> Exception:
    """Return the system's error behind a failure to connect, and other errors as they are."""
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


def reason_of(error: Exception) -> str:
    """Return a message for people, without the URL that messages of aiohttp may hold."""
    match cause_of(error):
        case aiohttp.ClientResponseError(message=message):
            return f"the answer is broken: {printable(' '.join(message.split()))}"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.InvalidURL():
            return "the address is malformed"
        case TimeoutError():
            return "timed out"
        case OSError(errno=int(number)) as cause:
            is_system = not isinstance(cause, (socket.gaierror, ssl.SSLError))
            return os.strerror(number) if is_system else cause.strerror or first_line(cause)
        case cause:
            return first_line(cause)

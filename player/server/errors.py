"""Errors of the HTTP interface, and their responses."""

from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

RETRY_SECONDS = 10
"""Value of `Retry-After` where there is no room."""


class RefusedError(Exception):
    """An offer or a control is refused."""

    def __init__(
        self, status: HTTPStatus, reason: str, *, retry_seconds: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_seconds = retry_seconds


class UnavailableError(RefusedError):
    """There is no room now, but there may be later."""

    def __init__(self, reason: str) -> None:
        super().__init__(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_seconds=RETRY_SECONDS)


class CounterOfferError(Exception):
    """An offer has no codec in common with ours: the viewer may answer our offer instead."""

    def __init__(self, name: str, offer: str) -> None:
        super().__init__("the offer has no codec in common with ours")
        self.name = name
        """Name of the session that waits for the answer."""
        self.offer = offer


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as JSON."""
    return web.json_response({"error": reason}, status=status, headers=headers)


def refusal(error: RefusedError) -> web.Response:
    """Return the response to a refused request."""
    headers = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds is not None else None
    return failure(error.status, error.reason, headers)

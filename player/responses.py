"""Responses that several handlers give."""

from collections.abc import Mapping

from aiohttp import web


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as JSON."""
    return web.json_response({"error": reason}, status=status, headers=headers)

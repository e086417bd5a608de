"""Trickle ICE: the candidates that a viewer sends after its offer (RFC 8838)."""

import re
from collections.abc import Sequence
from itertools import pairwise

from aiortc import RTCPeerConnection
from aiortc.sdp import candidate_from_sdp

from player.rtc.sdp import LINE_END, usable_candidates


class RestartError(Exception):
    """A request to restart ICE, which aiortc does not support."""


async def add_candidates(
    connection: RTCPeerConnection, fragment: str, *, mids: frozenset[str], most: int
) -> int:
    """Add at most `most` candidates of an SDP fragment (RFC 8840, section 9); return their number.

    Sections that do not share the transport of `mids` are ignored. Raises RestartError, and
    ValueError for a malformed fragment.
    """
    lines = [line.strip() for line in LINE_END.split(fragment) if line.strip()]
    if not lines or not all(re.match(r"[a-z]=", line) for line in lines):
        raise ValueError("the fragment is not SDP")
    offer = LINE_END.split(connection.remoteDescription.sdp)
    candidates: list[str] = []
    for part in _parts(lines):
        mid = next(iter(_values(part, "mid")), None)
        if mid is not None and mids and mid not in mids:
            continue
        # Other credentials mean an ICE restart (RFC 8445, section 9).
        for name in ("ice-ufrag", "ice-pwd"):
            if set(_values(part, name)) - set(_values(offer, name)):
                raise RestartError
        candidates += usable_candidates(_values(part, "candidate"))
    for text in candidates[:most]:
        candidate = candidate_from_sdp(text)
        candidate.sdpMLineIndex = 0
        await connection.addIceCandidate(candidate)
    return len(candidates[:most])


def _parts(lines: Sequence[str]) -> list[Sequence[str]]:
    """Return the lines before the first section, and those of each section."""
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    return [lines[start:stop] for start, stop in pairwise([0, *starts, len(lines)])]


def _values(lines: Sequence[str], name: str) -> list[str]:
    """Return the values of an attribute."""
    start = f"a={name}:"
    return [line[len(start) :].strip() for line in lines if line.startswith(start)]

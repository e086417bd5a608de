"""Sound in our own offers: an audio section beside the video's, over the same transport.

aiortc reads and writes the video's section alone.
"""

import re
from collections.abc import Sequence

from encoder.codec.sound import RATE

PAYLOAD_TYPE = 111
"""RTP payload type of Opus, which browsers use as well."""
PROTOCOL = "UDP/TLS/RTP/SAVPF"
SHARED = ("a=ice-", "a=candidate:", "a=end-of-candidates", "a=fingerprint:", "a=setup:")
"""Lines of a transport, which all of its sections have."""
CRLF = "\r\n"
MID = "1"
"""Name of our audio section; aiortc calls the video's 0."""


def sound_lines(
    lines: Sequence[str], *, mid: str, payload_type: int, ssrc: int, protocol: str = PROTOCOL
) -> list[str]:
    """Return an audio section with Opus, which takes the transport of a video section.

    `lines` are those of the video section. Receivers keep sound and pictures of the same stream
    and the same sender in time.
    """
    stream = next(line for line in lines if line.startswith("a=msid:")).split()[0]
    cname = next(line for line in lines if line.startswith("a=ssrc:")).partition("cname:")[2]
    return [
        f"m=audio {lines[0].split()[1]} {protocol} {payload_type}",
        *(line for line in lines if line.startswith("c=")),
        "a=sendonly",
        f"a=mid:{mid}",
        f"{stream} sound",
        "a=rtcp-mux",
        f"a=rtpmap:{payload_type} opus/{RATE}/2",  # whatever the number of channels (RFC 7587, 7)
        f"a=fmtp:{payload_type} sprop-stereo=1;stereo=1",
        f"a=ssrc:{ssrc} cname:{cname}",
        *(line for line in lines[1:] if line.startswith(SHARED)),
    ]


def with_sound(offer: str, ssrc: int) -> str:
    """Return aiortc's offer of a video with our sound beside it."""
    lines = offer.removesuffix(CRLF).split(CRLF)
    start = next(index for index, line in enumerate(lines) if line.startswith("m="))
    session = [
        f"{line} {MID}" if line.startswith("a=group:BUNDLE") else line for line in lines[:start]
    ]
    sound = sound_lines(lines[start:], mid=MID, payload_type=PAYLOAD_TYPE, ssrc=ssrc)
    return CRLF.join([*session, *lines[start:], *sound]) + CRLF


def without_sound(answer: str) -> tuple[str, bool]:
    """Return the video part of an answer, and whether the other side takes our sound."""
    session, *sections = re.split(r"\r?\n(?=m=)", answer)
    audio = next((each for each in sections if each.startswith("m=audio ")), "")
    bundled = re.search(r"(?m)^a=group:BUNDLE\b.*\s" + MID + r"(\s|$)", session) is not None
    is_taken = (
        bundled
        and re.match(rf"m=audio [1-9]\d* \S+ .*\b{PAYLOAD_TYPE}\b", audio) is not None
        and re.search(r"(?m)^a=(inactive|sendonly)\r?$", audio) is None
    )
    session = re.sub(r"(?m)^(a=group:BUNDLE\b.*?)\s" + MID + r"(?=\s|$)", r"\1", session)
    rest = [each for each in sections if each is not audio]
    return CRLF.join([session, *rest]).rstrip() + CRLF, is_taken

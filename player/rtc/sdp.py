"""Parser of session descriptions (SDP, RFC 8866), with the checks that each of them needs."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

MAX_LINES = 2000
"""Most lines of a description."""
MAX_SECTIONS = 64
"""Most media sections of a description."""
MAX_FORMATS = 128
"""Formats of a section that are read."""
MAX_FEEDBACK = 16
"""Values of `a=rtcp-fb` of a format that are read."""
MAX_DIGITS = 9
"""Digits of a number in a description."""
MAX_CANDIDATES = 32
"""Candidates used of an offer, and as many sent later: ICE pairs each with each of ours."""
MAX_PORT = 65535
MAX_PRIORITY = (1 << 32) - 1
CANDIDATE = re.compile(
    r"[A-Za-z0-9+/-]{1,32} (?P<component>\d{1,3}) (?P<transport>[A-Za-z-]{1,16}) "
    r"(?P<priority>\d{1,10}) (?P<address>[A-Za-z0-9.:%_-]{1,255}) (?P<port>\d{1,5}) "
    r"typ [a-z]{1,16}(?= |$)",
    re.ASCII,
)
LINE_END = re.compile(r"\r\n|\n|\r")
NAME = r"[!#-'*+.0-9A-Z^-~-]+"
"""Pattern of the names of media and protocols: `token` of RFC 8866, section 9."""
PAYLOAD_TYPES = range(128)
RTCP_TYPES = range(64, 96)
"""Payload types whose packets look like RTCP on a shared port (RFC 5761, section 4)."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
DIRECTIONS: dict[str, Direction] = {
    each: each for each in ("sendrecv", "sendonly", "recvonly", "inactive")
}


class DescriptionError(ValueError):
    """A description that is malformed, or not one of a viewer."""


@dataclass(frozen=True)
class Format:
    """A codec of a media section, with its RTP payload type."""

    payload_type: int
    name: str
    """Encoding name in lower case; empty where the section has no `a=rtpmap` for it."""
    clock_rate: int
    """Ticks per second of RTP timestamps; 0 where the section has no valid one."""
    parameters: dict[str, str]
    """Values of `a=fmtp`, by their names in lower case."""
    feedback: tuple[str, ...]
    """Values of `a=rtcp-fb` (RFC 4585, section 4.2)."""


@dataclass(frozen=True)
class Section:
    """The session's lines of a description, or those of one media section."""

    kind: str
    port: int
    protocol: str
    format_names: tuple[str, ...]
    """Last fields of the `m=` line: payload types, for protocols of RTP."""
    attributes: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Return the values of an attribute."""
        return [value for key, value in self.attributes if key == name]

    def first(self, name: str) -> str | None:
        """Return the first value of an attribute; None if it is absent."""
        return next(iter(self.all(name)), None)

    @property
    def mid(self) -> str | None:
        """Name of the section within the description (RFC 5888)."""
        return self.first("mid")

    @property
    def is_live(self) -> bool:
        """Whether media is asked for: port 0 disables a section, unless it is bundle-only."""
        return self.port != 0 or self.first("bundle-only") is not None

    @cached_property
    def formats(self) -> list[Format]:
        """Codecs of a section of RTP, each payload type once; raises DescriptionError."""
        payload_types = dict.fromkeys(
            _parse_number(name, "format", PAYLOAD_TYPES) for name in self.format_names[:MAX_FORMATS]
        )
        maps = dict(by_payload_type(self.all("rtpmap")))
        parameters = dict(by_payload_type(self.all("fmtp")))
        feedback: dict[int | None, dict[str, None]] = {}
        for payload_type, text in by_payload_type(self.all("rtcp-fb")):
            feedback.setdefault(payload_type, {})[text] = None
        found: list[Format] = []
        for payload_type in payload_types:
            name, _, clock = maps.get(payload_type, "").partition("/")
            rate = clock.partition("/")[0]
            values = [*feedback.get(payload_type, ()), *feedback.get(None, ())]
            found.append(
                Format(
                    payload_type,
                    name.lower(),
                    int(rate) if _is_number(rate) else 0,
                    _parse_parameters(parameters.get(payload_type, "")),
                    tuple(values[:MAX_FEEDBACK]),
                )
            )
        return found


def parse_description(text: str) -> tuple[Section, tuple[Section, ...]]:
    """Return the session's part of a description, and its media sections.

    Raises DescriptionError.
    """
    # `splitlines` would also split at separators of Unicode within a line.
    lines = LINE_END.split(text.rstrip())
    if lines[0].strip() != "v=0":
        raise DescriptionError("an offer begins with v=0")
    if len(lines) > MAX_LINES:
        raise DescriptionError(f"an offer has at most {MAX_LINES} lines, got {len(lines)}")
    for line in lines:
        if line.strip() and not re.match("[a-z]=", line):
            raise DescriptionError(f"not a line of SDP: {line[:40]!r}")
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_SECTIONS:
        raise DescriptionError(f"an offer has at most {MAX_SECTIONS} sections, got {len(starts)}")
    session_lines = lines[: starts[0] if starts else None]
    session = Section("session", 0, "", (), _parse_attributes(session_lines))
    return session, tuple(
        _parse_section(lines[start:stop]) for start, stop in pairwise([*starts, len(lines)])
    )


def direction_of(section: Section, session: Section) -> Direction:
    """Return the direction of a section's media, or the session's, or else sendrecv."""
    names = [name for name, _ in (*section.attributes, *session.attributes) if name in DIRECTIONS]
    return DIRECTIONS[names[0]] if names else "sendrecv"


def usable_candidates(values: Iterable[str]) -> list[str]:
    """Return the candidates (RFC 8839, section 5.1) of UDP with an IP address.

    Names, such as those of mDNS, take seconds to resolve and reveal nothing new: the checks of
    their hosts arrive anyway. Raises DescriptionError for a malformed candidate.
    """
    found: list[str] = []
    for value in values:
        match = CANDIDATE.match(value)
        if match is None or int(match["port"]) > MAX_PORT or int(match["priority"]) > MAX_PRIORITY:
            raise DescriptionError(f"a candidate is malformed: {value[:80]!r}")
        if (
            match["transport"].lower() == "udp"
            and match["component"] == "1"
            and int(match["port"])
            and _is_address(match["address"])
        ):
            found.append(match[0])  # without the extensions after the type
    return found


def with_information(description: str, text: str) -> str:
    """Return a description with a text for people (RFC 8866, section 5.4)."""
    line = " ".join(text.split())
    return description.replace("\r\nt=", f"\r\ni={line}\r\nt=", 1)


def by_payload_type(values: Iterable[str]) -> list[tuple[int | None, str]]:
    """Return attribute values without their leading payload types, which are None for `*`."""
    found: list[tuple[int | None, str]] = []
    for value in values:
        payload_type, _, text = value.partition(" ")
        if payload_type == "*":
            found.append((None, text.strip()))
        elif _is_number(payload_type):
            found.append((int(payload_type), text.strip()))
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_attributes(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line[2:].strip().partition(":") for line in lines if line.startswith("a="))
    return tuple((name, value.strip()) for name, _, value in pairs)


def _parse_section(lines: Sequence[str]) -> Section:
    match = re.fullmatch(
        rf"m=({NAME}) ([0-9]{{1,10}})(/[0-9]+)? ({NAME}(?:/{NAME})*) (.+)", lines[0].strip()
    )
    if match is None:
        raise DescriptionError(f"not the start of a section: {lines[0][:60]!r}")
    port = int(match[2])
    if port > MAX_PORT:
        raise DescriptionError(f"a port is at most {MAX_PORT}, got {port}")
    return Section(match[1], port, match[4], tuple(match[5].split()), _parse_attributes(lines[1:]))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


def _parse_number(text: str, what: str, numbers: range) -> int:
    if not _is_number(text) or int(text) not in numbers:
        raise DescriptionError(
            f"a {what} is a number in {numbers.start}..{numbers.stop - 1}, got {text[:20]!r}"
        )
    return int(text)


def _parse_parameters(text: str) -> dict[str, str]:
    """Return the parameters of `a=fmtp`.

    Spaces may surround them, as in the examples of RFC 6184 (section 8.2.1).
    """
    pairs = (each.partition("=") for each in text.split(";") if each.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}

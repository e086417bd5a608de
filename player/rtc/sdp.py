"""Descriptions of sessions (SDP, RFC 8866) as strangers send them: taken apart, and checked as far as all of them are alike."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

MAX_LINES = 2000
MAX_SECTIONS = 64
MAX_FORMATS = 128
MAX_FEEDBACK = 16
"""Lines of an offer, its sections, the formats of each, and the feedback of each that are looked at."""
MAX_DIGITS = 9
"""Digits of a number in a description."""
MAX_CANDIDATES = 32
"""Of a stranger's candidates so many are used, in the offer and as many later: each is paired with each of ours."""
MAX_PORT = 65535
MAX_PRIORITY = (1 << 32) - 1
CANDIDATE = re.compile(
    r"[A-Za-z0-9+/-]{1,32} (?P<component>\d{1,3}) (?P<transport>[A-Za-z-]{1,16}) (?P<priority>\d{1,10}) "
    r"(?P<address>[A-Za-z0-9.:%_-]{1,255}) (?P<port>\d{1,5}) typ [a-z]{1,16}(?= |$)",
    re.ASCII,
)
LINE_END = re.compile(r"\r\n|\n|\r")
NAME = r"[!#-'*+.0-9A-Z^-~-]+"
"""Names of media and protocols (RFC 8866, section 9)."""
PAYLOAD_TYPES = range(128)
"""Numbers that packets may have."""
Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]
DIRECTIONS: dict[str, Direction] = {
    each: each for each in ("sendrecv", "sendonly", "recvonly", "inactive")
}


class DescriptionError(ValueError):
    """A description is malformed, or not one of a viewer."""


@dataclass(frozen=True)
class Format:
    """A codec of a section, by its number."""

    number: int
    name: str
    """In lower case; empty for one that is not told."""
    clock: int
    parameters: dict[str, str]
    feedback: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A section of a description: what is sent or received of one kind."""

    kind: str
    port: int
    protocol: str
    names: tuple[str, ...]
    """Names of its formats: numbers, for those of RTP."""
    attributes: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Return the values of an attribute."""
        return [value for key, value in self.attributes if key == name]

    def first(self, name: str) -> str | None:
        """Return the first value of an attribute; None if it is not there."""
        return next(iter(self.all(name)), None)

    @property
    def mid(self) -> str | None:
        """Its name within the description."""
        return self.first("mid")

    @property
    def is_live(self) -> bool:
        """Whether something is asked for: a port of 0 is for sections that are out of use, or lie in another's transport."""
        return self.port != 0 or self.first("bundle-only") is not None

    @cached_property
    def formats(self) -> list[Format]:
        """The codecs of a section of RTP, each number once; raises DescriptionError."""
        numbers = dict.fromkeys(
            _number(name, "format", PAYLOAD_TYPES) for name in self.names[:MAX_FORMATS]
        )
        maps = dict(numbered(self.all("rtpmap")))
        parameters = dict(numbered(self.all("fmtp")))
        feedback: dict[int | None, dict[str, None]] = {}
        for number, text in numbered(self.all("rtcp-fb")):
            feedback.setdefault(number, {})[text] = None
        found: list[Format] = []
        for number in numbers:
            codec, _, clock = maps.get(number, "").partition("/")
            told = [*feedback.get(number, ()), *feedback.get(None, ())][:MAX_FEEDBACK]
            rate = clock.partition("/")[0]
            found.append(
                Format(
                    number,
                    codec.lower(),
                    int(rate) if _is_number(rate) else 0,
                    _parameters(parameters.get(number, "")),
                    tuple(told),
                )
            )
        return found


def take_apart(text: str) -> tuple[Section, tuple[Section, ...]]:
    """Return what holds for all of a description, and its sections; raises DescriptionError."""
    # Not splitlines, which also splits within a text, at line separators of Unicode.
    lines = LINE_END.split(text.rstrip())
    if lines[0].strip() != "v=0":
        raise DescriptionError("an offer begins with v=0")
    if len(lines) > MAX_LINES:
        raise DescriptionError(f"an offer has at most {MAX_LINES} lines, got {len(lines)}")
    if wrong := next(
        (line for line in lines if line.strip() and not re.match("[a-z]=", line)), None
    ):
        raise DescriptionError(f"not a line of SDP: {wrong[:40]!r}")
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_SECTIONS:
        raise DescriptionError(f"an offer has at most {MAX_SECTIONS} sections, got {len(starts)}")
    session = Section("session", 0, "", (), _attributes(lines[: starts[0] if starts else None]))
    return session, tuple(
        _section(lines[start:stop]) for start, stop in pairwise([*starts, len(lines)])
    )


def direction_of(section: Section, session: Section) -> Direction:
    """Return which way media goes; a session may tell it for all its sections, and both ways is the default."""
    names = [name for name, _ in (*section.attributes, *session.attributes) if name in DIRECTIONS]
    return DIRECTIONS[names[0]] if names else "sendrecv"


def usable_candidates(values: Iterable[str]) -> list[str]:
    """Return the candidates (RFC 8839, section 5.1) that can be reached: of UDP, with an address.

    Raises DescriptionError for junk. Names, such as those of mDNS, take seconds to resolve and lead nowhere better: checks
    from there arrive all the same.
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
            # What follows the type is not needed.
            found.append(match[0])
    return found


def with_information(description: str, text: str) -> str:
    """Return a description that tells something to people (RFC 8866, section 5.4)."""
    line = " ".join(text.split())
    return description.replace("\r\nt=", f"\r\ni={line}\r\nt=", 1)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _attributes(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    pairs = (line[2:].strip().partition(":") for line in lines if line.startswith("a="))
    return tuple((name, value.strip()) for name, _, value in pairs)


def _section(lines: Sequence[str]) -> Section:
    match = re.fullmatch(
        rf"m=({NAME}) ([0-9]{{1,10}})(/[0-9]+)? ({NAME}(?:/{NAME})*) (.+)", lines[0].strip()
    )
    if match is None:
        raise DescriptionError(f"not the start of a section: {lines[0][:60]!r}")
    port = int(match[2])
    if port > MAX_PORT:
        raise DescriptionError(f"a port is at most {MAX_PORT}, got {port}")
    return Section(match[1], port, match[4], tuple(match[5].split()), _attributes(lines[1:]))


def numbered(values: Iterable[str]) -> list[tuple[int | None, str]]:
    """Return attributes of formats, each with the number of its format; None for all formats."""
    found: list[tuple[int | None, str]] = []
    for value in values:
        number, _, text = value.partition(" ")
        if number == "*":
            found.append((None, text.strip()))
        elif _is_number(number):
            found.append((int(number), text.strip()))
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


def _number(text: str, what: str, numbers: range) -> int:
    if not _is_number(text) or int(text) not in numbers:
        raise DescriptionError(
            f"a {what} is a number in {numbers.start}..{numbers.stop - 1}, got {text[:20]!r}"
        )
    return int(text)


def _parameters(text: str) -> dict[str, str]:
    """Return a codec's parameters; spaces may stand around them (RFC 6184, section 8.2.1, has them in its examples)."""
    pairs = (each.partition("=") for each in text.split(";") if each.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}

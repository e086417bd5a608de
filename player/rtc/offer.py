"""Offers of WebRTC peers, taken apart before aiortc sees them, and the answers to them.

A stranger's offer may hold anything. This module checks it (RFC 8866, RFC 8829), picks the one section of video that is
answered, and writes it anew, in the form that aiortc understands. Whatever else was offered is turned down in the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from player.rtc.sdp import (
    MAX_CANDIDATES,
    MAX_FORMATS,
    DescriptionError,
    Format,
    Section,
    direction_of,
    numbered,
    take_apart,
    usable_candidates,
)
from player.rtc.video_encoder import CODECS, CodecName

NO_NAME = "0"
"""What a section without a name is called in what aiortc is told."""
DYNAMIC_TYPES = range(96, 128)
"""Numbers that aiortc leaves to the codecs of an offer."""
REPORT_TYPES = range(64, 96)
"""Numbers that cannot be told from RTCP's (RFC 5761, section 4)."""
FINGERPRINTS = frozenset({"sha-256", "sha-384", "sha-512"})
"""Hashes by which a certificate may be named."""
FEEDBACK = frozenset({"nack", "nack pli", "goog-remb"})
"""What aiortc does with RTCP."""
EXTENSIONS = frozenset(
    {
        "urn:ietf:params:rtp-hdrext:sdes:mid",
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    }
)
"""Header extensions of packets that aiortc sends."""
SOUND = frozenset({"opus", "pcmu", "pcma", "g722"})
"""Codecs of a section of sound that may stay in the answer, inactive, if others are bundled with it."""
PROTOCOLS = frozenset(
    f"{transport}{profile}{feedback}"
    for transport, profile in product(("", "UDP/TLS/", "TCP/DTLS/"), ("RTP/AVP", "RTP/SAVP"))
    for feedback in ("", "F")
)
"""Ways of sections of RTP; DTLS-SRTP is meant by all of them (RFC 8829, section 5.1.2)."""
RECEIVING = frozenset({"sendrecv", "recvonly"})
"""Directions of who wants to receive."""
ROLES = {"actpass": "passive", "active": "passive", "passive": "active"}
"""Our role in the handshake by theirs (RFC 8842)."""
NO_PROFILE = "42000a"
OUR_PROFILE = "42e01f"
"""Profile and level of H.264 where none are told (RFC 6184, section 8.1), and those that are sent."""
DECODE_BASELINE = frozenset({0x42, 0x4D, 0x58, 0x64})
"""Profiles whose decoders take constrained baseline: baseline, main, extended and high."""


class UnacceptableError(DescriptionError):
    """An offer is right, but has no codec in common with ours."""


@dataclass(frozen=True)
class Choice:
    """The codec of an answer, and its numbers in the offer."""

    codec: CodecName
    format: Format
    retransmission: Format | None
    """What lost packets are sent again as."""

    @property
    def number(self) -> int:
        """Number of the codec's packets as aiortc is told it: the offer's, if aiortc takes that one."""
        taken = self.retransmission.number if self.retransmission else None
        own = self.format.number
        return (
            own if own in DYNAMIC_TYPES else next(each for each in DYNAMIC_TYPES if each != taken)
        )

    @property
    def parameters(self) -> str:
        """What the answer tells of the codec: for H.264 the offer's profile, of which ours is a part."""
        if self.codec == "VP8":
            return ""
        profile = self.format.parameters.get("profile-level-id", NO_PROFILE)
        return f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={profile}"


@dataclass(frozen=True)
class Offer:
    """An offer of which one section of video is to be answered."""

    session: Section
    """What holds for all sections."""
    sections: tuple[Section, ...]
    video: int
    """Index of the section that is answered."""

    @classmethod
    def parse(cls, text: str) -> "Offer":
        """Take an offer apart; raises DescriptionError, whose message tells which rule it breaks."""
        session, sections = take_apart(text)
        offer = cls(session, sections, _video(sections))
        offer.check()
        return offer

    def check(self) -> None:
        """Raise DescriptionError if the section of video lacks what a connection needs."""
        section = self.sections[self.video]
        mids = [each.mid for each in self.sections if each.mid is not None]
        if len(set(mids)) < len(mids):
            raise DescriptionError("two sections have the same a=mid")
        direction = direction_of(section, self.session)
        if direction not in RECEIVING:
            raise DescriptionError(f"a viewer's offer is recvonly or sendrecv, got {direction}")
        if not section.all("rtcp-mux") and not section.all("rtcp-mux-only"):
            raise DescriptionError("the offer lacks a=rtcp-mux")
        if section.protocol not in PROTOCOLS:
            given = section.protocol[:40]
            raise DescriptionError(f"video is sent by UDP/TLS/RTP/SAVPF, got {given}")
        for name, fewest in (("ice-ufrag", 4), ("ice-pwd", 22)):
            value = self._transport(name)
            if (
                not value
                or not fewest <= len(value[0]) <= 256  # noqa: PLR2004
                or not re.fullmatch(r"[A-Za-z0-9+/=_-]+", value[0])
            ):
                raise DescriptionError(
                    f"a={name} is malformed" if value else f"the offer lacks a={name}"
                )
        if not self._fingerprints:
            raise DescriptionError(
                f"the offer lacks an a=fingerprint of {' or '.join(sorted(FINGERPRINTS))}"
            )
        if self._setup not in ROLES:
            raise DescriptionError(
                f"a=setup must be {', '.join(ROLES)}, got {self._setup!r}"
                if self._setup
                else "the offer lacks a=setup"
            )
        if section.mid is not None and not re.fullmatch(r"[!-~]{1,32}", section.mid):
            raise DescriptionError("a=mid is malformed")
        section.formats  # noqa: B018 (which raises)
        self._candidates  # noqa: B018

    def choices(self) -> list[Choice]:
        """Return the codecs that both have, ours in their order; raises UnacceptableError, which tells what is missing."""
        formats = self.sections[self.video].formats
        again = {
            each.parameters.get("apt"): each
            for each in formats
            if each.name == "rtx" and each.number not in REPORT_TYPES
        }
        found: list[tuple[int, int, Choice]] = []
        reasons: list[str] = []
        for each in formats:
            for order, codec in enumerate(CODECS):
                if each.name != codec.lower() or each.clock != 90_000:  # noqa: PLR2004 (RTP's clock of video)
                    continue
                reason = _obstacle(each) if codec == "H264" else None
                if reason is not None:
                    reasons.append(reason)
                    continue
                if each.number in REPORT_TYPES:
                    reasons.append(f"payload type {each.number} is for RTCP")
                    continue
                # A decoder of another profile takes ours, but one of the same is the better bet.
                others = codec == "H264" and not _is_baseline(each)
                found.append(
                    (
                        len(CODECS) if others else order,
                        len(found),
                        Choice(codec, each, again.get(str(each.number))),
                    )
                )
        if not found:
            why = f": {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
            raise UnacceptableError(f"offer has none of the codecs {', '.join(CODECS)}{why}")
        best: dict[CodecName, Choice] = {}
        for _, _, choice in sorted(found, key=lambda each: each[:2]):
            best.setdefault(choice.codec, choice)
        return list(best.values())

    def for_aiortc(self, choice: Choice) -> str:
        """Return the section of video as an offer of its own, in one codec."""
        section = self.sections[self.video]
        lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
        if self.session.first("ice-lite") is not None:
            lines.append("a=ice-lite")
        again = choice.retransmission
        number = choice.number
        numbers = f"{number} {again.number}" if again else f"{number}"
        lines += [
            f"m=video 9 UDP/TLS/RTP/SAVPF {numbers}",
            "c=IN IP4 0.0.0.0",
            "a=recvonly",
            f"a=mid:{section.mid or NO_NAME}",
            "a=rtcp-mux",
        ]
        lines.append(f"a=rtpmap:{number} {choice.codec}/90000")
        if choice.codec == "H264":
            lines.append(
                f"a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={OUR_PROFILE}"
            )
        lines += [
            f"a=rtcp-fb:{number} {each}" for each in choice.format.feedback if each in FEEDBACK
        ]
        if again:
            lines += [f"a=rtpmap:{again.number} rtx/90000", f"a=fmtp:{again.number} apt={number}"]
        for value in section.all("extmap"):
            place, _, uri = value.partition(" ")
            is_needed = uri in EXTENSIONS and (section.mid is not None or "sdes:mid" not in uri)
            if is_needed and re.fullmatch(r"([1-9]|1[0-4])(/\w+)?", place):
                lines.append(f"a=extmap:{place.partition('/')[0]} {uri}")
        lines += [
            f"a=ice-ufrag:{self._transport('ice-ufrag')[0]}",
            f"a=ice-pwd:{self._transport('ice-pwd')[0]}",
        ]
        lines += [f"a=fingerprint:{each}" for each in self._fingerprints]
        # aiortc takes the role that this one leaves.
        lines.append(f"a=setup:{'active' if ROLES[self._setup or ''] == 'passive' else 'passive'}")
        lines += [f"a=candidate:{each}" for each in self._candidates]
        return "\r\n".join(lines) + "\r\n"

    def answer(self, text: str, choice: Choice) -> str:
        """Return the answer to the whole offer, given aiortc's answer to the section of video."""
        lines = text.splitlines()
        start = next(index for index, line in enumerate(lines) if line.startswith("m="))
        found = [line for line in lines[:start] if not line.startswith("a=group:")]
        taken = [self.video] if self._companion is None else sorted((self._companion, self.video))
        if self._bundle:
            mids = {self.sections[index].mid for index in taken}
            # In the offer's order: the first one tells whose transport is used.
            names = [name for name in self._bundle if name in mids]
            found += [f"a=group:BUNDLE {' '.join(names)}"] if names else []
        for index, section in enumerate(self.sections):
            if index == self.video:
                found += self._answered(lines[start:], choice)
            elif index == self._companion:
                found += self._silent(section, lines[start:])
            else:
                found += _refused(section)
        return "\r\n".join(found) + "\r\n"

    def _answered(self, lines: Sequence[str], choice: Choice) -> list[str]:
        """Return the section of video with the offer's numbers and name."""
        section = self.sections[self.video]
        numbers = {choice.number: choice.format.number}
        if choice.retransmission is not None:
            numbers[choice.retransmission.number] = choice.retransmission.number
        formats = " ".join(str(number) for number in numbers.values())
        found = [f"m=video {lines[0].split()[1]} {section.protocol} {formats}"]
        for line in lines[1:]:
            name, _, value = line.partition(":")
            number, _, rest = value.partition(" ")
            if name == "a=mid":
                found += [line] if section.mid is not None else []
            elif name in ("a=rtpmap", "a=fmtp", "a=rtcp-fb"):
                if not number.isdecimal() or int(number) not in numbers:
                    continue
                if name == "a=fmtp":
                    is_again = int(number) != choice.number
                    rest = f"apt={choice.format.number}" if is_again else choice.parameters
                found.append(f"{name}:{numbers[int(number)]} {rest}")
            else:
                found.append(line)
                if line == "a=rtcp-mux" and section.all("rtcp-mux-only"):
                    found.append("a=rtcp-mux-only")
        return found

    def _silent(self, section: Section, lines: Sequence[str]) -> list[str]:
        """Return a section of sound that stays, without sound, since the transport that video uses is its own."""
        shared = ("a=ice-", "a=candidate:", "a=end-of-candidates", "a=fingerprint:", "a=setup:")
        kept = next(each for each in section.formats if each.name in SOUND)
        text = next(
            value for number, value in numbered(section.all("rtpmap")) if number == kept.number
        )
        found = [f"m={section.kind} {lines[0].split()[1]} {section.protocol} {kept.number}"]
        found += [*(line for line in lines if line.startswith("c=")), "a=inactive"]
        found += [f"a=mid:{section.mid}", "a=rtcp-mux", f"a=rtpmap:{kept.number} {text}"]
        return found + [line for line in lines[1:] if line.startswith(shared)]

    @cached_property
    def _bundle(self) -> tuple[str, ...]:
        groups = (value.split() for value in self.session.all("group"))
        return next(
            (tuple(names) for semantics, *names in filter(None, groups) if semantics == "BUNDLE"),
            (),
        )

    @cached_property
    def _companion(self) -> int | None:
        """Index of a section of sound that is bundled with the video and stays in the answer."""
        if self.sections[self.video].mid not in self._bundle:
            return None
        for index, section in enumerate(self.sections):
            if section.kind == "audio" and section.is_live and section.mid in self._bundle:
                return index if _has_sound(section) else None
        return None

    @property
    def transport_mids(self) -> frozenset[str]:
        """Names of the sections that share the transport which is used."""
        own = self.sections[self.video].mid
        return frozenset(self._bundle if own in self._bundle else [own] if own is not None else [])

    @cached_property
    def _owner(self) -> Section:
        """The section whose transport is used: the first in the bundle of those that stay (RFC 9143, section 7.3)."""
        stay = [index for index in (self._companion, self.video) if index is not None]
        names = {self.sections[index].mid: self.sections[index] for index in stay}
        return next(
            (names[name] for name in self._bundle if name in names), self.sections[self.video]
        )

    def _transport(self, name: str) -> list[str]:
        """Return the values of an attribute of the transport: of its section, or else of the video's, or of the session."""
        return (
            self._owner.all(name) or self.sections[self.video].all(name) or self.session.all(name)
        )

    @cached_property
    def _fingerprints(self) -> list[str]:
        known: list[str] = []
        for value in self._transport("fingerprint"):
            algorithm, _, digest = value.partition(" ")
            if algorithm.lower() in FINGERPRINTS and re.fullmatch(
                r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31,63}", digest.strip()
            ):
                known.append(f"{algorithm.lower()} {digest.strip().upper()}")
        return known[:4]

    @property
    def _setup(self) -> str | None:
        return next(iter(self._transport("setup")), None)

    @cached_property
    def _candidates(self) -> list[str]:
        return usable_candidates(self._transport("candidate"))[:MAX_CANDIDATES]


def _video(sections: Sequence[Section]) -> int:
    """Return the index of the section of video that is asked for; raises DescriptionError for none, or more than one."""
    live = [
        index
        for index, section in enumerate(sections)
        if section.kind == "video" and section.is_live
    ]
    if not live:
        raise DescriptionError("offer asks for no video")
    if len(live) > 1:
        raise DescriptionError(f"a viewer's offer has one section of video, got {len(live)}")
    return live[0]


def _has_sound(section: Section) -> bool:
    """Return whether a section of sound can stay in an answer."""
    try:
        known = any(each.name in SOUND for each in section.formats)
    except DescriptionError:
        return False
    return known and section.protocol in PROTOCOLS


def _refused(section: Section) -> list[str]:
    """Return a section that is turned down (RFC 8829, section 5.3.1)."""
    found = [
        f"m={section.kind} 0 {section.protocol} {' '.join(section.names[:MAX_FORMATS])}",
        "c=IN IP4 0.0.0.0",
        "a=inactive",
    ]
    return found + ([f"a=mid:{section.mid}"] if section.mid is not None else [])


def _obstacle(each: Format) -> str | None:
    """Return why H.264 cannot be sent in a format; None if it can. What a format does not tell has defaults (RFC 6184, 8.1)."""
    mode = each.parameters.get("packetization-mode", "0")
    if mode != "1":
        return f"H264 needs packetization-mode=1, got {mode}"
    profile = each.parameters.get("profile-level-id", NO_PROFILE)
    if not re.fullmatch("[0-9A-Fa-f]{6}", profile) or int(profile[:2], 16) not in DECODE_BASELINE:
        return f"H264 is sent as constrained baseline, got profile-level-id={profile[:20]}"
    return None


def _is_baseline(each: Format) -> bool:
    return int(each.parameters.get("profile-level-id", NO_PROFILE)[:2], 16) == int(
        OUR_PROFILE[:2], 16
    )

"""Offers of WebRTC viewers, parsed and checked before aiortc reads them.

A stranger's offer may hold anything. `Offer.parse` checks it (RFC 8866, RFC 8829), and finds the
one video section that is answered. `codec_choice` chooses its codec; `answer` writes the answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from encoder.codec.sound import RATE
from player.rtc.sdp import (
    MAX_CANDIDATES,
    RTCP_TYPES,
    DescriptionError,
    Format,
    Section,
    direction_of,
    parse_description,
    usable_candidates,
)

FINGERPRINTS = frozenset({"sha-256", "sha-384", "sha-512"})
"""Hash functions of certificate fingerprints (RFC 8122, section 5)."""
MAX_FINGERPRINTS = 4
AUDIO_CODECS = frozenset({"opus", "pcmu", "pcma", "g722"})
"""Codecs of an audio section that may stay in the answer, inactive, if it is bundled."""
PROTOCOLS = frozenset(
    f"{transport}{profile}{feedback}"
    for transport, profile in product(("", "UDP/TLS/", "TCP/DTLS/"), ("RTP/AVP", "RTP/SAVP"))
    for feedback in ("", "F")
)
"""Protocols of RTP sections; each means DTLS-SRTP (RFC 8829, section 5.1.2)."""
RECEIVING = frozenset({"sendrecv", "recvonly"})
"""Directions of offers for reception."""
ROLES = {"actpass": "passive", "active": "passive", "passive": "active"}
"""Our DTLS role by that of the offer (RFC 8842, section 5.3)."""
UFRAG_LENGTHS = range(4, 257)
PASSWORD_LENGTHS = range(22, 257)
"""Lengths of `a=ice-ufrag` and `a=ice-pwd` (RFC 8839, section 5.4)."""


@dataclass(frozen=True)
class Offer:
    """An offer with one video section that is to be answered."""

    session: Section
    """Lines that apply to all sections."""
    sections: tuple[Section, ...]
    video_index: int
    """Index of the section that is answered."""

    @classmethod
    def parse(cls, text: str) -> "Offer":
        """Parse and check an offer; raises DescriptionError with the broken rule."""
        session, sections = parse_description(text)
        offer = cls(session, sections, _find_video(sections))
        offer._check_section()
        offer._check_transport()
        return offer

    @property
    def video(self) -> Section:
        """Section that is answered."""
        return self.sections[self.video_index]

    @cached_property
    def bundle(self) -> tuple[str, ...]:
        """Names of the sections in the first bundle (RFC 9143)."""
        groups = (value.split() for value in self.session.all("group"))
        return next(
            (tuple(names) for semantics, *names in filter(None, groups) if semantics == "BUNDLE"),
            (),
        )

    @cached_property
    def audio_index(self) -> int | None:
        """Index of an audio section that is bundled with the video and stays in the answer."""
        if self.video.mid not in self.bundle:
            return None
        for index, section in enumerate(self.sections):
            if section.kind == "audio" and section.is_live and section.mid in self.bundle:
                return index if _can_stay(section) else None
        return None

    @cached_property
    def sound_format(self) -> Format | None:
        """Opus in the audio section, if that stays in the answer and is for reception."""
        if self.audio_index is None:
            return None
        section = self.sections[self.audio_index]
        if direction_of(section, self.session) not in RECEIVING:
            return None
        return next((each for each in section.formats if _is_opus(each)), None)

    @property
    def transport_mids(self) -> frozenset[str]:
        """Names of the sections that share the video's transport."""
        own = self.video.mid
        if own in self.bundle:
            return frozenset(self.bundle)
        return frozenset([own] if own is not None else [])

    def transport(self, name: str) -> list[str]:
        """Return the values of a transport attribute.

        They stand in the section that owns the transport, or else in the video's, or the session's.
        """
        return self._owner.all(name) or self.video.all(name) or self.session.all(name)

    @cached_property
    def fingerprints(self) -> list[str]:
        """Values of `a=fingerprint` with a known hash function."""
        known: list[str] = []
        for value in self.transport("fingerprint"):
            algorithm, _, digest = value.partition(" ")
            if algorithm.lower() in FINGERPRINTS and re.fullmatch(
                r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31,63}", digest.strip()
            ):
                known.append(f"{algorithm.lower()} {digest.strip().upper()}")
        return known[:MAX_FINGERPRINTS]

    @property
    def setup(self) -> str | None:
        """DTLS role of the offer (RFC 8842)."""
        return next(iter(self.transport("setup")), None)

    @cached_property
    def candidates(self) -> list[str]:
        """Candidates that can be reached; raises DescriptionError."""
        return usable_candidates(self.transport("candidate"))[:MAX_CANDIDATES]

    @cached_property
    def _owner(self) -> Section:
        """Owner of the transport: the bundle's first section that stays (RFC 9143, section 7.3)."""
        stay = [index for index in (self.audio_index, self.video_index) if index is not None]
        names = {self.sections[index].mid: self.sections[index] for index in stay}
        return next((names[name] for name in self.bundle if name in names), self.video)

    def _check_section(self) -> None:
        """Raise DescriptionError if the video section cannot be answered."""
        section = self.video
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

    def _check_transport(self) -> None:
        """Raise DescriptionError if the offer lacks a part of its transport, or of its formats."""
        for name, lengths in (("ice-ufrag", UFRAG_LENGTHS), ("ice-pwd", PASSWORD_LENGTHS)):
            values = self.transport(name)
            if not values:
                raise DescriptionError(f"the offer lacks a={name}")
            # Wider than ice-char (RFC 8839, section 5.4), by `=`, `_` and `-`.
            is_valid = re.fullmatch(r"[A-Za-z0-9+/=_-]+", values[0]) is not None
            if not is_valid or len(values[0]) not in lengths:
                raise DescriptionError(f"a={name} is malformed")
        if not self.fingerprints:
            algorithms = " or ".join(sorted(FINGERPRINTS))
            raise DescriptionError(f"the offer lacks an a=fingerprint of {algorithms}")
        if self.setup not in ROLES:
            raise DescriptionError(
                f"a=setup must be {', '.join(ROLES)}, got {self.setup!r}"
                if self.setup
                else "the offer lacks a=setup"
            )
        if self.video.mid is not None and not re.fullmatch(r"[!-~]{1,32}", self.video.mid):
            raise DescriptionError("a=mid is malformed")
        self.video.formats  # noqa: B018 (raises)
        self.candidates  # noqa: B018 (raises)


def _find_video(sections: Sequence[Section]) -> int:
    """Return the index of the one video section that is live; raises DescriptionError."""
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


def _is_opus(each: Format) -> bool:
    """Return whether a format is Opus (RFC 7587), whose packets do not look like RTCP."""
    return (each.name, each.clock_rate) == ("opus", RATE) and each.payload_type not in RTCP_TYPES


def _can_stay(section: Section) -> bool:
    """Return whether an audio section can stay in an answer."""
    try:
        is_known = any(each.name in AUDIO_CODECS for each in section.formats)
    except DescriptionError:
        return False
    return is_known and section.protocol in PROTOCOLS

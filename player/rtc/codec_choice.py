"""The choice of a codec among the formats of an offer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from player.rtc.sdp import RTCP_TYPES, DescriptionError, Format
from player.rtc.video_encoder import CLOCK_RATE, CODECS, CodecName

DYNAMIC_TYPES = range(96, 128)
"""Payload types that aiortc accepts for the codecs of an offer (RFC 3551, section 6)."""
DEFAULT_PROFILE = "42000a"
"""H.264 profile and level where an offer has none (RFC 6184, section 8.1)."""
OUR_PROFILE = "42e01f"
"""H.264 profile and level that our encoders send: constrained baseline, level 3.1."""
BASELINE_DECODERS = frozenset({0x42, 0x4D, 0x58, 0x64})
"""Profiles whose decoders take constrained baseline: baseline, main, extended and high."""


class UnacceptableError(DescriptionError):
    """An offer that is right, but has no codec in common with ours."""


@dataclass(frozen=True)
class CodecChoice:
    """The codec of an answer, and its formats in the offer."""

    codec: CodecName
    format: Format
    retransmission: Format | None
    """Format of retransmitted packets (RFC 4588)."""

    @property
    def aiortc_payload_type(self) -> int:
        """Payload type in the offer that aiortc reads: the viewer's, if aiortc accepts it."""
        taken = self.retransmission.payload_type if self.retransmission else None
        own = self.format.payload_type
        if own in DYNAMIC_TYPES:
            return own
        return next(each for each in DYNAMIC_TYPES if each != taken)

    @property
    def answer_parameters(self) -> str:
        """Value of the answer's `a=fmtp`.

        An H.264 answer repeats the offer's profile (RFC 6184, section 8.2.2), which includes ours.
        """
        if self.codec == "VP8":
            return ""
        profile = self.format.parameters.get("profile-level-id", DEFAULT_PROFILE)
        return f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={profile}"


def choose_codecs(formats: Sequence[Format]) -> list[CodecChoice]:
    """Return the codecs of an offer that we have, in our order of preference.

    Raises UnacceptableError, with the reasons.
    """
    retransmissions = {
        each.parameters.get("apt"): each
        for each in formats
        if each.name == "rtx" and each.payload_type not in RTCP_TYPES
    }
    ranked: list[tuple[int, CodecChoice]] = []
    reasons: list[str] = []
    for each in formats:
        for rank, codec in enumerate(CODECS):
            if each.name != codec.lower() or each.clock_rate != CLOCK_RATE:
                continue
            if (reason := _obstacle(each, codec)) is not None:
                reasons.append(reason)
                continue
            choice = CodecChoice(codec, each, retransmissions.get(str(each.payload_type)))
            # A decoder of another profile takes constrained baseline; one of the same is safer.
            is_other_profile = codec == "H264" and not _is_baseline(each)
            ranked.append((len(CODECS) if is_other_profile else rank, choice))
    if not ranked:
        why = f": {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
        raise UnacceptableError(f"offer has none of the codecs {', '.join(CODECS)}{why}")
    best: dict[CodecName, CodecChoice] = {}
    for _, choice in sorted(ranked, key=lambda pair: pair[0]):
        best.setdefault(choice.codec, choice)
    return list(best.values())


def _obstacle(each: Format, codec: CodecName) -> str | None:
    """Return the reason why a codec cannot be sent in a format; None if it can."""
    if codec == "H264":
        # Absent parameters have defaults (RFC 6184, section 8.1).
        mode = each.parameters.get("packetization-mode", "0")
        profile = each.parameters.get("profile-level-id", DEFAULT_PROFILE)
        if mode != "1":
            return f"H264 needs packetization-mode=1, got {mode}"
        is_profile = re.fullmatch("[0-9A-Fa-f]{6}", profile) is not None
        if not is_profile or int(profile[:2], 16) not in BASELINE_DECODERS:
            return f"H264 is sent as constrained baseline, got profile-level-id={profile[:20]}"
    if each.payload_type in RTCP_TYPES:
        return f"payload type {each.payload_type} is for RTCP"
    return None


def _is_baseline(each: Format) -> bool:
    profile = each.parameters.get("profile-level-id", DEFAULT_PROFILE)
    return int(profile[:2], 16) == int(OUR_PROFILE[:2], 16)

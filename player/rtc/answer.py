"""Translation between a stranger's offer and aiortc.

aiortc reads an offer of the video section alone, in one codec. Its answer is completed with the
other sections, and with the payload types and names of the stranger's offer.
"""

import re
from collections.abc import Sequence

from player.rtc.codec_choice import OUR_PROFILE, CodecChoice
from player.rtc.offer import AUDIO_CODECS, ROLES, Offer
from player.rtc.sdp import MAX_FORMATS, Section, by_payload_type
from player.rtc.sound_offer import SHARED, sound_lines

DEFAULT_MID = "0"
"""Name of a section without `a=mid` in the offer that aiortc reads."""
FEEDBACK = frozenset({"nack", "nack pli", "goog-remb"})
"""RTCP feedback that aiortc handles."""
EXTENSIONS = frozenset(
    {
        "urn:ietf:params:rtp-hdrext:sdes:mid",
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    }
)
"""RTP header extensions that our send loop writes."""


def offer_for_aiortc(offer: Offer, choice: CodecChoice) -> str:
    """Return the video section as an offer of its own, in one codec."""
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if offer.session.first("ice-lite") is not None:
        lines.append("a=ice-lite")
    payload_types = [choice.aiortc_payload_type]
    if choice.retransmission:
        payload_types.append(choice.retransmission.payload_type)
    lines += [
        f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, payload_types))}",
        "c=IN IP4 0.0.0.0",
        "a=recvonly",
        f"a=mid:{offer.video.mid or DEFAULT_MID}",
        "a=rtcp-mux",
        *_codec_lines(choice),
        *_extension_lines(offer.video),
        f"a=ice-ufrag:{offer.transport('ice-ufrag')[0]}",
        f"a=ice-pwd:{offer.transport('ice-pwd')[0]}",
        *(f"a=fingerprint:{each}" for each in offer.fingerprints),
        # aiortc takes the role that this one leaves.
        f"a=setup:{'active' if ROLES[offer.setup or ''] == 'passive' else 'passive'}",
        *(f"a=candidate:{each}" for each in offer.candidates),
    ]
    return "\r\n".join(lines) + "\r\n"


def _codec_lines(choice: CodecChoice) -> list[str]:
    payload_type = choice.aiortc_payload_type
    lines = [f"a=rtpmap:{payload_type} {choice.codec}/90000"]
    if choice.codec == "H264":
        parameters = (
            f"level-asymmetry-allowed=1;packetization-mode=1;profile-level-id={OUR_PROFILE}"
        )
        lines.append(f"a=fmtp:{payload_type} {parameters}")
    known = [each for each in choice.format.feedback if each in FEEDBACK]
    lines += [f"a=rtcp-fb:{payload_type} {each}" for each in known]
    if choice.retransmission:
        again = choice.retransmission.payload_type
        lines += [f"a=rtpmap:{again} rtx/90000", f"a=fmtp:{again} apt={payload_type}"]
    return lines


def _extension_lines(section: Section) -> list[str]:
    lines: list[str] = []
    for value in section.all("extmap"):
        place, _, uri = value.partition(" ")
        is_needed = uri in EXTENSIONS and (section.mid is not None or "sdes:mid" not in uri)
        # One-byte headers have identifiers 1 to 14 (RFC 8285, section 4.2).
        if is_needed and re.fullmatch(r"([1-9]|1[0-4])(/\w+)?", place):
            lines.append(f"a=extmap:{place.partition('/')[0]} {uri}")
    return lines


def complete_answer(
    offer: Offer, choice: CodecChoice, answer: str, *, sound_ssrc: int | None = None
) -> str:
    """Return the answer to a whole offer, from aiortc's answer to the video section.

    `sound_ssrc` is the source of the sound, if the offer has a format for any.
    """
    lines = answer.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("m="))
    found = [line for line in lines[:start] if not line.startswith("a=group:")]
    accepted = {offer.video.mid}
    if offer.audio_index is not None:
        accepted.add(offer.sections[offer.audio_index].mid)
    # In the offer's order: the first name tells whose transport is used (RFC 9143, section 7.3).
    names = [name for name in offer.bundle if name in accepted]
    found += [f"a=group:BUNDLE {' '.join(names)}"] if names else []
    for index, section in enumerate(offer.sections):
        if index == offer.video_index:
            found += _video_section(section, choice, lines[start:])
        elif index == offer.audio_index:
            sound = offer.sound_format if sound_ssrc is not None else None
            found += (
                sound_lines(
                    lines[start:],
                    mid=section.mid or "",
                    payload_type=sound.payload_type,
                    ssrc=sound_ssrc,
                    protocol=section.protocol,
                )
                if sound is not None and sound_ssrc is not None
                else _inactive_section(section, lines[start:])
            )
        else:
            found += _rejected_section(section)
    return "\r\n".join(found) + "\r\n"


def _video_section(section: Section, choice: CodecChoice, lines: Sequence[str]) -> list[str]:
    """Return aiortc's video section with the payload types and the name of the offer."""
    payload_types = {choice.aiortc_payload_type: choice.format.payload_type}
    if choice.retransmission is not None:
        again = choice.retransmission.payload_type
        payload_types[again] = again
    numbers = " ".join(str(each) for each in payload_types.values())
    found = [f"m=video {lines[0].split()[1]} {section.protocol} {numbers}"]
    for line in lines[1:]:
        name, _, value = line.partition(":")
        number, _, rest = value.partition(" ")
        if name == "a=mid":
            found += [line] if section.mid is not None else []
        elif name in ("a=rtpmap", "a=fmtp", "a=rtcp-fb"):
            if not number.isdecimal() or int(number) not in payload_types:
                continue
            if name == "a=fmtp":
                is_codec = int(number) == choice.aiortc_payload_type
                again = f"apt={choice.format.payload_type}"
                rest = choice.answer_parameters if is_codec else again
            found.append(f"{name}:{payload_types[int(number)]} {rest}")
        else:
            found.append(line)
            # WHEP asks for it in answers too; RFC 8858 (section 4.3) has it in offers alone.
            if line == "a=rtcp-mux" and section.all("rtcp-mux-only"):
                found.append("a=rtcp-mux-only")
    return found


def _inactive_section(section: Section, lines: Sequence[str]) -> list[str]:
    """Return an audio section without audio, which stays because its transport is the video's.

    Rejecting the section that owns a bundle's transport would break the bundle (RFC 9143, section
    7.3).
    """
    kept = next(each.payload_type for each in section.formats if each.name in AUDIO_CODECS)
    codec = next(text for number, text in by_payload_type(section.all("rtpmap")) if number == kept)
    return [
        f"m={section.kind} {lines[0].split()[1]} {section.protocol} {kept}",
        *(line for line in lines if line.startswith("c=")),
        "a=inactive",
        f"a=mid:{section.mid}",
        "a=rtcp-mux",
        f"a=rtpmap:{kept} {codec}",
        *(line for line in lines[1:] if line.startswith(SHARED)),
    ]


def _rejected_section(section: Section) -> list[str]:
    """Return a section with port 0, which rejects it (RFC 8829, section 5.3.1)."""
    formats = " ".join(section.format_names[:MAX_FORMATS])
    return [
        f"m={section.kind} 0 {section.protocol} {formats}",
        "c=IN IP4 0.0.0.0",
        "a=inactive",
        *([f"a=mid:{section.mid}"] if section.mid is not None else []),
    ]

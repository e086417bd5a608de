"""Offers of strangers and of all kinds of stacks, and what is answered."""

import re
import time

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st
from playing import offer_for

from player.rtc.answer import complete_answer, offer_for_aiortc
from player.rtc.codec_choice import UnacceptableError, choose_codecs
from player.rtc.fanout import ViewerTrack
from player.rtc.offer import Offer
from player.rtc.peer_connection import add_viewer
from player.rtc.sdp import MAX_SECTIONS, DescriptionError, usable_candidates

FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)


def offer(*sections, session=("group:BUNDLE 0",)):
    """Return an offer of sections, each of its first line and its attributes."""
    lines = ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", *(f"a={each}" for each in session)]
    for first, *attributes in sections:
        lines += [first, "c=IN IP4 0.0.0.0", *(f"a={each}" for each in attributes)]
    return "\r\n".join(lines) + "\r\n"


TRANSPORT = (
    "ice-ufrag:abcd",
    "ice-pwd:" + "x" * 22,
    f"fingerprint:{FINGERPRINT}",
    "setup:actpass",
    "rtcp-mux",
)


def video(*codecs, mid="0", direction="recvonly", port=9, transport=TRANSPORT):
    """Return a section of video of codecs, each `NUMBER NAME PARAMETERS`."""
    numbers = [each.split()[0] for each in codecs]
    attributes = [f"mid:{mid}", *transport, *([direction] if direction else [])]
    for each in codecs:
        number, name, *parameters = each.split(maxsplit=2)
        attributes.append(f"rtpmap:{number} {name}/90000")
        attributes += [f"fmtp:{number} {text}" for text in parameters]
    return (f"m=video {port} UDP/TLS/RTP/SAVPF {' '.join(numbers)}", *attributes)


H264 = "{} H264 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"


def choices(parsed):
    return choose_codecs(parsed.video.formats)


def chosen(text):
    return [(choice.codec, choice.format.payload_type) for choice in choices(Offer.parse(text))]


async def answered(text, sound_ssrc=None):
    """Return the answer that a peer of aiortc's gives."""
    parsed = Offer.parse(text)
    choice = choices(parsed)[0]
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    add_viewer(peer, ViewerTrack(choice.codec))
    await peer.setRemoteDescription(
        RTCSessionDescription(offer_for_aiortc(parsed, choice), "offer")
    )
    await peer.setLocalDescription(await peer.createAnswer())
    found = complete_answer(parsed, choice, peer.localDescription.sdp, sound_ssrc=sound_ssrc)
    await peer.close()
    return found


def sections_of(text):
    return re.split(r"(?m)^(?=m=)", text.replace("\r\n", "\n"))[1:]


@pytest.mark.parametrize(
    ("codecs", "expected"),
    [
        (["97 VP8", H264.format(98)], [("H264", 98), ("VP8", 97)]),
        (["35 VP8"], [("VP8", 35)]),
        ([H264.format(63), "40 VP8"], [("H264", 63), ("VP8", 40)]),
        # RFC 6184's own examples have spaces.
        (
            [
                "98 H264 profile-level-id=42A01E; packetization-mode=1; sprop-parameter-sets=Z0IACpZTBYmI"
            ],
            [("H264", 98)],
        ),
        # Whose decoders take constrained baseline too, if there is nothing better.
        (["98 H264 profile-level-id=640028;packetization-mode=1"], [("H264", 98)]),
        (
            ["98 H264 profile-level-id=640028;packetization-mode=1", "99 VP8"],
            [("VP8", 99), ("H264", 98)],
        ),
        (["98 H264 profile-level-id=640028;packetization-mode=1", H264.format(99)], [("H264", 99)]),
        (["98 h264 packetization-mode=1"], [("H264", 98)]),
        (["98 VP9", "99 vp8"], [("VP8", 99)]),
    ],
)
def test_codecs(codecs, expected):
    assert chosen(offer(video(*codecs))) == expected


@pytest.mark.parametrize(
    ("codec", "reason"),
    [
        ("98 VP9", "offer has none of the codecs H264, VP8"),
        ("98 H264", "H264 needs packetization-mode=1, got 0"),
        (
            "98 H264 packetization-mode=0;profile-level-id=42e01f",
            "H264 needs packetization-mode=1, got 0",
        ),
        (
            "98 H264 packetization-mode=1;profile-level-id=f4001f",
            "H264 is sent as constrained baseline, got profile-level-id=f4001f",
        ),
        ("72 VP8", "payload type 72 is for RTCP"),
    ],
)
def test_no_codec_in_common(codec, reason):
    with pytest.raises(UnacceptableError, match=reason):
        chosen(offer(video(codec)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an offer begins with v=0"),
        ("garbage", "an offer begins with v=0"),
        ("v=0\r\nhello\r\n", "not a line of SDP: 'hello'"),
        ("v=0\r\nm=video\r\n", "not the start of a section"),
        ("v=0\r\n", "offer asks for no video"),
        (offer(("m=audio 9 UDP/TLS/RTP/SAVPF 0",)), "offer asks for no video"),
        (offer(video("97 VP8"), video("98 VP8", mid="1")), "has one section of video, got 2"),
        (offer(video("97 VP8", direction="sendonly")), "recvonly or sendrecv, got sendonly"),
        (offer(video("97 VP8", direction="inactive")), "recvonly or sendrecv, got inactive"),
        (
            offer(video("97 VP8", direction=None), session=["inactive"]),
            "recvonly or sendrecv, got inactive",
        ),
        (offer(video("97 VP8", port=65536)), "a port is at most 65535, got 65536"),
        (offer(video("300 VP8")), r"a format is a number in 0\.\.127, got '300'"),
        (offer(video("97 VP8", transport=TRANSPORT[1:])), "the offer lacks a=ice-ufrag"),
        (
            offer(video("97 VP8", transport=TRANSPORT[:1] + TRANSPORT[2:])),
            "the offer lacks a=ice-pwd",
        ),
        (
            offer(video("97 VP8", transport=TRANSPORT[:2] + TRANSPORT[3:])),
            "the offer lacks an a=fingerprint",
        ),
        (
            offer(
                video("97 VP8", transport=(*TRANSPORT[:2], "fingerprint:md5 AB:CD", *TRANSPORT[3:]))
            ),
            "lacks an a=fingerprint",
        ),
        (
            offer(video("97 VP8", transport=TRANSPORT[:3] + TRANSPORT[4:])),
            "the offer lacks a=setup",
        ),
        (
            offer(video("97 VP8", transport=(*TRANSPORT[:3], "setup:holdconn", "rtcp-mux"))),
            "a=setup must be .*, got 'holdconn'",
        ),
        (offer(video("97 VP8", transport=TRANSPORT[:4])), "the offer lacks a=rtcp-mux"),
        (
            offer(video("97 VP8", transport=(*TRANSPORT, "candidate:junk"))),
            "a candidate is malformed",
        ),
        (
            offer(*[("m=application 9 UDP/DTLS/SCTP webrtc-datachannel",)] * 600),
            f"at most {MAX_SECTIONS} sections, got 600",
        ),
        (offer(("m=video 9 RTP/AVP 97", *["x:y"] * 3000)), "at most 2000 lines"),
    ],
)
def test_offers_that_are_none(text, reason):
    with pytest.raises(DescriptionError, match=reason):
        choices(Offer.parse(text))


@pytest.mark.parametrize("session", [["recvonly"], ["sendrecv"], []])
def test_direction_may_be_that_of_the_session_or_the_default(session):
    assert chosen(offer(video("97 VP8", direction=None), session=session)) == [("VP8", 97)]


def test_transport_may_be_told_for_the_session():
    text = offer(video("97 VP8", transport=["rtcp-mux"]), session=TRANSPORT[:4])
    parsed = Offer.parse(text)
    canonical = offer_for_aiortc(parsed, choices(parsed)[0])
    assert "a=ice-ufrag:abcd" in canonical
    assert FINGERPRINT in canonical


@pytest.mark.parametrize(
    ("theirs", "ours"), [("actpass", "passive"), ("active", "passive"), ("passive", "active")]
)
async def test_roles_in_the_handshake(theirs, ours):
    """Passive where there is a choice, as in the example of WHEP."""
    transport = [f"setup:{theirs}" if each.startswith("setup") else each for each in TRANSPORT]
    assert f"a=setup:{ours}" in await answered(offer(video("97 VP8", transport=transport)))


@pytest.mark.parametrize("number", [35, 63, 96, 127])
async def test_answers_use_the_numbers_of_the_offer(number):
    codecs = [f"{number} VP8", f"100 rtx apt={number}"]
    (section,) = sections_of(await answered(offer(video(*codecs, mid="v"))))
    assert section.startswith("m=video ")
    assert section.splitlines()[0].split()[3:] == [str(number), "100"]
    assert f"a=rtpmap:{number} VP8/90000" in section
    assert f"a=fmtp:100 apt={number}" in section
    assert "a=mid:v\n" in section
    assert "a=sendonly" in section


@pytest.mark.parametrize(("own", "again"), [(97, 98), (35, 96), (127, 36), (40, 41)])
def test_packets_that_are_sent_again_have_their_number(own, again):
    """aiortc sends them with the number that it is told, whatever the answer says."""
    parsed = Offer.parse(offer(video(f"{own} VP8", f"{again} rtx apt={own}")))
    (choice,) = choices(parsed)
    told = offer_for_aiortc(parsed, choice)
    assert f"a=rtpmap:{again} rtx/90000" in told
    assert f"a=fmtp:{again} apt={choice.aiortc_payload_type}" in told
    assert choice.aiortc_payload_type in range(96, 128)
    assert choice.aiortc_payload_type != again


async def test_other_sections_are_turned_down_in_their_places():
    text = offer(
        ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "mid:d", *TRANSPORT),
        (
            "m=audio 9 UDP/TLS/RTP/SAVPF 100",
            "mid:a",
            *TRANSPORT,
            "recvonly",
            "rtpmap:100 SPEEX/16000",
        ),
        ("m=video 0 UDP/TLS/RTP/SAVPF 98", "mid:old", "rtpmap:98 VP8/90000"),
        video("97 VP8", mid="v"),
        session=["group:BUNDLE d a v"],
    )
    answer = await answered(text)
    assert "a=group:BUNDLE v\n" in answer.replace("\r\n", "\n")
    firsts = [section.splitlines()[0] for section in sections_of(answer)]
    assert [first.split()[:2] for first in firsts[:3]] == [
        ["m=application", "0"],
        ["m=audio", "0"],
        ["m=video", "0"],
    ]
    assert firsts[3].split()[1] != "0"
    assert [re.search("a=mid:(.*)", section)[1] for section in sections_of(answer)] == [
        "d",
        "a",
        "old",
        "v",
    ]


async def test_sound_that_is_bundled_stays_without_sound():
    sound = (
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "mid:0",
        *TRANSPORT,
        "recvonly",
        "rtpmap:111 opus/48000/2",
    )
    bare = video("97 VP8", mid="1", transport=["rtcp-mux", "bundle-only"], port=0)
    answer = await answered(offer(sound, bare, session=["group:BUNDLE 0 1"]))
    first, second = sections_of(answer)
    assert "a=group:BUNDLE 0 1" in answer
    assert "a=inactive" in first
    assert "a=rtpmap:111 opus/48000/2" in first
    assert "a=sendonly" in second
    assert re.findall("a=ice-ufrag:.*", first) == re.findall("a=ice-ufrag:.*", second)


async def test_no_bundle_where_none_was_offered():
    sound = (
        "m=audio 9 UDP/TLS/RTP/SAVPF 111",
        "mid:0",
        *TRANSPORT,
        "recvonly",
        "rtpmap:111 opus/48000/2",
    )
    answer = await answered(offer(sound, video("97 VP8", mid="1"), session=[]))
    assert "BUNDLE" not in answer
    assert sections_of(answer)[0].startswith("m=audio 0 ")


@pytest.mark.parametrize("given", ["rtcp-mux-only", "rtcp-mux"])
async def test_multiplexing_alone_is_answered(given):
    (section,) = sections_of(
        await answered(offer(video("97 VP8", transport=(*TRANSPORT[:4], given))))
    )
    assert "a=rtcp-mux\n" in section
    assert ("a=rtcp-mux-only\n" in section) == (given == "rtcp-mux-only")


def test_candidates_that_can_be_reached():
    udp = "1 1 udp 2130706431 192.0.2.1 9 typ host"
    values = [
        "1 1 udp 2130706431 1f0e-42.local 9 typ host",
        f"{udp} generation 0 ufrag x",
        "2 1 UDP 1 2001:db8::1 10 typ srflx raddr 192.0.2.1 rport 9",
        "3 1 tcp 1 192.0.2.1 9 typ host tcptype active",
        "4 2 udp 1 192.0.2.1 9 typ host",
        "5 1 udp 1 example.org 9 typ host",
        "6 1 udp 1 192.0.2.1 0 typ host",
    ]
    assert usable_candidates(values) == [udp, "2 1 UDP 1 2001:db8::1 10 typ srflx"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "1 1 udp x 192.0.2.1 9 typ host",
        "1 1 udp 1 192.0.2.1 65536 typ host",
        "1 1 udp 1 192.0.2.1 9 host",
    ],
)
def test_junk_candidates(value):
    with pytest.raises(DescriptionError, match="a candidate is malformed"):
        usable_candidates([value])


async def test_lines_taken_out_and_changed_never_raise_anything_else():
    peer, text = await offer_for()
    await peer.close()
    lines, reasons = text.splitlines(), []
    for index, line in enumerate(lines):
        for changed in (
            [],
            [line[: len(line) // 2]],
            [line, line],
            [line.replace(" ", "  ")],
            [line + " " + "9" * 30],
        ):
            try:
                parsed = Offer.parse("\r\n".join([*lines[:index], *changed, *lines[index + 1 :]]))
                for choice in choices(parsed):
                    assert offer_for_aiortc(parsed, choice).startswith("v=0")
            except DescriptionError as error:
                reasons.append(str(error))
    assert max(map(len, reasons)) < 200


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_is_an_offer_or_none(text):
    for whole in (text, f"v=0\r\n{text}", f"v=0\r\nm=video 9 A 97\r\na={text}"):
        with pytest.raises(DescriptionError):  # a fingerprint is not guessed
            choices(Offer.parse(whole))


@pytest.mark.parametrize(
    "foreign",
    [
        ("m=x-foo 9 a/b 1", "mid:x"),
        ("m=message 9 TCP/MSRP.x *", "mid:x"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF abc", "mid:x", *TRANSPORT, "recvonly"),
        ("m=audio 9 UDP/BFCP 111", "mid:x", *TRANSPORT, "rtpmap:111 opus/48000/2"),
        ("m=application 9 DTLS/SCTP 5000", "mid:x"),
    ],
)
async def test_foreign_sections_are_turned_down_alone(foreign):
    text = offer(foreign, video("97 VP8", mid="v"), session=["group:BUNDLE x v"])
    first, second = sections_of(await answered(text))
    assert first.split()[1] == "0"
    assert second.split()[1] != "0"


async def test_bundle_keeps_the_order_of_the_offer():
    """Its first name tells whose transport is used (RFC 9143, section 7.3)."""
    sound = ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "mid:a", *TRANSPORT, "rtpmap:111 opus/48000/2")
    text = offer(sound, video("97 VP8", mid="v"), session=["group:BUNDLE v a"])
    assert "a=group:BUNDLE v a\r\n" in await answered(text)


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\x0b", "\x0c", "\x1c"])
def test_lines_end_as_sdp_has_it(separator):
    text = offer(video("97 VP8")).replace("s=-", f"s=a{separator}b")
    assert chosen(text) == [("VP8", 97)]
    assert chosen(text.replace("\r\n", "\n")) == [("VP8", 97)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            offer(video("97 VP8", mid="v"), ("m=audio 0 RTP/AVP 0", "mid:v")),
            "two sections have the same a=mid",
        ),
        (
            offer(video("97 VP8")).replace("UDP/TLS/RTP/SAVPF", "UDP/DTLS/SCTP"),
            "video is sent by UDP/TLS/RTP/SAVPF, got UDP/DTLS/SCTP",
        ),
        (offer(video("97 VP8")).replace("/90000", "/" + "9" * 5000), "none of the codecs"),
        (offer(video("97 VP8")).replace("/90000", "/\u0669"), "none of the codecs"),
        (offer(video("97 VP8")).replace("m=video 9", "m=video \u0669"), "not the start of a"),
    ],
)
def test_numbers_and_names_that_are_none(text, reason):
    with pytest.raises(DescriptionError, match=reason):
        choices(Offer.parse(text))


def test_many_lines_of_feedback_take_no_time():
    numbers = " ".join(map(str, range(128)))
    section = (f"m=video 9 UDP/TLS/RTP/SAVPF {numbers}", "recvonly", *TRANSPORT)
    text = offer((*section, "rtpmap:97 VP8/90000", *["rtcp-fb:* x"] * 950, *["rtcp-fb:97 y"] * 900))
    began = time.perf_counter()
    (choice,) = choices(Offer.parse(text))
    assert time.perf_counter() - began < 0.05
    assert choice.format.feedback == ("y", "x")


@pytest.mark.parametrize(
    ("session", "expected"), [([], {"v"}), (["group:BUNDLE a v"], {"a", "v"}), (["x"], {"v"})]
)
def test_sections_that_share_the_transport(session, expected):
    sound = ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "mid:a", *TRANSPORT, "rtpmap:111 opus/48000/2")
    parsed = Offer.parse(offer(sound, video("97 VP8", mid="v"), session=session))
    assert parsed.transport_mids == expected


SOUND = (
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 0",
    "rtpmap:111 opus/48000/2",
    "rtpmap:0 PCMU/8000",
    "rtcp-mux",
    "mid:1",
)


def with_sound(*attributes, sound=SOUND, group="group:BUNDLE 0 1"):
    return offer(video("97 VP8"), (*sound, *attributes), session=(group,))


async def answered_with_sound(text, ssrc=77):
    """Return the sections of the answer, and of the offer the format of the sound."""
    return sections_of(await answered(text, ssrc)), Offer.parse(text).sound_format


@pytest.mark.parametrize("direction", ["recvonly", "sendrecv"])
async def test_sound_is_sent_in_the_video_s_transport(direction):
    (pictures, sound), form = await answered_with_sound(with_sound(direction))
    assert form.payload_type == 111
    lines = sound.splitlines()
    assert re.fullmatch(r"m=audio \d+ UDP/TLS/RTP/SAVPF 111", lines[0])
    assert {"a=sendonly", "a=mid:1", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2"} <= set(lines)
    video_lines = pictures.splitlines()
    for start in ("a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:"):
        shared = [line for line in lines if line.startswith(start)]
        assert shared
        assert shared == [line for line in video_lines if line.startswith(start)]
    # Receivers keep in time what is of one stream, from one sender.
    (stream,) = re.findall(r"a=msid:(\S+) sound", sound)
    assert re.findall(r"a=msid:(\S+) ", pictures) == [stream]
    (cname,) = re.findall(r"a=ssrc:77 cname:(\S+)", sound)
    assert set(re.findall(r"cname:(\S+)", pictures)) == {cname}


@pytest.mark.parametrize(
    "text",
    [
        with_sound("sendonly"),
        with_sound("inactive"),
        with_sound("recvonly", group="group:BUNDLE 0"),  # a transport of its own
        with_sound("recvonly", sound=(SOUND[0], "rtpmap:111 opus/16000/2", *SOUND[2:])),
        with_sound("recvonly", sound=("m=audio 0 UDP/TLS/RTP/SAVPF 111", *SOUND[1:])),
        with_sound(
            "recvonly",
            sound=("m=audio 9 UDP/TLS/RTP/SAVPF 72 0", "rtpmap:72 opus/48000/2", *SOUND[2:]),
        ),
        with_sound("recvonly", sound=("m=audio 9 UDP/TLS/RTP/SAVPF 0", *SOUND[2:])),
    ],
)
async def test_sound_is_sent_only_where_it_is_asked_for_and_can_be_heard(text):
    (_, sound), form = await answered_with_sound(text, ssrc=None)
    assert form is None
    assert "a=inactive" in sound

import asyncio
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from aiortc import RTCCertificate, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import generate_certificate
from cryptography.hazmat.primitives.asymmetric import rsa
from playing import SDP, make_item, make_server, offer_for
from waiting import until
from yarl import URL

from encoder.common.errors import SettingsError
from player.rtc import ice as ice_module
from player.rtc.aioice_hooks import HostAddresses, host_addresses
from player.rtc.ice import Ice
from player.rtc.peer_connection import self_test
from player.server import sessions as sessions_module
from player.server.app import _url
from player.server.app_keys import SESSIONS
from player.server.auth import Access
from player.server.limits import Limits
from player.server.sessions import Sessions


@pytest.fixture
async def client(aiohttp_client, tiny_clip):
    return await aiohttp_client(
        make_server([make_item(tiny_clip), make_item(tiny_clip, "a b#é?c")])
    )


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_viewer_receives_the_clip(client, codec):
    peer, offer = await offer_for(codec)
    tracks = []
    peer.on("track", tracks.append)
    response = await client.post("/whep/tiny", data=offer, headers=SDP)
    answer = await response.text()
    assert response.status == 201
    assert response.content_type == "application/sdp"
    assert f"{codec}/90000" in answer
    assert "127.0.0.1" in answer
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    frames = [await asyncio.wait_for(tracks[0].recv(), 20) for _ in range(10)]
    assert all((frame.width, frame.height) == (26, 20) for frame in frames)
    location = response.headers["Location"]
    assert (await client.delete(location)).status == 200
    assert (await client.delete(location)).status == 404
    await peer.close()
    state = await (await client.get("/api/clips/tiny")).json()
    assert state["viewers"] == 0


async def test_offer_of_sound_besides_is_answered_with_video(aiohttp_client, tiny_clip):
    """As many players offer both."""
    client = await aiohttp_client(
        make_server([make_item(tiny_clip)], ice=Ice.parse(public_ip="192.0.2.9"))
    )
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in ("audio", "video"):
        peer.addTransceiver(kind, direction="recvonly")
    tracks = []
    peer.on("track", tracks.append)
    await peer.setLocalDescription(await peer.createOffer())
    response = await client.post("/whep/tiny", data=peer.localDescription.sdp, headers=SDP)
    answer = await response.text()
    assert answer.count("a=ice-ufrag:") == answer.count("m=") == 2
    assert " 192.0.2.9 " in answer
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    (video,) = (track for track in tracks if track.kind == "video")
    assert (await asyncio.wait_for(video.recv(), 20)).width == 26
    session = response.headers["Location"].split("/")[-1]
    assert (await client.get(f"/api/sessions/{session}")).status == 200
    assert (await client.get("/metrics")).status == 200
    await peer.close()


class RsaCertificate(RTCCertificate):
    def _create_ssl_context(self, **settings):
        context = super()._create_ssl_context(**settings)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
        return context


@pytest.mark.parametrize(("theirs", "ours"), [("actpass", "passive"), ("passive", "active")])
async def test_viewer_with_an_rsa_certificate(client, monkeypatch, theirs, ours):
    """As GStreamer's, whichever end begins the handshake."""
    key = rsa.generate_private_key(65537, 2048)
    with monkeypatch.context() as patched:
        certificate = RsaCertificate(key, generate_certificate(key))
        patched.setattr(RTCCertificate, "generateCertificate", lambda: certificate)
        peer, offer = await offer_for("H264")
    tracks = []
    peer.on("track", tracks.append)
    offer = offer.replace("a=setup:actpass", f"a=setup:{theirs}")
    answer = await (await client.post("/whep/tiny", data=offer, headers=SDP)).text()
    assert f"a=setup:{ours}" in answer
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    assert (await asyncio.wait_for(tracks[0].recv(), 20)).width == 26
    await peer.close()


async def test_h264_is_preferred(client):
    peer, offer = await offer_for()
    answer = await (await client.post("/whep/tiny", data=offer, headers=SDP)).text()
    await peer.close()
    assert "H264" in answer
    assert "VP8" not in answer


async def test_receivers_can_ask_for_a_key_frame(client):
    peer, offer = await offer_for("H264")
    await client.post("/whep/tiny", data=offer, headers=SDP)
    (session,) = client.app[SESSIONS]._sessions.values()
    (transceiver,) = session.connection.getTransceivers()
    assert transceiver.sender._send_keyframe == session.viewer.picture_lost
    await peer.close()


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        ("v=0", {"Content-Type": "text/plain"}, 415, "the offer must be application/sdp"),
        ("", SDP, 400, "an offer begins with v=0"),
        ("garbage", SDP, 400, "an offer begins with v=0"),
        ("H264/90000 H264/90000", SDP, 400, "an offer begins with v=0"),
        (
            "v=0\r\nm=video 9 UDP 96\r\na=rtpmap:96 H264/90000\r\n",
            SDP,
            400,
            "the offer lacks a=rtcp-mux",
        ),
        (
            "v=0\r\nm=audio 9 UDP 96\r\na=rtpmap:96 opus/48000\r\n",
            SDP,
            400,
            "offer asks for no video",
        ),
        (b"\xff\xfe", SDP, 400, "the body is not text"),
    ],
)
async def test_bad_offers(client, body, headers, status, reason):
    response = await client.post("/whep/tiny", data=body, headers=headers)
    assert response.status == status
    assert reason in (await response.json())["error"]


async def test_offers_with_a_line_missing_never_crash_the_server(client):
    peer, offer = await offer_for()
    await peer.close()
    lines = offer.splitlines()
    for index in range(len(lines)):
        damaged = "\r\n".join(lines[:index] + lines[index + 1 :]) + "\r\n"
        response = await client.post("/whep/tiny", data=damaged, headers=SDP)
        assert response.status in (201, 400), lines[index]
        if response.status == 201:
            await client.delete(response.headers["Location"])


async def test_offer_that_is_too_long(client):
    response = await client.post("/whep/tiny", data="x" * 100_000, headers=SDP)
    assert response.status == 413


async def test_counter_offer_is_open_for_longer_than_a_connection(client, monkeypatch):
    """30 seconds (draft-ietf-wish-whep, section 4.2); then the viewer has as long to connect as any other."""
    assert sessions_module.COUNTER_OFFER_SECONDS == 30
    monkeypatch.setattr(sessions_module, "COUNTER_OFFER_SECONDS", 0.5)
    monkeypatch.setattr(sessions_module, "CONNECT_SECONDS", 0.1)
    peer, offer = await offer_for()
    await peer.close()
    text = offer.replace("H264/90000", "AV1/90000").replace("VP8/90000", "VP9/90000")
    response = await client.post("/whep/tiny", data=text, headers=SDP)
    assert response.status == 406
    await asyncio.sleep(0.3)
    assert len(client.app[SESSIONS]) == 1
    await until(lambda: len(client.app[SESSIONS]) == 0)


async def test_offer_without_a_codec_of_ours(client):
    peer, offer = await offer_for()
    await peer.close()
    response = await client.post(
        "/whep/tiny",
        data=offer.replace("H264/90000", "AV1/90000").replace("VP8/90000", "VP9/90000"),
        headers=SDP,
    )
    assert (response.status, response.headers["Content-Type"]) == (406, "application/sdp")
    counter = await response.text()
    assert "i=offer has none of the codecs H264, VP8\r\n" in counter
    # It may be answered instead.
    answering, tracks = RTCPeerConnection(RTCConfiguration(iceServers=[])), []
    answering.on("track", tracks.append)
    await answering.setRemoteDescription(RTCSessionDescription(counter, "offer"))
    await answering.setLocalDescription(await answering.createAnswer())
    location = response.headers["Location"]
    answer = answering.localDescription.sdp
    fragment = {"Content-Type": "application/trickle-ice-sdpfrag"}
    candidate = "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host"
    assert (await client.patch(location, data=candidate, headers=fragment)).status == 409
    assert (await client.patch(location, data="v=0", headers=SDP)).status == 400
    assert (await client.patch(location, data=answer, headers=SDP)).status == 204
    frame = await asyncio.wait_for(tracks[0].recv(), 20)
    assert (frame.width, frame.height) == (26, 20)
    assert (await client.patch(location, data=answer, headers=SDP)).status == 409
    await answering.close()


@pytest.mark.parametrize(
    ("limits", "status", "reason"),
    [
        (Limits(viewers=1), 503, "too many viewers"),
        (Limits(per_address=1), 429, "too many viewers from this address"),
    ],
)
async def test_too_many_viewers(aiohttp_client, tiny_clip, limits, status, reason):
    client = await aiohttp_client(make_server([make_item(tiny_clip)], limits=limits))
    peer, offer = await offer_for()
    first, second = [await client.post("/whep/tiny", data=offer, headers=SDP) for _ in range(2)]
    await peer.close()
    assert (first.status, second.status) == (201, status)
    assert (await second.json())["error"] == reason
    assert second.headers["Retry-After"] == "10"
    await client.delete(first.headers["Location"])
    assert (await client.post("/whep/tiny", data=offer, headers=SDP)).status == 201


async def test_viewer_who_never_connects_is_forgotten(client, monkeypatch):
    monkeypatch.setattr(sessions_module, "CONNECT_SECONDS", 0.05)
    peer, offer = await offer_for()
    location = (await client.post("/whep/tiny", data=offer, headers=SDP)).headers["Location"]
    await until(lambda: len(client.app[SESSIONS]) == 0)
    assert (await client.delete(location)).status == 404
    await peer.close()


async def test_clips_are_listed(client):
    clip, other, both = await (await client.get("/api/clips")).json()
    assert other["name"] == "a b#é?c"
    assert both["name"] == "all clips"
    assert both["playlist"] == ["tiny", "a b#é?c"]
    assert clip.pop("weights") > 1000
    assert clip == {
        "name": "tiny",
        "title": "",
        "language": "",
        "date": "",
        "chapters": [],
        "subtitles": [],
        "rungs": [],
        "width": 26,
        "height": 19,
        "frames": 6,
        "fps": 25.0,
        "file_bytes": 1234,
        "bits_per_pixel": 8 * 1234 / (6 * 26 * 19),
        "continuous": True,
        "settings": "--preset test",
        "playlist": None,
    }


async def test_controls(client):
    state = await (
        await client.post("/api/clips/tiny", json={"playing": False, "loop": False, "frame": 3})
    ).json()
    assert (state["playing"], state["loop"], state["frame"]) == (False, False, 3)
    state = await (await client.get("/api/clips/tiny")).json()
    assert (state["playing"], state["loop"], state["frame"]) == (False, False, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"frame": 5.5}, r"frame must be a number in 0..5"),
        ({"frame": -1}, r"frame must be a number in 0..5"),
        ({"frame": True}, "frame must be a number in 0..5"),
        ({"frame": float("nan")}, "frame must be a number in 0..5"),
        ({"frame": 10**400}, "frame must be a number in 0..5"),
        ({"playing": 1}, "playing must be true or false"),
        ({"speed": 0}, "speed must be a number in 0.1..8"),
        ({"speed": "fast"}, "speed must be a number in 0.1..8"),
        ({"step": 0.5}, "step must be a whole number of frames"),
        ({"step": 10**9}, "step must be a number in -1e+06..1e+06"),
        ({"item": "tiny", "loop": None}, "loop must be true or false"),
        ({"item": "../tiny"}, "item must be one of the playlist's clips"),
        ({"item": ["tiny"]}, "item must be one of the playlist's clips"),
        ({"volume": 1}, "unknown key 'volume', known are: item, frame, playing, loop, speed, step"),
        ([1], "the body is not a JSON object"),
    ],
)
async def test_bad_controls(client, body, reason):
    response = await client.post("/api/clips/tiny", json=body)
    assert response.status == 400
    assert (await response.json())["error"] == reason


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 60_000, b"1" * 5000])
async def test_controls_that_are_no_json(client, data):
    response = await client.post(
        "/api/clips/tiny", data=data, headers={"Content-Type": "application/json"}
    )
    assert response.status == 400


async def test_charset_that_does_not_exist(client):
    for path, kind in (("/api/clips/tiny", "application/json"), ("/whep/tiny", "application/sdp")):
        response = await client.post(
            path, data=b"x", headers={"Content-Type": f"{kind}; charset=bogus"}
        )
        assert response.status == 400


async def test_wrong_method_names_the_right_ones(client):
    response = await client.put("/whep/tiny")
    assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD,OPTIONS,POST")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_players_find_out_what_an_address_is(client, method):
    response = await client.request(method, "/whep/tiny")
    assert (response.status, response.headers["Content-Type"], await response.read()) == (
        200,
        "application/sdp",
        b"",
    )
    assert (await client.request(method, "/whep/nope")).status == 404
    peer, offer = await offer_for()
    session = (await client.post("/whep/tiny", data=offer, headers=SDP)).headers["Location"]
    response = await client.request(method, session)
    assert (response.status, await response.read()) == (204, b"")
    await peer.close()


async def test_players_that_know_an_address_alone_keep_its_token(aiohttp_client, tiny_clip):
    client = await aiohttp_client(
        make_server([make_item(tiny_clip)], access=Access(token="long enough & odd"))
    )
    peer, offer = await offer_for()
    path = URL("/whep/tiny").with_query(token="long enough & odd")
    response = await client.post(path, data=offer, headers=SDP)
    assert (response.status, response.headers["Content-Type"]) == (201, "application/sdp")
    assert (await client.delete(URL(response.headers["Location"], encoded=True))).status == 200
    await peer.close()


async def test_session_of_a_clip_with_any_name_can_be_ended(client):
    peer, offer = await offer_for()
    response = await client.post(
        URL("/whep/a%20b%23%C3%A9%3Fc", encoded=True), data=offer, headers=SDP
    )
    assert (await client.delete(URL(response.headers["Location"], encoded=True))).status == 200
    await peer.close()


@pytest.mark.parametrize(
    "profile",
    [
        "profile-level-id=f4001f;packetization-mode=1",
        "profile-level-id=42e01f;packetization-mode=0",
    ],
)
async def test_h264_of_another_profile_falls_back_to_vp8(client, profile):
    peer, offer = await offer_for()
    await peer.close()
    lines = [
        f"a=fmtp:{line.split()[0][7:]} {profile}" if "profile-level-id" in line else line
        for line in offer.splitlines()
    ]
    response = await client.post("/whep/tiny", data="\r\n".join(lines) + "\r\n", headers=SDP)
    assert response.status == 201
    assert "VP8/90000" in await response.text()
    assert len(client.app[SESSIONS]) == 1


@pytest.mark.parametrize("stun", ["stun.example.org", "turn:example.org", "stun:example.org:99999"])
def test_what_is_no_stun_server(stun):
    with pytest.raises(SettingsError, match="a STUN server is named like stun:"):
        Ice.parse(stun=stun)


@pytest.mark.parametrize(
    "turn",
    ["turn:example.org", "turn:user@example.org", "stun:a:b@example.org", "turn:a:b@example.org:0"],
)
def test_what_is_no_turn_server(turn):
    with pytest.raises(SettingsError, match=r"a TURN server is named like turns?:USER:PASSWORD@"):
        Ice.parse(turn=turn)


def test_what_is_no_public_address():
    with pytest.raises(
        SettingsError, match=r"the public address must be an IPv4 address, got 'example.org'"
    ):
        Ice.parse(public_ip="example.org")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
    ],
)
def test_url_is_one_that_a_browser_takes(address, url):
    assert str(_url(address, 80)).rstrip("/") in (url, url.removesuffix(":80"))


async def test_form_of_another_site_is_refused(client):
    response = await client.post("/api/clips/tiny", data={"frame": "1"})
    assert response.status == 415


@pytest.mark.parametrize("path", ["/api/clips/nope", "/nope", "/static/"])
async def test_unknown_paths(client, path):
    response = await client.get(path)
    assert response.status in (403, 404)
    assert "error" in await response.json()


@pytest.mark.parametrize(
    "path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/%2e%2e%2fserver.py"]
)
async def test_files_beside_the_page_are_not_served(client, path):
    response = await client.get(URL(path, encoded=True))
    assert response.status in (403, 404)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/static/app.js", "javascript"), ("/static/icon.svg", "image/svg+xml")],
)
async def test_page(client, path, kind):
    response = await client.get(path)
    assert response.status == 200
    assert kind in response.content_type


async def test_no_stun_server_unless_told(monkeypatch):
    seen = []

    class Connection(AsyncMock):
        def __init__(self, configuration):
            super().__init__()
            seen.append([server.urls for server in configuration.iceServers])
            raise ZeroDivisionError

    monkeypatch.setattr(sessions_module, "RTCPeerConnection", Connection)
    peer, offer = await offer_for()
    await peer.close()
    told = Ice.parse(stun="stun:localhost:3478", turn="turn:me:secret@localhost")
    for ice, answers in ((Ice.parse(), False), (told, False), (told, True)):
        ice.answers = dict.fromkeys(("stun:localhost:3478", "turn:localhost"), answers)
        with pytest.raises(ZeroDivisionError):
            await Sessions(ice=ice).open(offer, AsyncMock(), address="")
    # One that is silent would hold up each answer.
    assert seen == [[], [], ["stun:localhost:3478", "turn:localhost"]]


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("server", "kind"),
    [
        ({"stun": "stun:localhost:3478"}, "srflx"),
        ({"turn": "turn:me:secret@localhost:3478"}, "relay"),
    ],
)
async def test_servers_are_asked_in_the_background(monkeypatch, answers, server, kind):
    asked = []

    class Asking(AsyncMock):
        def __init__(self, *, stun_server=None, turn_server=None, **_):
            super().__init__()
            assert (stun_server or turn_server) == ("localhost", 3478)
            asked.append(kind)
            self.local_candidates = [SimpleNamespace(type=kind)] if answers else []

    monkeypatch.setattr(ice_module.aioice, "Connection", Asking)
    ice = Ice.parse(**server)
    assert ice.configuration.iceServers == []
    asking = asyncio.create_task(ice.keep_asking())
    await until(lambda: asked and len(ice.configuration.iceServers) == answers)
    asking.cancel()


async def test_this_aiortc_is_supported():
    with host_addresses(HostAddresses("127.0.0.1")):
        assert await self_test() is None


@pytest.mark.parametrize("name", ["_handle_rtcp_packet", "_ssrc"])
async def test_another_aiortc_is_noticed_at_the_start(monkeypatch, name):
    monkeypatch.setattr(f"aiortc.RTCRtpSender.{name}", property(), raising=False)
    with pytest.raises(SettingsError, match="this version of aiortc is not supported"):
        await self_test()


async def test_aiortc_that_asks_another_way_is_noticed_at_the_start(monkeypatch):
    async def ignore(self, packet):
        pass

    monkeypatch.setattr("aiortc.RTCRtpSender._handle_rtcp_packet", ignore)
    with pytest.raises(SettingsError, match="this version of aiortc is not supported"):
        await self_test()


async def test_aioice_that_finds_addresses_by_itself_is_noticed_at_the_start(monkeypatch):
    async def gather(connection):
        connection._local_candidates = [SimpleNamespace(host="192.0.2.1")]

    monkeypatch.setattr("aioice.Connection.gather_candidates", gather)
    with pytest.raises(SettingsError, match="this version of aiortc is not supported"):
        await self_test()

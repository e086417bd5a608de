import asyncio
from unittest.mock import AsyncMock

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from yarl import URL

from encoder.codec.errors import SettingsError
from export.engines import open_engine
from player import sessions as sessions_module
from player.server import SESSIONS, _url, make_app
from player.sessions import Sessions, _reachable
from player.stream import Stream

pytestmark = pytest.mark.alone

SDP = {"Content-Type": "application/sdp"}


@pytest.fixture
async def client(aiohttp_client, tiny_clip):
    def stream():
        return Stream(tiny_clip, lambda: open_engine(tiny_clip, "onnxruntime-cpu", batch=2), file_bytes=1234)

    streams = {"tiny": stream(), "a b#é?c": stream()}
    return await aiohttp_client(make_app(streams, Sessions(host="127.0.0.1")))


@pytest.fixture(autouse=True)
def _own_addresses(monkeypatch):
    """Give aioice its own list of addresses back after each test."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", sessions_module.INTERFACE_ADDRESSES)


async def offer_for(codec=None):
    """Return a peer that wants to receive, and its offer, of one codec or of all."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = peer.addTransceiver("video", direction="recvonly")
    if codec is not None:
        known = RTCRtpReceiver.getCapabilities("video").codecs
        transceiver.setCodecPreferences([c for c in known if c.mimeType == f"video/{codec}"])
    await peer.setLocalDescription(await peer.createOffer())
    return peer, peer.localDescription.sdp


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
    assert transceiver.sender._send_keyframe == session.viewer.request_keyframe
    await peer.close()


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        ("v=0", {"Content-Type": "text/plain"}, 415, "the offer must be application/sdp"),
        ("garbage", SDP, 400, "none of the codecs"),
        ("H264/90000 H264/90000", SDP, 400, "offer cannot be answered"),
        ("v=0\r\nm=video 9 UDP 96\r\na=rtpmap:96 H264/90000\r\n", SDP, 400, "offer cannot be answered"),
        (b"\xff\xfe", SDP, 400, "the offer is not text"),
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


async def test_too_many_viewers(client, monkeypatch):
    monkeypatch.setattr(sessions_module, "MAX_VIEWERS", 0)
    peer, offer = await offer_for()
    response = await client.post("/whep/tiny", data=offer, headers=SDP)
    await peer.close()
    assert response.status == 503
    assert response.headers["Retry-After"] == "10"


async def test_viewer_who_never_connects_is_forgotten(client, monkeypatch):
    monkeypatch.setattr(sessions_module, "CONNECT_SECONDS", 0.05)
    peer, offer = await offer_for()
    location = (await client.post("/whep/tiny", data=offer, headers=SDP)).headers["Location"]
    await asyncio.sleep(0.3)
    assert (await client.delete(location)).status == 404
    await peer.close()


async def test_clips_are_listed(client):
    clip, other = await (await client.get("/api/clips")).json()
    assert other["name"] == "a b#é?c"
    assert clip == {
        "name": "tiny",
        "width": 26,
        "height": 19,
        "frames": 6,
        "fps": 25.0,
        "file_bytes": 1234,
        "bits_per_pixel": 8 * 1234 / (6 * 26 * 19),
    }


async def test_controls(client):
    state = await (await client.post("/api/clips/tiny", json={"playing": False, "loop": False, "frame": 3})).json()
    assert (state["playing"], state["loop"], state["frame"]) == (False, False, 3)
    state = await (await client.get("/api/clips/tiny")).json()
    assert (state["playing"], state["loop"], state["frame"]) == (False, False, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"frame": 6}, r"frame must be in 0..5"),
        ({"frame": -1}, r"frame must be in 0..5"),
        ({"frame": True}, "frame must be of type int"),
        ({"playing": 1}, "playing must be of type bool"),
        ({"volume": 1}, "unknown key 'volume', known are: playing, loop, frame"),
        ([1], "the body is not a JSON object"),
    ],
)
async def test_bad_controls(client, body, reason):
    response = await client.post("/api/clips/tiny", json=body)
    assert response.status == 400
    assert (await response.json())["error"] == reason


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 60_000, b"1" * 5000])
async def test_controls_that_are_no_json(client, data):
    response = await client.post("/api/clips/tiny", data=data, headers={"Content-Type": "application/json"})
    assert response.status == 400


async def test_charset_that_does_not_exist(client):
    for path, kind in (("/api/clips/tiny", "application/json"), ("/whep/tiny", "application/sdp")):
        response = await client.post(path, data=b"x", headers={"Content-Type": f"{kind}; charset=bogus"})
        assert response.status == 400


async def test_wrong_method_names_the_right_ones(client):
    response = await client.get("/whep/tiny")
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_session_of_a_clip_with_any_name_can_be_ended(client):
    peer, offer = await offer_for()
    response = await client.post(URL("/whep/a%20b%23%C3%A9%3Fc", encoded=True), data=offer, headers=SDP)
    assert (await client.delete(URL(response.headers["Location"], encoded=True))).status == 200
    await peer.close()


@pytest.mark.parametrize(
    "profile", ["profile-level-id=640028;packetization-mode=1", "profile-level-id=42e01f;packetization-mode=0"]
)
async def test_h264_of_another_profile_falls_back_to_vp8(client, profile):
    peer, offer = await offer_for()
    await peer.close()
    lines = [f"a=fmtp:{line.split()[0][7:]} {profile}" if "profile-level-id" in line else line for line in offer.splitlines()]
    response = await client.post("/whep/tiny", data="\r\n".join(lines) + "\r\n", headers=SDP)
    assert response.status == 201
    assert "VP8/90000" in await response.text()
    assert len(client.app[SESSIONS]) == 1


@pytest.mark.parametrize("stun", ["stun.example.org", "turn:example.org", "stun:example.org:99999"])
def test_what_is_no_stun_server(stun):
    with pytest.raises(SettingsError, match="a STUN server is named like stun:"):
        Sessions(host="127.0.0.1", stun=stun)


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


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/%2e%2e%2fserver.py"])
async def test_files_beside_the_page_are_not_served(client, path):
    response = await client.get(URL(path, encoded=True))
    assert response.status in (403, 404)


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/static/app.js", "javascript"), ("/static/icon.svg", "image/svg+xml")]
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
    for sessions in (Sessions(host="127.0.0.1"), Sessions(host="127.0.0.1", stun="stun:localhost:3478")):
        with pytest.raises(ZeroDivisionError):
            await sessions.open("a=rtpmap:96 H264/90000", AsyncMock(viewer=lambda codec: None))
    assert seen == [[], ["stun:localhost:3478"]]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", ["127.0.0.1"]), ("192.0.2.7", ["192.0.2.7"]), ("0.0.0.0", ["127.0.0.1", "192.0.2.1"])],
)
def test_addresses_that_are_offered_are_those_bound(monkeypatch, host, expected):
    monkeypatch.setattr(sessions_module, "INTERFACE_ADDRESSES", lambda **_: ["192.0.2.1"])
    Sessions(host=host)
    assert sessions_module.aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=True) == expected


def test_another_aiortc_is_noticed_at_the_start(monkeypatch):
    monkeypatch.delattr("aiortc.RTCRtpSender._send_keyframe")
    with pytest.raises(SettingsError, match="this version of aiortc is not supported"):
        Sessions(host="127.0.0.1")


def test_unreachable_candidates_are_left_out():
    lines = [
        "v=0",
        "a=candidate:1 1 udp 1 1f0e-42.local 9 typ host",
        "a=candidate:2 1 udp 1 192.0.2.1 9 typ host",
        "a=end-of-candidates",
    ]
    assert _reachable("\r\n".join(lines)) == "v=0\r\na=candidate:2 1 udp 1 192.0.2.1 9 typ host\r\n"

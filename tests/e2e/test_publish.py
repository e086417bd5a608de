"""The WHIP client, against a small media server."""

import asyncio
import contextlib

import numpy as np
import pytest
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from golden import DATA
from helpers import fit_clip
from playing import make_item, player_threads
from waiting import until
from yarl import URL

from encoder.codec.clip import Clip
from encoder.common.errors import EngineError
from encoder.media.metrics import psnr_db
from export.engines.registry import open_engine
from player import whip_client as publish_module
from player.cli.publish import parse_endpoint
from player.metrics import Metrics
from player.playback.playout import Playout
from player.rtc.aioice_hooks import HostAddresses, host_addresses
from player.rtc.i420 import i420_frame
from player.rtc.ice import Ice
from player.rtc.sound_offer import without_sound
from player.whip_client import PublishError, publish


class MediaServer:
    """Takes WHIP offers; `answers` says with what the next ones are refused."""

    pieces = 1
    """Parts in which an answer is sent."""

    def __init__(self):
        self.answers, self.requests, self.peers, self.tracks = [], [], [], []
        self.paths = []
        self.received = asyncio.Event()

    def app(self):
        app = web.Application()
        app.router.add_post("/whip/{room}", self.take)
        app.router.add_delete("/session/{name}", self.end)
        app.router.add_post("/elsewhere", self.redirect)
        app.router.add_post("/round", self.go_round)
        app.router.add_delete("/hangs", self.hang)
        return app

    async def go_round(self, request):
        self.requests.append(("POST", request.headers.get("Authorization"), request.content_type))
        raise web.HTTPTemporaryRedirect("/round")

    async def hang(self, _):
        self.requests.append("hangs")
        await asyncio.sleep(60)

    async def redirect(self, _):
        raise web.HTTPTemporaryRedirect("/whip/room")

    async def take(self, request):
        self.requests.append(("POST", request.headers.get("Authorization"), request.content_type))
        if self.answers:
            return self.answers.pop(0)
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.peers.append(peer)
        peer.on("track", self.tracks.append)
        await peer.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        self.received.set()
        headers = {"Location": f"../session/{len(self.peers)}"}
        answer = peer.localDescription.sdp.encode()
        response = web.StreamResponse(
            status=201, headers={**headers, "Content-Type": "application/sdp"}
        )
        response.content_length = len(answer)
        await response.prepare(request)
        size = -(-len(answer) // self.pieces)
        for start in range(0, len(answer), size):
            await response.write(answer[start : start + size])
            await asyncio.sleep(0.05)
        return response

    async def end(self, request):
        self.paths.append(request.raw_path)
        self.requests.append(
            ("DELETE", request.headers.get("Authorization"), request.match_info["name"])
        )
        return web.Response()

    async def frames(self, count):
        await asyncio.wait_for(self.received.wait(), 20)
        return [await asyncio.wait_for(self.tracks[-1].recv(), 20) for _ in range(count)]


@pytest.fixture
async def server():
    with host_addresses(HostAddresses("127.0.0.1")):
        server = MediaServer()
        yield server
        await asyncio.gather(*(peer.close() for peer in server.peers))


@pytest.fixture
async def begin(server, aiohttp_server, tiny_clip):
    """Return a function that publishes, and gives the task."""
    running = await aiohttp_server(server.app())
    stream = Playout([make_item(tiny_clip)], Metrics().of("tiny"))
    tasks = []

    def start(path="/whip/room", *, url=None, codec="H264", token=None, **how):
        url = URL(url or f"http://127.0.0.1:{running.port}{path}")
        how = {"retry_seconds": 0.1} | how
        tasks.append(
            asyncio.create_task(publish(stream, url, token=token, codec=codec, ice=Ice(), **how))
        )
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(stream.close)
    assert player_threads() == []


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_media_server_receives_the_clip_and_is_told_of_the_end(server, begin, codec):
    task = begin(codec=codec, token="a secret")
    frames = await server.frames(10)
    assert all((frame.width, frame.height) == (26, 20) for frame in frames)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert server.requests == [
        ("POST", "Bearer a secret", "application/sdp"),
        ("DELETE", "Bearer a secret", "1"),
    ]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_media_server_receives_the_pictures_as_they_are_decoded(
    server, aiohttp_server, codec
):
    clip = fit_clip("fast", frames=3, height=22, width=36)  # 4 * 5 + 2 rows
    running = await aiohttp_server(server.app())
    stream = Playout([make_item(clip, engine="onnxruntime-cpu")], Metrics().of("tiny"))
    stream.playing = False
    url = URL(f"http://127.0.0.1:{running.port}/whip/room")
    task = asyncio.create_task(publish(stream, url, token=None, codec=codec, ice=Ice()))
    frame = (await server.frames(10))[-1]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(stream.close)
    with contextlib.closing(open_engine(clip, "onnxruntime-cpu", batch=1)) as engine:
        expected = i420_frame(engine.frames(np.zeros(1))[0])
    assert (frame.width, frame.height) == (36, 22)
    assert psnr_db(frame.to_ndarray(format="rgb24"), expected.to_ndarray(format="rgb24")) > 35


async def test_redirection_is_followed(server, begin):
    begin("/elsewhere")
    assert len(await server.frames(3)) == 3
    assert server.requests == [("POST", None, "application/sdp")]


async def test_redirections_in_circles_end(server, begin):
    with pytest.raises(
        PublishError, match=r"http://127\.0\.0\.1:\d+/round redirects more than 5 times"
    ):
        await begin("/round")
    assert len(server.requests) == 6


@pytest.mark.parametrize("follows", [False, True])
async def test_token_goes_to_other_sites_only_if_told_so(begin, aiohttp_server, follows):
    other = MediaServer()
    running = await aiohttp_server(other.app())

    async def redirect(_):
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{running.port}/whip/room")

    app = web.Application()
    app.router.add_post("/elsewhere", redirect)
    first = await aiohttp_server(app)
    begin(
        url=f"http://127.0.0.1:{first.port}/elsewhere", token="a secret", follow_with_token=follows
    )
    await other.frames(3)
    assert other.requests == [("POST", "Bearer a secret" if follows else None, "application/sdp")]
    await asyncio.gather(*(peer.close() for peer in other.peers))


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_server_that_refuses_the_codec_is_told_of_the_other(server, begin, codec):
    answer = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=video 0 UDP/TLS/RTP/SAVPF 97\r\n"
    headers = {"Location": "/session/7?sig=%2Fa%2B", "Content-Type": "application/sdp"}
    server.answers = [web.Response(status=201, body=answer.encode(), headers=headers)]
    other = {"H264": "VP8", "VP8": "H264"}[codec]
    with pytest.raises(
        PublishError, match=f"the media server does not take {codec}: try --codec {other}"
    ):
        await begin(codec=codec)
    assert server.requests[-1] == ("DELETE", None, "7")


async def test_an_answer_of_another_status_is_taken_back(server, begin):
    headers = {"Location": "/session/7", "Content-Type": "application/sdp"}
    server.answers = [web.Response(status=200, body=b"v=0", headers=headers)]
    with pytest.raises(PublishError, match="the media server answers 200 OK"):
        await begin()
    assert server.requests[-1] == ("DELETE", None, "7")


async def test_leaving_takes_no_longer_than_two_seconds(server, begin):
    headers = {"Location": "/hangs", "Content-Type": "application/sdp"}
    server.answers = [web.Response(status=200, body=b"v=0", headers=headers)]
    began = asyncio.get_running_loop().time()
    with pytest.raises(PublishError):
        await begin()
    assert asyncio.get_running_loop().time() - began < 3
    assert server.requests[-1] == "hangs"


async def test_addresses_of_sessions_stay_as_they_are(server, begin):
    location = "/session/a%2Fb?sig=%2Bx%3D&empty="
    server.answers = [
        web.Response(
            status=200,
            body=b"v=0",
            headers={"Location": location, "Content-Type": "application/sdp"},
        )
    ]
    with pytest.raises(PublishError):
        await begin()
    assert server.requests[-1][0] == "DELETE"
    assert server.paths[-1] == location


@pytest.mark.parametrize(
    "location", ["mailto:somebody", "http://", "http://host:99999/", "ftp://host/7", "//"]
)
async def test_addresses_that_lead_nowhere_are_borne(server, begin, location):
    headers = {"Location": location, "Content-Type": "application/sdp"}
    server.answers = [web.Response(status=200, body=b"v=0", headers=headers)]
    with pytest.raises(PublishError, match="the media server answers 200 OK"):
        await begin()


async def test_an_address_that_is_none_is_a_reason_to_try_again(server, begin):
    headers = {"Location": "http://[::1/", "Content-Type": "application/sdp"}
    server.answers = [web.Response(status=200, body=b"v=0", headers=headers)]
    begin()
    assert len(await server.frames(3)) == 3
    assert [method for method, *_ in server.requests] == ["POST", "POST"]


async def test_lost_connection_is_made_anew(server, begin):
    begin()
    await server.frames(3)
    server.received.clear()
    await server.peers[0].close()
    await server.frames(3)
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 503, "headers": {"Retry-After": "0"}},
        {"status": 500},
        {"status": 429},
        {"status": 409},
    ],
)
async def test_refusal_that_may_pass_is_not_the_end(server, begin, caplog, refusal):
    server.answers = [web.Response(text="not\nnow", **refusal)]
    begin()
    await server.frames(3)
    assert f"the media server answers {refusal['status']} " in caplog.text
    assert "not now; trying again in" in caplog.text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            web.Response(status=401, text="who are you?"),
            "the media server answers 401 Unauthorized: who are you?",
        ),
        (web.Response(status=404), "the media server answers 404 Not Found"),
        (web.Response(status=200, text="<html>"), "the media server answers 200 OK: <html>"),
    ],
)
async def test_refusal_for_good_ends_it(server, begin, answer, reason):
    server.answers = [answer]
    with pytest.raises(PublishError) as caught:
        await asyncio.wait_for(begin(), 20)
    assert str(caught.value) == reason
    assert len(server.requests) == 1


async def test_answer_that_is_none_is_tried_again(server, begin, caplog):
    server.answers = [
        web.Response(status=201, text="v=0\r\nnonsense", content_type="application/sdp")
    ]
    begin()
    await server.frames(3)
    assert "the media server's answer cannot be used" in caplog.text


async def test_server_that_is_not_there_is_waited_for(begin, caplog, unused_tcp_port):
    begin(url=f"http://127.0.0.1:{unused_tcp_port}/whip?key=secret")
    told = f"cannot reach http://127.0.0.1:{unused_tcp_port}/whip"
    await until(lambda: caplog.text.count(told) >= 2)
    assert "secret" not in caplog.text


async def test_answer_that_is_no_http_is_told_without_the_secret(begin, caplog):
    async def answer(_, writer):
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as other:
        port = other.sockets[0].getsockname()[1]
        begin(url=f"http://127.0.0.1:{port}/whip?key=secret")
        told = f"cannot reach http://127.0.0.1:{port}/whip: the answer is broken"
        await until(lambda: told in caplog.text)
    assert "secret" not in caplog.text


async def test_answer_may_come_in_pieces(server, begin, monkeypatch):
    monkeypatch.setattr(MediaServer, "pieces", 3)
    begin()
    await server.frames(3)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("server")
async def test_connection_that_fails_is_no_success(begin, caplog, monkeypatch):
    """Else the waits would never become longer."""
    caplog.set_level("INFO")

    async def fail(self, _):
        self._RTCPeerConnection__connectionState = "failed"
        self.emit("connectionstatechange")

    class Failing(RTCPeerConnection):
        setRemoteDescription = fail  # noqa: N815

    monkeypatch.setattr(publish_module, "RTCPeerConnection", Failing)
    begin(retry_seconds=0.05)
    for seconds in ("0.05", "0.1", "0.2"):
        told = f"no connection to the media server; trying again in {seconds} s"
        await until(lambda told=told: told in caplog.text)
    assert "publishing" not in caplog.text


async def test_stream_that_ends_ends_it(server, begin):
    task = begin()
    await server.frames(1)
    stream = task.get_coro().cr_frame.f_locals["stream"]

    def fail(_):
        raise EngineError("no engine today")

    stream.source.open_engine = fail
    stream.play_source(0)
    with pytest.raises(PublishError, match="no engine today"):
        await asyncio.wait_for(task, 20)


async def test_token_is_not_sent_to_whom_a_location_leads(server, begin):
    task = begin(token="a secret")
    await server.frames(1)
    (publication,) = (
        value
        for value in task.get_coro().cr_frame.f_locals.values()
        if isinstance(value, publish_module._Publication)
    )
    publication._resource = publication._resource.with_host("localhost")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.requests == [
        ("POST", "Bearer a secret", "application/sdp"),
        ("DELETE", None, "1"),
    ]


@pytest.mark.parametrize(
    ("location", "to_other_sites", "shown"),
    [
        ("https://other.example/whip", True, True),
        ("https://other.example/whip", False, False),
        ("http://media.example/whip", True, False),  # without TLS
        ("/elsewhere", False, True),
    ],
)
def test_token_is_never_sent_in_the_clear_after_tls(location, to_other_sites, shown):
    publication = object.__new__(publish_module._Publication)
    publication._url = URL("https://media.example/whip")
    publication._headers = {"Authorization": "Bearer a secret"}
    publication._follow_with_token = to_other_sites
    assert bool(publication._headers_for(publication._url.join(URL(location)))) == shown


@pytest.mark.parametrize("location", ["ftp://b.example/x?sig=SECRET", "data:,x", "file:///etc"])
async def test_redirection_to_another_protocol_ends_it(server, begin, location):
    server.answers = [web.Response(status=307, headers={"Location": location})]
    with pytest.raises(PublishError, match="redirects to an address that is not of HTTP") as caught:
        await asyncio.wait_for(begin(), 10)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("http://localhost/whip?sig=x%2Fy%2B", "/whip?sig=x%2Fy%2B"),
        ("http://localhost/a%20b", "/a%20b"),
        ("http://localhost/a b", "/a%20b"),
        ("http://localhost/ä", "/%C3%A4"),
    ],
)
def test_endpoint_is_asked_as_it_was_given(text, asked):
    assert parse_endpoint(text).raw_path_qs == asked


async def test_media_server_receives_the_sound(server, aiohttp_server):
    running = await aiohttp_server(server.app())
    stream = Playout([make_item(Clip.read(DATA / "v2-sound.nerv"))], Metrics().of("tone"))
    url = URL(f"http://127.0.0.1:{running.port}/whip/room")
    task = asyncio.create_task(publish(stream, url, token=None, codec="H264", ice=Ice()))
    await until(lambda: len(server.tracks) == 2)
    video, audio = sorted(server.tracks, key=lambda track: track.kind, reverse=True)
    heard = [await asyncio.wait_for(audio.recv(), 20) for _ in range(50)]
    samples = np.concatenate([frame.to_ndarray().ravel() for frame in heard])
    assert np.abs(samples).max() > 3000
    assert (await asyncio.wait_for(video.recv(), 20)).width == 58
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(stream.close)


VIDEO_SECTION = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:0\r\n"
ANSWER = (
    f"v=0\r\na=group:BUNDLE 0 1\r\n{VIDEO_SECTION}"
    "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:1\r\na=recvonly\r\n"
)
VIDEO = f"v=0\r\na=group:BUNDLE 0\r\n{VIDEO_SECTION}"


@pytest.mark.parametrize(
    ("before", "after", "is_taken"),
    [
        ("", "", True),
        ("m=audio 9 ", "m=audio 0 ", False),
        ("a=recvonly", "a=inactive", False),
        ("SAVPF 111", "SAVPF 0", False),
        ("BUNDLE 0 1", "BUNDLE 0", False),
        ("\r\n", "\n", True),
    ],
)
def test_answers_tell_whether_the_sound_is_taken(before, after, is_taken):
    answer, found = without_sound(ANSWER.replace(before, after) if before else ANSWER)
    assert found is is_taken
    assert answer.split() == VIDEO.split()


def test_an_answer_about_the_video_alone_stays():
    assert without_sound(VIDEO) == (VIDEO, False)

"""Sessions, their controls, and what operators ask for."""

import asyncio
import io
import json
import logging
import re
import sys
from urllib.parse import quote

import av
import numpy as np
import pytest
from aiortc import RTCSessionDescription
from playing import SDP, make_item, make_server, offer_for, player_threads
from prometheus_client.parser import text_string_to_metric_families
from waiting import until
from yarl import URL

from player.json_log import JsonFormatter
from player.playback.latency_stamp import BLOCKS, SALT, stamped
from player.rtc.ice import Ice
from player.rtc.sdp import MAX_CANDIDATES
from player.server import sessions as sessions_module
from player.server.app_keys import CHANNELS, SESSIONS
from player.server.limits import Limits
from player.server.status_line import describe, showing

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


@pytest.fixture
async def client(aiohttp_client, tiny_clip):
    items = [make_item(tiny_clip, "one", engine="onnxruntime-cpu"), make_item(tiny_clip, "two")]
    return await aiohttp_client(make_server(items, limits=Limits(per_address=10, private=1)))


class Watcher:
    """A viewer as a browser is one."""

    def __init__(self, client, path="/whep/one"):
        self._client, self._path, self._tracks = client, path, []

    async def __aenter__(self):
        self._peer, self.offer = await offer_for("H264")
        self._peer.on("track", self._tracks.append)
        response = await self._client.post(self._path, data=self.offer, headers=SDP)
        assert response.status == 201, await response.text()
        self.location = response.headers["Location"]
        self.url = f"/api/sessions/{self.location.split('/')[-1]}"
        await self._peer.setRemoteDescription(
            RTCSessionDescription(await response.text(), "answer")
        )
        return self

    async def __aexit__(self, *_):
        await self._client.delete(self.location)
        await self._peer.close()

    async def frames(self, count):
        return [await asyncio.wait_for(self._tracks[0].recv(), 20) for _ in range(count)]

    async def wish(self, **wishes):
        response = await self._client.post(self.url, json=wishes)
        return response.status, await response.json()

    async def state(self):
        return await (await self._client.get(self.url)).json()


async def test_session_tells_what_it_watches(client):
    async with Watcher(client) as watcher:
        await watcher.frames(30)
        state = await watcher.state()
        assert (state["clip"], state["item"], state["private"], state["may_control"]) == (
            "one",
            "one",
            False,
            True,
        )
        assert (state["codec"], state["engine"], state["viewers"], state["private_left"]) == (
            "H264",
            "onnxruntime-cpu",
            1,
            1,
        )
        assert (
            min(
                state["sent_fps"],
                state["decode_fps"],
                state["encode_fps"],
                state["encode_ms"],
                state["bitrate"],
            )
            > 0
        )
        assert (state["width"], state["height"], state["frames"], state["fps"], state["speed"]) == (
            26,
            19,
            6,
            25,
            1,
        )
        assert state["bits_per_pixel"] == 8 * 1234 / (6 * 26 * 19)
        assert state["error"] is None
    assert (await client.get(watcher.url)).status == 404


async def test_round_trip_and_loss_are_told_once_the_viewer_has_reported(client):
    async with Watcher(client) as watcher:
        state = await watcher.state()
        assert (state["rtt_ms"], state["loss"]) == (None, None)
        for _ in range(40):
            await watcher.frames(5)
            state = await watcher.state()
            if state["rtt_ms"] is not None:
                break
        assert 0 <= state["rtt_ms"] < 500
        assert state["loss"] == 0


async def test_viewers_share_a_timeline(client):
    async with Watcher(client) as first, Watcher(client) as second:
        await asyncio.gather(first.frames(2), second.frames(2))
        status, _ = await first.wish(playing=False, frame=3, loop=False, speed=0.5)
        assert status == 200
        state = await second.state()
        assert (
            state["playing"],
            state["frame"],
            state["loop"],
            state["speed"],
            state["viewers"],
        ) == (False, 3, False, 0.5, 2)


async def test_private_timeline_is_ones_own(client):
    async with Watcher(client) as other, Watcher(client) as watcher:
        await asyncio.gather(other.frames(2), watcher.frames(2))
        await other.wish(playing=False, frame=2)
        status, state = await watcher.wish(private=True)
        assert (
            status,
            state["private"],
            state["private_left"],
            state["frame"],
            state["playing"],
        ) == (200, True, 0, 2, False)
        status, state = await watcher.wish(frame=5)
        assert state["frame"] == 5
        await watcher.frames(10)  # over the same connection
        assert (await other.state())["frame"] == 2
        assert await other.wish(private=True) == (503, {"error": "no private timeline is left"})
        assert (await other.state())["private"] is False
        await watcher.wish(private=False)
        assert (await watcher.state())["frame"] == 2
        assert (await other.wish(private=True))[0] == 200


@pytest.mark.parametrize("private", [1, 2])
async def test_private_viewer_goes_to_another_clip(aiohttp_client, tiny_clip, private):
    items = [make_item(tiny_clip, "one"), make_item(tiny_clip, "two")]
    client = await aiohttp_client(make_server(items, limits=Limits(private=private)))
    async with Watcher(client, "/whep/one?private=1") as watcher:
        for clip in ("two", "one", "two"):
            for _ in range(50):  # until the timeline that was left has ended
                status, state = await watcher.wish(clip=clip)
                if status == 200:
                    break
                assert (status, state["error"]) == (503, "no private timeline is left")
                await watcher.frames(3)  # the viewer watches on meanwhile
            assert (state["clip"], state["private"]) == (clip, True)
            await watcher.frames(3)
        assert not (await watcher.state())["error"]


async def test_spare_timeline_of_another_clip_is_in_nobodys_way(aiohttp_client, tiny_clip):
    items = [make_item(tiny_clip, "one"), make_item(tiny_clip, "two")]
    client = await aiohttp_client(make_server(items, limits=Limits(private=1)))
    async with Watcher(client, "/whep/one?private=1") as watcher:
        await watcher.frames(3)
    async with Watcher(client, "/whep/two?private=1") as watcher:
        await watcher.frames(3)
        assert (await watcher.state())["private"] is True


async def test_private_timeline_is_offered_at_once_and_ends_with_its_viewer(client):
    async with Watcher(client, "/whep/one?private=1") as watcher:
        await watcher.frames(3)
        assert (await watcher.state())["private"] is True
        (stream,) = client.app[CHANNELS]["one"].private
        peer, offer = await offer_for()
        refused = await client.post("/whep/one?private=1", data=offer, headers=SDP)
        assert (refused.status, (await refused.json())["error"]) == (
            503,
            "no private timeline is left",
        )
        await peer.close()
    assert client.app[CHANNELS]["one"].private == set()
    async with Watcher(client, "/whep/one?private=1"):
        assert client.app[CHANNELS]["one"].private == {stream}  # the next one has its engine


async def test_another_clip_over_the_same_connection(client):
    async with Watcher(client) as watcher:
        await watcher.frames(3)
        status, state = await watcher.wish(clip="two", frame=4, playing=False)
        assert (status, state["clip"], state["frame"]) == (200, "two", 4)
        await watcher.frames(5)
        one, two = client.app[CHANNELS]["one"].shared, client.app[CHANNELS]["two"].shared
        assert (len(one.viewers), len(two.viewers)) == (0, 1)
        assert one.playing


async def test_playlist_tells_its_item(client):
    async with Watcher(client) as watcher:
        _, state = await watcher.wish(clip="all clips")
        assert (state["clip"], state["item"]) == ("all clips", "one")
        _, state = await watcher.wish(item="two", playing=False)
        assert state["item"] == "two"
        await watcher.frames(3)


@pytest.mark.parametrize(
    ("wishes", "status", "reason"),
    [
        ({"clip": "nope"}, 404, "no such clip"),
        ({"clip": 1}, 400, "clip must be a name, private true or false"),
        ({"private": 1}, 400, "clip must be a name, private true or false"),
        ({"clip": "two", "frame": 99}, 400, "frame must be a number in 0..5"),
    ],
)
async def test_bad_wishes_leave_all_as_it_is(client, wishes, status, reason):
    async with Watcher(client) as watcher:
        assert await watcher.wish(**wishes) == (status, {"error": reason})
        assert (await watcher.state())["clip"] == "one"


async def test_report_of_the_page_is_kept(client):
    async with Watcher(client) as watcher:
        report = {"received_fps": 24.9, "presented_fps": 24.5, "freezes": 0, "latency_ms": None}
        response = await client.put(f"{watcher.url}/report", json=report)
        assert (await response.json())["clip"] == "one"
        (session,) = client.app[SESSIONS].all
        assert session.report == report
        for bad in ({"received_fps": "many"}, {"freezes": float("inf")}, {"freezes": 10**400}, []):
            assert (await client.put(f"{watcher.url}/report", json=bad)).status == 400


@pytest.mark.parametrize("method", ["get", "post"])
async def test_session_that_does_not_exist(client, method):
    for path in ("/api/sessions/nope", "/whep/one/nope"):
        if path.startswith("/whep") and method == "get":
            continue
        call = client.get if method == "get" else client.post
        response = await call(path, **({} if method == "get" else {"json": {}}))
        assert response.status in (404, 405)


async def test_options_tell_what_an_offer_looks_like(aiohttp_client, tiny_clip):
    ice = Ice.parse(stun="stun:stun.example.org:3478", turn='turn:me:se"cret@turn.example.org:3478')
    client = await aiohttp_client(make_server([make_item(tiny_clip)], ice=ice))
    response = await client.options("/whep/tiny")
    assert (response.status, response.headers["Accept-Post"]) == (200, "application/sdp")
    assert response.headers.getall("Link") == [
        '<stun:stun.example.org:3478>; rel="ice-server"',
        '<turn:turn.example.org:3478>; rel="ice-server"; username="me"; credential="se\\"cret"; credential-type="password"',
    ]
    assert (await client.options("/whep/nope")).status == 404


def fragment(connection, *candidates):
    user, password = (
        connection.remoteDescription.sdp.split(f"a=ice-{name}:")[1].split()[0]
        for name in ("ufrag", "pwd")
    )
    return (
        "\r\n".join(
            [
                f"a=ice-ufrag:{user}",
                f"a=ice-pwd:{password}",
                "m=video 9 UDP/TLS/RTP/SAVPF 0",
                "a=mid:0",
                *candidates,
            ]
        )
        + "\r\n"
    )


async def test_candidates_may_come_later(client, monkeypatch):
    async with Watcher(client) as watcher:
        (session,) = client.app[SESSIONS].all
        added = []

        async def add(candidate):
            added.append((candidate.ip, candidate.port))

        monkeypatch.setattr(session.connection, "addIceCandidate", add)
        body = fragment(
            session.connection,
            "a=candidate:1 1 udp 2130706431 192.0.2.7 50000 typ host",
            "a=candidate:2 1 udp 2130706431 1f0e-42.local 50001 typ host",
            "a=candidate:3 1 udp 2130706431 evil.example.org 50001 typ host",
            "a=end-of-candidates",
        )
        response = await client.patch(watcher.location, data=body, headers=FRAGMENT)
        assert response.status == 204
        assert added == [("192.0.2.7", 50000)]


async def test_candidates_that_come_later_are_few(client, monkeypatch):
    async with Watcher(client) as watcher:
        (session,) = client.app[SESSIONS].all
        added = []

        async def add(candidate):
            added.append(candidate)

        monkeypatch.setattr(session.connection, "addIceCandidate", add)
        lines = [f"a=candidate:{index} 1 udp 1 192.0.2.7 5000 typ host" for index in range(20)]
        for _ in range(3):
            response = await client.patch(
                watcher.location, data=fragment(session.connection, *lines), headers=FRAGMENT
            )
            assert response.status == 204
        assert len(added) == MAX_CANDIDATES


async def test_fragments_are_read_by_section(client, monkeypatch):
    added = []

    async def add(_, candidate):
        added.append(candidate.ip)

    monkeypatch.setattr("player.rtc.trickle.RTCPeerConnection.addIceCandidate", add)
    async with Watcher(client) as watcher:
        offer = watcher.offer
        (ufrag,) = re.findall("a=ice-ufrag:.*", offer)
        (mid,) = re.findall("a=mid:.*", offer)
        parts = [
            "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:other\r\na=ice-ufrag:another",
            "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host",
            f"m=video 9 UDP/TLS/RTP/SAVPF 0\r\n{mid.strip()}\r\n{ufrag.strip()}",
            "a=candidate:1 1 udp 1 192.0.2.2 5000 typ host",
        ]
        fragment = "\r\n".join(parts)
        response = await client.patch(watcher.location, data=fragment, headers=FRAGMENT)
        assert response.status == 204
        assert added == ["192.0.2.2"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        ("a=ice-ufrag:other\r\n", FRAGMENT, 422, "ICE cannot be restarted: make a new session"),
        ("a=ice-pwd:" + "x" * 22, FRAGMENT, 422, "ICE cannot be restarted: make a new session"),
        ("nonsense", FRAGMENT, 400, "the fragment is not SDP"),
        ("", FRAGMENT, 400, "the fragment is not SDP"),
        ("a=candidate:1 1 udp", FRAGMENT, 400, "a candidate is malformed: '1 1 udp'"),
        (
            "a=mid:0",
            {"Content-Type": "text/plain"},
            415,
            "the fragment must be application/trickle-ice-sdpfrag",
        ),
        ("a=mid:0", SDP, 409, "no answer is waited for"),
    ],
)
async def test_bad_fragments(client, body, headers, status, reason):
    async with Watcher(client) as watcher:
        response = await client.patch(watcher.location, data=body, headers=headers)
        assert (response.status, (await response.json())["error"]) == (status, reason)
        await watcher.frames(3)  # the viewer watches on


def test_public_address_is_named_beside_those_of_the_machine():
    sdp = "v=0\r\na=candidate:1 1 udp 2130706431 10.0.0.2 40000 typ host\r\na=candidate:2 1 udp 2130706431 ::1 4 typ host\r\n"
    assert Ice.parse(public_ip="192.0.2.9").answer(sdp).splitlines() == [
        "v=0",
        "a=candidate:1 1 udp 2130706431 10.0.0.2 40000 typ host",
        "a=candidate:1p 1 udp 2130706431 192.0.2.9 40000 typ host",
        "a=candidate:2 1 udp 2130706431 ::1 4 typ host",
    ]
    assert Ice.parse().answer(sdp) == sdp


async def test_viewer_of_whom_nothing_is_heard_is_forgotten(aiohttp_client, tiny_clip, monkeypatch):
    monkeypatch.setattr(sessions_module, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(sessions_module, "POLL_SECONDS", 0.1)
    client = await aiohttp_client(
        make_server([make_item(tiny_clip)], limits=Limits(idle_seconds=0.5))
    )

    async def unheard(_):
        pass

    async with Watcher(client, "/whep/tiny") as watcher:
        await watcher.frames(3)
        monkeypatch.setattr(sessions_module.ViewerSession, "poll_stats", unheard)
        await until(lambda: len(client.app[SESSIONS]) == 0)
        assert client.app[SESSIONS].all == []


async def test_viewer_who_is_heard_stays(aiohttp_client, tiny_clip, monkeypatch):
    monkeypatch.setattr(sessions_module, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(sessions_module, "POLL_SECONDS", 0.2)
    client = await aiohttp_client(
        make_server([make_item(tiny_clip)], limits=Limits(idle_seconds=3))
    )
    async with Watcher(client, "/whep/tiny") as watcher:
        (session,) = client.app[SESSIONS].all

        async def look_all_the_time():
            while True:  # as the page and readers of the metrics do
                await session.poll_stats()
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look_all_the_time())
        await watcher.frames(125)  # five seconds
        looking.cancel()
        assert client.app[SESSIONS].all == [session]


async def test_health_and_readiness(client):
    assert (await client.get("/healthz")).status == 200
    for _ in range(100):
        response = await client.get("/readyz")
        if response.status == 200:
            break
        assert (response.status, (await response.json())["error"]) == (
            503,
            "no frame has been decoded yet",
        )
        await asyncio.sleep(0.1)
    assert response.status == 200
    client.app[SESSIONS].draining = True
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 200


async def test_server_that_is_about_to_stop_takes_nobody_in(client):
    client.app[SESSIONS].draining = True
    peer, offer = await offer_for()
    response = await client.post("/whep/one", data=offer, headers=SDP)
    await peer.close()
    assert (response.status, (await response.json())["error"]) == (
        503,
        "the server is about to stop",
    )


async def thumbnail_of(client, clip):
    for _ in range(100):
        response = await client.get(URL(f"/api/clips/{clip}/thumbnail.jpg", encoded=True))
        if response.status == 200:
            return await response.read()
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        await asyncio.sleep(0.1)
    raise AssertionError("no picture came")


@pytest.mark.parametrize("name", ["a{b}", "{clip}", "100% {0}", "ü?#&+ ;=", "a%2Fb", "'\"<b>"])
async def test_any_name_of_a_clip_is_found(aiohttp_client, tiny_clip, name):
    client = await aiohttp_client(make_server([make_item(tiny_clip, name)]))
    escaped = quote(name, safe="")
    assert [clip["name"] for clip in await (await client.get("/api/clips")).json()] == [name]
    for path in f"/api/clips/{escaped}", f"/whep/{escaped}":
        assert (await client.get(URL(path, encoded=True))).status == 200
    await thumbnail_of(client, escaped)
    peer, offer = await offer_for("VP8")
    response = await client.post(URL(f"/whep/{escaped}", encoded=True), data=offer, headers=SDP)
    assert response.status == 201
    location = URL(response.headers["Location"], encoded=True)
    assert (await client.get(location)).status == 204
    assert (await client.delete(location)).status == 200
    await peer.close()


async def test_thumbnail(client):
    with av.open(io.BytesIO(await thumbnail_of(client, "one")), format="jpeg_pipe") as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert picture.shape == (20, 26, 3)
    assert picture.std() > 5  # black it is not


async def test_metrics(client):
    async with Watcher(client) as watcher:
        await watcher.frames(25)
        for session in client.app[SESSIONS].all:
            session.viewer.picture_lost()
        await client.put(f"{watcher.url}/report", json={"received_fps": 24.5, "latency_ms": 50})
        text = await (await client.get("/metrics")).text()
    samples = {
        (
            sample.name,
            sample.labels.get("clip"),
            sample.labels.get("codec") or sample.labels.get("outcome"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["nervcast_frames_sent_total", "one", None] >= 25
    assert samples["nervcast_frames_encoded_total", "one", "H264"] >= 25
    assert samples["nervcast_frames_decoded_total", "one", None] >= 25
    assert samples["nervcast_encode_seconds_count", "one", "H264"] >= 25
    assert samples["nervcast_decode_seconds_count", "one", None] >= 12
    assert samples["nervcast_keyframes_total", "one", "H264"] >= 1
    assert samples["nervcast_pli_total", "one", None] == 1
    assert samples["nervcast_sent_bytes_total", "one", None] > 1000
    assert samples["nervcast_viewers", "one", None] == 1
    assert samples["nervcast_viewers", "two", None] == 0
    assert samples["nervcast_sessions_total", None, "201"] == 1
    assert samples["nervcast_received_fps", "one", None] == 24.5
    assert samples["nervcast_latency_seconds", "one", None] == 0.05
    assert samples["nervcast_frame_interval_seconds_count", "one", None] >= 25
    for name in (
        "frames_dropped_total",
        "ticks_missed_total",
        "engine_failures_total",
        "damaged_segments",
        "rtt_seconds",
    ):
        assert (f"nervcast_{name}", "one", None) in samples


def test_stamp_says_the_time():
    picture = np.full((360 * 3 // 2, 640), 100, np.uint8)
    marked = stamped(picture, 1_700_000_000.123)
    assert (picture == 100).all()
    side = 640 // BLOCKS // 2 * 2
    side = min(side, 16)
    bits = [int(marked[side // 2, index * side + side // 2] > 128) for index in range(BLOCKS)]
    code = int("".join(map(str, bits)), 2).to_bytes(4, "big")
    assert int.from_bytes(code[:3], "big") == 1_700_000_000_123 % (1 << 24)
    assert code[3] == (sum(code[:3]) + SALT) % 256
    assert (marked[side:360] == 100).all()


def test_picture_too_small_for_a_stamp():
    picture = np.zeros((30, 26), np.uint8)
    assert (stamped(picture, 1.0) == picture).all()


def test_log_for_machines():
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        record = logging.LogRecord(
            "player", logging.ERROR, "", 0, "it %s\nbroke", ("all",), sys.exc_info()
        )
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["logger"], entry["message"]) == (
        "error",
        "player",
        "it all\nbroke",
    )
    assert "ZeroDivisionError: division" in entry["traceback"]
    assert entry["time"].endswith("+00:00")


async def test_line_of_figures(client):
    streams = [channel.shared for channel in client.app[CHANNELS].values()]
    assert describe(streams) == "no viewers"
    async with Watcher(client) as watcher:
        await watcher.frames(60)
        line = describe(
            streams, [{"received_fps": 24.0, "presented_fps": None}, {"received_fps": 23.5}]
        )
    for part in (
        "decode ",
        "x) | encode ",
        " ms | sent 2",
        "| received 23.5 |",
        " Mb/s | viewers 1",
    ):
        assert part in line
    assert "presented" not in line


async def test_line_is_shown_on_terminals_alone():
    class Terminal:
        def __init__(self, *, is_terminal):
            self.text, self._is_terminal = "", is_terminal

        def isatty(self):
            return self._is_terminal

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal, file = Terminal(is_terminal=True), Terminal(is_terminal=False)
    async with showing(file, lambda: "figures"):
        await asyncio.sleep(0.05)
    assert file.text == ""
    async with showing(terminal, lambda: "figures"):
        await until(lambda: terminal.text)
        assert terminal.text == "\r\x1b[Kfigures"
        handlers = logging.getLogger().handlers
        logging.getLogger("player").warning("a line of the log")
        assert not handlers or terminal.text.endswith(
            "\r\x1b[K"
        )  # what is logged finds an empty line
    logging.getLogger("player").warning("another")
    assert terminal.text.count("figures") == 1


async def test_nothing_is_left_after_joins_and_leaves(client):
    before = len(asyncio.all_tasks())
    for _ in range(5):
        async with Watcher(client) as watcher:
            await watcher.frames(1)
    await until(lambda: len(asyncio.all_tasks()) <= before + 2 and len(player_threads()) <= 4)
    assert len(client.app[SESSIONS]) == 0

"""What strangers may send, and what it does: nothing to others."""

import asyncio
import contextlib
import re
import socket
import sys
import time
import zlib

import aiohttp
import pytest
from aiohttp import web
from load import Watcher
from playing import SDP, make_item, make_server, offer_for, player_threads
from waiting import until
from yarl import URL

from player.server.app import CONNECTIONS
from player.server.app_keys import SESSIONS
from player.server.limits import Limits
from player.server.listener import MAX_PER_ADDRESS
from player.server.session import MAX_MOVES

pytestmark = pytest.mark.alone


@pytest.fixture
async def serve(tiny_clip):
    """Return a function that serves the tiny clip as the command does, and gives the address."""
    runners = []

    async def begin(**options):
        app = make_server([make_item(tiny_clip)], **options)
        runner = web.AppRunner(app, access_log=None, auto_decompress=False)
        await runner.setup()
        runners.append(runner)
        address, port = await app[CONNECTIONS].listen(runner, "127.0.0.1", 0, None)
        return app, URL(f"http://{address}:{port}")

    yield begin
    for runner in runners:
        runner.app[CONNECTIONS].close()
        await runner.cleanup()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


def ports_of(watcher):
    """Return the UDP ports of the server that a viewer was told."""
    return [
        int(port)
        for port in re.findall(
            r"a=candidate:\S+ 1 udp \d+ [\d.]+ (\d+) ", watcher.peer.remoteDescription.sdp
        )
    ]


DATAGRAMS = {
    "empty": b"",
    "RTP": b"\x80" + bytes(100),
    "long RTP": b"\x80" + bytes(3000),
    "RTCP": b"\x80\xc8" + bytes(26),
    "DTLS alert": bytes.fromhex("15fefd0000000000000000000202 28"),
    "DTLS": b"\x16\xfe\xfd" + bytes(200),
    "STUN cut off": b"\x00\x01\x00\x08\x21\x12\xa4\x42" + bytes(12),
    "STUN with a wrong attribute": b"\x00\x01\x00\x08\x21\x12\xa4\x42"
    + bytes(12)
    + b"\x00\x20\x00\x01zzzz",
    "STUN without a password": b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12),
    "anything": b"\xff" * 50,
}


@pytest.mark.parametrize("name", DATAGRAMS)
async def test_datagrams_of_strangers_end_no_session(serve, http, name):
    app, url = await serve()
    watcher = Watcher(http, url / "whep/tiny", codec="H264")
    await watcher.join()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in ports_of(watcher):
            for _ in range(50):
                sender.sendto(DATAGRAMS[name], ("127.0.0.1", port))
    before = watcher.counter.frames
    await asyncio.sleep(1)
    assert watcher.counter.frames - before > 20
    assert len(app[SESSIONS]) == 1
    await watcher.leave()


async def test_a_session_outlives_what_its_own_viewer_sends(serve, http):
    app, url = await serve()
    watcher = Watcher(http, url / "whep/tiny", codec="H264")
    await watcher.join()
    (session,) = app[SESSIONS].all
    connection = session.sender.transport.transport._connection
    for data in (b"\x80", b"\x80" * 3, b"\x80" + bytes(1400), b"\x16" + bytes(100), b"\xbf\xff"):
        connection.data_received(data, 1)
    before = watcher.counter.frames
    await asyncio.sleep(1)
    assert watcher.counter.frames - before > 20
    await watcher.leave()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_compressed_bodies_are_refused_unread(serve, http, coding):
    _, url = await serve()
    for _ in range(400):
        async with http.get(url / "readyz") as response:
            if response.status == 200:  # its engine is loaded
                break
        await asyncio.sleep(0.05)
    else:
        raise TimeoutError
    bomb = zlib.compress(bytes(1 << 28), 9)
    late = [0.0]

    async def watch_the_loop():
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            late[0] = max(late[0], time.perf_counter() - began)

    watching = asyncio.create_task(watch_the_loop())
    headers = {"Content-Type": "application/sdp", "Content-Encoding": coding}
    for method, path in (
        ("POST", "/whep/tiny"),
        ("POST", "/whep/nope"),
        ("PUT", "/whep/tiny"),
        ("POST", "/api/clips/tiny"),
    ):
        with contextlib.suppress(aiohttp.ClientError):  # who sends on after the refusal
            async with http.request(
                method, url.with_path(path), data=bomb, headers=headers
            ) as response:
                assert response.status == 415, path
                assert response.headers["Accept-Encoding"] == "identity"
    watching.cancel()
    assert late[0] < 0.15


async def test_newcomers_and_health_checks_get_in_whatever_one_address_holds(serve, http):
    app, url = await serve()
    held = [
        await asyncio.open_connection("127.0.0.1", url.port) for _ in range(MAX_PER_ADDRESS + 100)
    ]
    await until(lambda: len(app[CONNECTIONS]) == MAX_PER_ADDRESS)
    for path in ("healthz", "api/clips"):
        async with http.get(url / path) as response:
            assert response.status == 200
    for _, writer in held:
        writer.close()
    await until(lambda: len(app[CONNECTIONS]) <= 1)  # the client's own


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_one_line_and_our_headers(serve, data, caplog):
    caplog.set_level("INFO")
    _, url = await serve()
    for _ in range(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(5000), 5)
        writer.close()
        assert answer.split()[1] == b"400"
        assert b"\r\nServer: nervcast\r\n" in answer
        assert b"Content-Security-Policy" in answer
        assert b"aiohttp" not in answer
    assert len([record for record in caplog.records if record.levelname != "DEBUG"]) <= 1
    assert "Traceback" not in caplog.text


async def test_upload_that_breaks_off_is_no_error_of_ours(serve, caplog):
    _, url = await serve()
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", url.port)
        writer.write(
            b"POST /whep/tiny HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\nContent-Length: 100\r\n\r\nv=0"
        )
        await asyncio.sleep(0.1)
        writer.transport.abort()
    await asyncio.sleep(0.2)
    assert caplog.records == []


async def test_private_timelines_are_few_however_often_one_changes(aiohttp_client, tiny_clip):
    client = await aiohttp_client(
        make_server([make_item(tiny_clip)], limits=Limits(private=2, per_address=10))
    )
    peer, offer = await offer_for()
    name = (
        (await client.post("/whep/tiny", data=offer, headers=SDP))
        .headers["Location"]
        .split("/")[-1]
    )
    statuses = []
    for index in range(40):
        response = await client.post(f"/api/sessions/{name}", json={"private": index % 2 == 0})
        statuses.append(response.status)
        assert len(player_threads()) <= 6  # of the shared timeline and of two private ones
    assert statuses[:MAX_MOVES] == [200] * MAX_MOVES
    assert 429 in statuses
    assert set(statuses) <= {200, 429, 503}
    await peer.close()


async def test_an_engine_is_used_again_by_the_next_private_timeline(aiohttp_client, tiny_clip):
    opened = []
    item = make_item(tiny_clip)
    open_engine = item.open_engine
    item.open_engine = lambda failed: opened.append(1) or open_engine(failed)
    client = await aiohttp_client(make_server([item], limits=Limits(private=1, per_address=10)))
    peer, offer = await offer_for()
    name = (
        (await client.post("/whep/tiny", data=offer, headers=SDP))
        .headers["Location"]
        .split("/")[-1]
    )
    for private in (True, False, True, False, True):
        assert (await client.post(f"/api/sessions/{name}", json={"private": private})).status == 200
    await asyncio.sleep(0.5)
    assert len(opened) <= 3  # for the small picture, the shared timeline and the private one
    await peer.close()


@contextlib.asynccontextmanager
async def late_loop():
    """Give a list of one number: the longest time for which the event loop was held."""
    late = [0.0]

    async def watch():
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            late[0] = max(late[0], time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    yield late
    watching.cancel()


FLOOD = """
import socket, sys, time
end = time.monotonic() + 2
count = 0
while time.monotonic() < end:
    with socket.socket() as stranger:
        stranger.connect(("127.0.0.1", int(sys.argv[1])))
    count += 1
print(count)
"""


async def test_flood_of_connections_holds_up_nobody(serve, http):
    _, url = await serve()
    async with late_loop() as late:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FLOOD, str(url.port), stdout=asyncio.subprocess.PIPE
        )
        while process.returncode is None:
            async with http.get(url / "healthz") as response:
                assert response.status == 200
            await asyncio.sleep(0.1)
    assert int(await process.stdout.read()) > 100
    assert late[0] < 0.15


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "utf-7", "utf-16", "rot13"])
@pytest.mark.parametrize("letters", ["a-" + "b" * 65_000, "a" * 65_000])
async def test_charsets_of_strangers_are_not_decoded(serve, http, charset, letters):
    _, url = await serve()
    async with late_loop() as late:
        for path, kind in (
            ("whep/tiny", "application/sdp"),
            ("api/clips/tiny", "application/json"),
        ):
            headers = {"Content-Type": f"{kind}; charset={charset}"}
            async with http.post(url / path, data=letters, headers=headers) as response:
                assert response.status == 400
                assert "UTF-8" in (await response.json())["error"]
    assert late[0] < 0.15


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "%0AINFO%20forged", "..%2fapp.py", "%00"])
async def test_files_that_are_not_there(serve, http, name, caplog):
    _, url = await serve()
    path = URL(f"{url.origin()}/static/{name}", encoded=True)
    async with http.get(path) as response:
        assert response.status == 404
        assert response.headers["Server"] == "nervcast"
    assert not [record for record in caplog.records if record.name.startswith("player")]


async def test_faults_of_ours_fill_no_log(serve, http, caplog, monkeypatch):
    monkeypatch.setattr("player.server.routes_api._describe", lambda _: 1 / 0)
    _, url = await serve()
    path = URL(f"{url.origin()}/api/clips?{'%0AINFO%20forged' * 100}", encoded=True)
    for _ in range(5):
        async with http.get(path) as response:
            assert response.status == 500
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 200


@pytest.mark.parametrize("path", ["whep/tiny", "api/clips", "static/app.js", "nope"])
async def test_expectations_are_answered_as_everything_else(serve, path):
    _, url = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nExpect: a miracle\r\n\r\n".encode())
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode()
    assert head.startswith("HTTP/1.1 417 ")
    assert "Server: nervcast\r\n" in head
    assert "Content-Security-Policy" in head
    writer.close()


async def test_bodies_are_asked_for(serve):
    _, url = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    head = f"POST /whep/tiny HTTP/1.1\r\nHost: localhost\r\nContent-Type: {SDP['Content-Type']}\r\n"
    writer.write(f"{head}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(b"v=0")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_offers_that_nobody_goes_on_with_leave_no_lines(serve, http, caplog):
    caplog.set_level("INFO")
    _, url = await serve()
    peer, offer = await offer_for("H264")
    for _ in range(3):
        async with http.post(url / "whep/tiny", data=offer, headers=SDP) as response:
            assert response.status == 201
        async with http.delete(url.join(URL(response.headers["Location"]))) as response:
            assert response.status == 200
    await peer.close()
    assert not [each for each in caplog.messages if "left" in each or "joined" in each]

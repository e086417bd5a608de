"""Who is let in: tokens, origins, hosts, limits and headers."""

import asyncio
import re
import ssl
import subprocess

import pytest
from aiohttp import ClientConnectorError, ClientSession, TCPConnector
from playing import SDP, make_item, make_server, offer_for

from encoder.common.errors import SettingsError
from player.server import listener as connections_module
from player.server import routes_whep as whep_module
from player.server.app import WEB, serve
from player.server.auth import GUESSES, HEADERS, Access

TOKEN, WATCH = "correct horse battery", "watch and no more"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def connect(aiohttp_client, tiny_clip):
    """Return a function that starts a server and gives a client of it."""

    async def start(**access):
        return await aiohttp_client(
            make_server([make_item(tiny_clip)], access=Access.parse("127.0.0.1", **access))
        )

    return start


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_address_that_others_reach_needs_a_token(host):
    with pytest.raises(
        SettingsError, match="can be reached by other machines: give a --token, or --insecure"
    ):
        Access.parse(host)
    Access.parse(host, token=TOKEN)
    Access.parse(host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_this_machine_alone_needs_none(host):
    assert Access.parse(host).token is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"token": "short"}, "a token needs 8 or more printable ASCII characters"),
        ({"token": "line\nbreak!"}, "a token needs 8"),
        ({"watch_token": WATCH}, "--watch-token needs --token"),
        ({"token": TOKEN, "watch_token": TOKEN}, "are the same"),
        (
            {"origins": ["example.org"]},
            r"an origin is like https://example\.org, got 'example\.org'",
        ),
        ({"origins": ["https://example.org/path"]}, "an origin is like"),
        ({"origins": ["ftp://example.org"]}, "an origin is like"),
    ],
)
def test_bad_settings(options, reason):
    with pytest.raises(SettingsError, match=reason):
        Access.parse("127.0.0.1", **options)


@pytest.mark.parametrize(
    "path",
    ["/api/clips", "/api/clips/tiny", "/api/clips/tiny/thumbnail.jpg", "/metrics", "/whep/tiny"],
)
async def test_token_is_needed(connect, path):
    client = await connect(token=TOKEN)
    method = "OPTIONS" if path.startswith("/whep") else "GET"
    response = await client.request(method, path)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await response.json())["error"] == "a token is needed"
    for right in (
        await client.request(method, path, headers=BEARER),
        await client.request(method, path, params={"token": TOKEN}),
    ):
        assert right.status in (200, 204, 503)
    assert (
        await client.request(method, path, headers={"Authorization": f"Basic {TOKEN}"})
    ).status == 401


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/healthz"])
async def test_page_itself_needs_no_token(connect, path):
    client = await connect(token=TOKEN)
    assert (await client.get(path)).status == 200


async def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "player.server.auth.hmac.compare_digest",
        lambda given, right: compared.append((given, right)) or given == right,
    )
    access = Access(token=TOKEN, watch_token=WATCH)
    assert [access.allows(text) for text in (TOKEN, WATCH, "wrong", "ü")] == [
        True,
        False,
        None,
        None,
    ]
    assert len(compared) == 8  # always both


async def test_token_of_any_bytes_is_wrong(connect, caplog):
    client = await connect(token=TOKEN)
    response = await client.get("/api/clips", headers={"Authorization": "Bearer \udcff\udcfe"})
    assert response.status in (400, 401)
    assert "Traceback" not in caplog.text


async def test_bug_of_ours_is_an_answer_like_any_other(connect, monkeypatch, caplog):
    client = await connect()
    monkeypatch.setattr("player.server.routes_api._describe", lambda channel: 1 / 0)
    response = await client.get("/api/clips")
    assert (response.status, await response.json()) == (
        500,
        {"error": "internal error, see the server's log"},
    )
    assert response.headers["Server"] == "nervcast"
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    text = await (await client.get("/metrics")).text()
    assert 'nervcast_http_responses_total{status="500"} 1.0' in text


async def test_body_that_is_not_what_its_headers_say(connect):
    client = await connect()
    response = await client.post(
        "/whep/tiny", data=b"nonsense", headers={**SDP, "Content-Encoding": "gzip"}
    )
    assert response.status == 415


async def test_who_guesses_is_told_to_wait(connect):
    client = await connect(token=TOKEN)
    answers = [
        await client.get("/api/clips", params={"token": f"guess {index}"})
        for index in range(GUESSES + 2)
    ]
    assert [answer.status for answer in answers] == [401] * GUESSES + [429] * 2
    assert answers[-1].headers["Retry-After"] == "60"
    # Who knows it is let in, from the same address.
    assert (await client.get("/api/clips", headers=BEARER)).status == 200


async def test_who_may_watch_does_not_control_what_others_watch(connect):
    client = await connect(token=TOKEN, watch_token=WATCH)
    watch = {"Authorization": f"Bearer {WATCH}"}
    assert (await client.get("/api/clips/tiny", headers=watch)).status == 200
    refused = await client.post("/api/clips/tiny", json={"playing": False}, headers=watch)
    assert refused.status == 403
    peer, offer = await offer_for()
    for query, may_control in (("", False), ("?private=1", True)):
        opened = await client.post(f"/whep/tiny{query}", data=offer, headers={**SDP, **watch})
        session = f"/api/sessions/{opened.headers['Location'].split('/')[-1]}"
        state = await (await client.get(session, headers=watch)).json()
        assert state["may_control"] is may_control
        answer = await client.post(session, json={"playing": False}, headers=watch)
        assert answer.status == (200 if may_control else 403)
    # The viewer's own timeline was the only one that stopped.
    assert (await (await client.get("/api/clips/tiny", headers=watch)).json())["playing"] is True
    await peer.close()


async def test_headers_tell_browsers_to_be_careful(connect):
    client = await connect()
    for path in ("/", "/static/app.js", "/api/clips", "/nope"):
        response = await client.get(path)
        assert {name: response.headers.get(name) for name in HEADERS} == HEADERS
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_page_has_nothing_inline_and_loads_nothing_from_elsewhere():
    page = (WEB / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", page) == []
    addresses = [
        address
        for file in WEB.iterdir()
        for address in re.findall(r"[a-z]+://[^\s\"'`)]+", file.read_text())
    ]
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}


async def test_other_sites_are_not_answered(connect):
    client = await connect()
    response = await client.get("/api/clips", headers={"Origin": "https://example.org"})
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_sites_on_the_list_are(connect):
    client = await connect(origins=["https://example.org"], token=TOKEN)
    origin = {"Origin": "https://example.org"}
    preflight = await client.options(
        "/whep/tiny",
        headers={
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert {"POST", "PATCH", "DELETE"} <= set(
        preflight.headers["Access-Control-Allow-Methods"].split(", ")
    )
    peer, offer = await offer_for()
    response = await client.post("/whep/tiny", data=offer, headers={**SDP, **origin, **BEARER})
    await peer.close()
    assert response.status == 201
    assert "Location" in response.headers["Access-Control-Expose-Headers"]
    # An error is readable, too.
    assert (await client.get("/api/clips", headers=origin)).headers[
        "Access-Control-Allow-Origin"
    ] == "https://example.org"
    other = await client.get("/api/clips", headers={"Origin": "https://example.com", **BEARER})
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_name_that_leads_here_is_not_ours(connect):
    """DNS rebinding: a page of another site has its name lead to this machine."""
    client = await connect()
    for name in (
        "evil.example.org:8080",
        "localhost.example.org",
        "[",
        "192.0.2.1",
        "127.0.0.1.example.org",
    ):
        assert (await client.get("/api/clips", headers={"Host": name})).status in (400, 421), name
    for name in ("localhost:8080", "127.0.0.1", "[::1]:8080", "127.0.0.5"):
        assert (await client.get("/api/clips", headers={"Host": name})).status == 200, name
    proxied = await connect(origins=["https://video.example.org"])
    assert (await proxied.get("/api/clips", headers={"Host": "video.example.org"})).status == 200


async def test_metrics_are_for_those_who_control(connect):
    client = await connect(token=TOKEN, watch_token=WATCH)
    for token, status in ((TOKEN, 200), (WATCH, 403)):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/metrics", headers=headers)).status == status


async def test_body_that_does_not_come(connect, monkeypatch):
    monkeypatch.setattr(whep_module, "BODY_SECONDS", 0.2)
    client = await connect()

    async def slowly():
        yield b"v=0"
        await asyncio.sleep(1)

    response = await client.post("/whep/tiny", data=slowly(), headers=SDP)
    assert response.status == 408


async def served(app, port_of, **options):
    """Serve until cancelled; the address is put into a future."""
    await serve(app, "127.0.0.1", 0, announce=port_of.set_result, **options)


@pytest.fixture
async def start(tiny_clip):
    """Return a function that serves as the command does, and gives the address."""
    tasks = []

    async def begin(**options):
        url = asyncio.get_running_loop().create_future()
        tasks.append(
            asyncio.create_task(served(make_server([make_item(tiny_clip)]), url, **options))
        )
        return await asyncio.wait_for(url, 20)

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_connection_that_does_not_ask_is_ended(start, monkeypatch):
    monkeypatch.setattr(connections_module, "ASK_SECONDS", 0.3)
    port = int((await start()).rsplit(":", 1)[1].rstrip("/"))
    silent, silent_writer = await asyncio.open_connection("127.0.0.1", port)
    slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
    slow_writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    assert await asyncio.wait_for(silent.read(), 5) == b""
    assert await asyncio.wait_for(slow.read(), 5) == b""
    for writer in (silent_writer, slow_writer):
        writer.close()
        await writer.wait_closed()


async def test_connection_that_asks_is_kept(start, monkeypatch):
    monkeypatch.setattr(connections_module, "ASK_SECONDS", 0.2)
    url = await start()
    async with ClientSession() as client:
        for _ in range(3):
            async with client.get(f"{url}/healthz") as response:
                assert response.status == 200
            await asyncio.sleep(0.2)
        assert len(client.connector._conns) == 1  # the same one, all the time


async def test_too_many_connections_are_ended_at_once(start, monkeypatch):
    url = await start()
    monkeypatch.setattr(connections_module, "MAX_CONNECTIONS", 0)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(url.rsplit(":", 1)[1].rstrip("/"))
    )
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


@pytest.fixture
def certificate(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    return cert, key


async def health(url, cert):
    """Return the status of a server's health check over TLS, for a client that trusts it."""
    trusting = ssl.create_default_context(cafile=cert)
    trusting.check_hostname = False
    async with (
        ClientSession(connector=TCPConnector(ssl=trusting)) as client,
        client.get(f"{url}/healthz") as response,
    ):
        return response.status


async def test_tls(start, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    url = await start(tls=context)
    assert url.startswith("https://")
    assert await health(url, certificate[0]) == 200
    async with ClientSession() as client:
        with pytest.raises(ClientConnectorError):
            await client.get(f"{url}/healthz")


async def test_handshakes_count_as_connections(start, certificate, monkeypatch):
    """Of who only connects to a server with TLS, too, few stay, and none for long."""
    monkeypatch.setattr(connections_module, "MAX_PER_ADDRESS", 5)
    monkeypatch.setattr(connections_module, "ASK_SECONDS", 1.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    url = await start(tls=context)
    port = int(url.rsplit(":", 1)[1].rstrip("/"))
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    for reader, _ in held[:3]:
        assert await asyncio.wait_for(reader.read(), 0.5) == b""  # the oldest
    assert await health(url, certificate[0]) == 200
    for reader, _ in held:
        assert await asyncio.wait_for(reader.read(), 3) == b""
    for _, writer in held:
        writer.close()

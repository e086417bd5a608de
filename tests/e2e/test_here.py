"""The page that decodes in the browser, as the player serves it."""

from dataclasses import replace

import pytest
from chromium import CHROMIUM, DRIVER, browsing, faults, serving
from helpers import SAMPLE
from playing import make_item, make_server
from waiting import wait_for

from export.web.folder import assets
from player.server.auth import Access
from player.server.routes_here import POLICY

TOKEN = "correct horse battery"


@pytest.fixture
def connect(aiohttp_client, tiny_clip, tiny_file):
    """Return a function that starts a server of a file and a clip without one, and gives a client of it."""

    async def start(**access):
        items = [
            replace(make_item(tiny_clip, "a {b}"), path=tiny_file),
            make_item(tiny_clip, "lost"),
        ]
        return await aiohttp_client(make_server(items, access=Access.parse("127.0.0.1", **access)))

    return start


async def test_page_and_its_files_are_sent(connect):
    client = await connect()
    page = await client.get("/here/")
    assert (page.status, page.content_type) == (200, "text/html")
    assert page.headers["Content-Security-Policy"] == POLICY
    for name, data in assets():
        response = await client.get(f"/here/{name}")
        if name.endswith((".json", ".ts")):
            assert response.status == 404
        else:
            assert (response.status, await response.read()) == (200, data)
    assert (await client.get("/here/kernels.wasm")).content_type == "application/wasm"
    assert (await client.get("/here/..%2fapp.py")).status == 404


async def test_list_names_each_clips_file_and_stream(connect, tiny_file):
    client = await connect()
    first, second = await (await client.get("/here/clips.json")).json()
    assert first["name"] == "a {b}"
    assert first["stream"] == "/?clip=a+%7Bb%7D"
    response = await client.get(first["file"])
    assert (response.status, await response.read()) == (200, tiny_file.read_bytes())
    assert (await client.get(second["file"])).status == 404
    folder = first["file"].removesuffix("clip.nerv")
    for name in ("ladder.json", "other.nerv"):
        assert (await client.get(folder + name)).status == 404
    part = await client.get(first["file"], headers={"Range": "bytes=4-7"})
    assert (part.status, await part.read()) == (206, tiny_file.read_bytes()[4:8])


async def test_clips_need_the_token_and_the_page_does_not(connect):
    client = await connect(token=TOKEN)
    assert (await client.get("/here/")).status == 200
    for path in ("/here/clips.json", "/api/clips/lost/clip.nerv"):
        assert (await client.get(path)).status == 401
    listed = await client.get("/here/clips.json", params={"token": TOKEN})
    file = (await listed.json())[0]["file"]
    assert (await client.get(file, params={"token": TOKEN})).status == 200


@pytest.mark.alone
@pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: sh tests/support/install_peers.sh"
)
def test_viewers_can_switch_between_the_stream_and_decoding_here(tmp_path):
    options = (str(SAMPLE), "--engine", "onnxruntime-cpu", "--token", TOKEN)
    with serving(*options, cwd=tmp_path) as (_, url), browsing(tmp_path / "profile") as driver:

        def text(name):
            return driver.find_element("id", name).text

        def run(script):
            return driver.execute_script(f"return {script}")

        driver.get(f"{url}/?token={TOKEN.replace(' ', '%20')}")
        wait_for(lambda: text("state") == "live")
        driver.find_element("id", "here").click()
        wait_for(lambda: run("window.nervcast?.statistics?.drawnFps > 5"))
        assert run("nervcast.currentTime > 0")
        assert text("title") == SAMPLE.stem
        assert faults(driver) == []
        driver.find_element("id", "stream").click()
        wait_for(lambda: text("state") == "live")

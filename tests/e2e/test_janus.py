"""A media server of other people's between `publish` and its audience."""

import asyncio
import signal
import sys

import pytest
from aiohttp import web
from helpers import SAMPLE
from janus import JANUS, Janus, JanusError, make_whip, subscribe
from load import Watcher
from waiting import until

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not JANUS, reason="no Janus: sh tests/support/install_peers.sh"),
]

TOKEN = "a secret of theirs"
SECONDS = 5


async def joined(janus, watcher):
    """Subscribe, once somebody publishes."""
    for _ in range(60):
        try:
            return await subscribe(janus, "room", watcher)
        except JanusError:
            await asyncio.sleep(0.5)
    raise AssertionError("nobody publishes")


@pytest.mark.soak
@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_two_subscribers_of_janus_receive_what_is_published(tmp_path, codec):
    async with Janus(tmp_path / "janus") as janus:
        runner = web.AppRunner(make_whip(janus, token=TOKEN))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/whip/room"
        command = ["-m", "player", "publish", SAMPLE, url, "--token", TOKEN, "--codec", codec]
        publisher = await asyncio.create_subprocess_exec(
            sys.executable, *command, stderr=asyncio.subprocess.PIPE
        )
        watchers = [Watcher(), Watcher()]
        subscribers = [await joined(janus, watcher) for watcher in watchers]
        await until(lambda: all(watcher.counter.frames for watcher in watchers))
        before = [watcher.counter.frames for watcher in watchers]
        await asyncio.sleep(SECONDS)
        rates = [
            (watcher.counter.frames - start) / SECONDS
            for watcher, start in zip(watchers, before, strict=True)
        ]
        for subscriber, watcher in zip(subscribers, watchers, strict=True):
            await subscriber.close()
            await watcher.leave()
        publisher.send_signal(signal.SIGTERM)
        _, log = await publisher.communicate()
        await runner.cleanup()
    print(codec, rates)
    assert min(rates) > 24
    assert [watcher.codec for watcher in watchers] == [codec, codec]
    assert publisher.returncode == 0
    assert log.decode().count("\n") == 1  # what it publishes, and no complaint

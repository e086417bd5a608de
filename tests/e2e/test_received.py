"""Pictures that a viewer receives are those that are decoded."""

import asyncio

import av
import pytest
from aiortc import RTCSessionDescription
from helpers import fit_clip, run
from playing import SDP, make_item, make_server, offer_for, planes_of

from encoder.media.metrics import psnr_db
from player.server.app_keys import CHANNELS


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """A clip whose height leaves 2 when divided by 4, and the planes of its first frame as they are decoded to a file."""
    clip, folder = (
        fit_clip("fast", frames=3, height=90, width=160),
        tmp_path_factory.mktemp("decoded"),
    )
    (folder / "clip.nerv").write_bytes(bytes(clip))
    assert run("player decode clip.nerv clip.y4m --frames 0:1", folder).returncode == 0
    with av.open(folder / "clip.y4m") as container:
        return clip, planes_of(next(container.decode(video=0)))


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_what_a_viewer_receives_is_what_is_decoded(aiohttp_client, decoded, codec):
    clip, expected = decoded
    app = make_server([make_item(clip, engine="onnxruntime-cpu")])
    next(iter(app[CHANNELS].values())).shared.playing = False
    client = await aiohttp_client(app)
    peer, offer = await offer_for(codec)
    tracks = []
    peer.on("track", tracks.append)
    response = await client.post("/whep/tiny", data=offer, headers=SDP)
    await peer.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))
    for _ in range(10):
        frame = await asyncio.wait_for(tracks[0].recv(), 20)
    await peer.close()
    assert (frame.width, frame.height) == (160, 90)
    assert min(map(psnr_db, planes_of(frame), expected)) > 35

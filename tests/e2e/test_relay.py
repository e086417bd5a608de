import asyncio

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack
from load import Watcher
from relay import Relay, without_candidates
from waiting import until

ANSWER = (
    "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
    "a=candidate:1 1 udp 2130706431 192.0.2.1 9 typ host\r\n"
    "a=candidate:2 1 udp 2130706431 127.0.0.1 {port} typ host\r\n"
    "a=end-of-candidates\r\na=setup:active\r\n"
)
STUN, DTLS, RTP, RTCP = b"\x00\x01", b"\x16\xfe", b"\x80\x60", b"\x81\xc9"


class Peer(asyncio.DatagramProtocol):
    """Keeps what it receives."""

    def __init__(self):
        self.received = []

    def datagram_received(self, data, address):
        self.received.append((data, address))


async def open_peer():
    transport, peer = await asyncio.get_running_loop().create_datagram_endpoint(
        Peer, ("127.0.0.1", 0)
    )
    return transport, peer.received


async def settle():
    """Let what was sent arrive: all ends are in this loop, which reads a datagram of each per turn."""
    for _ in range(500):
        await asyncio.sleep(0)


@pytest.fixture
async def network():
    """A viewer, a relay that loses half of what comes down, and a server."""
    viewer, server = await open_peer(), await open_peer()
    async with Relay(down=0.5) as relay:
        relay.rewrite(ANSWER.format(port=server[0].get_extra_info("sockname")[1]))
        viewer[0].sendto(STUN, relay.address)
        await settle()
        yield viewer, relay, server
    viewer[0].close()
    server[0].close()
    await settle()


async def test_answer_names_the_relay_alone():
    async with Relay() as relay:
        answer = relay.rewrite(ANSWER.format(port=5000))
        host, port = relay.address
    candidates = [line for line in answer.splitlines() if "candidate" in line]
    assert candidates == [
        f"a=candidate:1 1 udp 2130706431 {host} {port} typ host",
        "a=end-of-candidates",
    ]
    assert "a=setup:active" in answer
    assert without_candidates(answer) == without_candidates(ANSWER)


async def test_media_is_lost_in_one_direction(network):
    (viewer, heard), relay, (server, asked) = network
    ((_, back),) = asked
    for number in range(200):
        server.sendto(RTP + bytes([number]), back)
        viewer.sendto(RTCP, relay.address)
        await asyncio.sleep(0)
    await settle()
    assert relay.dropped["down"] + relay.passed["down"] == 200
    assert 70 < relay.dropped["down"] < 130
    assert [address for _, address in heard] == [relay.address] * relay.passed["down"]
    assert len(asked) == 201
    assert (relay.passed["up"], relay.dropped["up"]) == (200, 0)


async def test_handshakes_are_never_lost(network):
    (_, heard), relay, (server, asked) = network
    relay.loss["down"] = 1.0
    for data in (STUN, DTLS, RTP, RTCP, STUN):
        server.sendto(data, asked[0][1])
    await settle()
    assert [data for data, _ in heard] == [STUN, DTLS, STUN]


async def test_losses_are_those_of_the_seed():
    def losses(seed):
        relay = Relay(down=0.1, seed=seed)
        return [
            relay._forward("down", RTP, relay._viewer) or relay.dropped["down"] for _ in range(100)
        ]

    assert losses(1) == losses(1) != losses(2)


async def test_viewer_connects_through_a_relay_and_asks_again_for_what_was_lost(monkeypatch):
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
    server = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    server.addTrack(VideoStreamTrack())
    async with Relay(down=0.1) as relay:
        watcher = Watcher(relay=relay)
        await server.setRemoteDescription(RTCSessionDescription(await watcher.offer(), "offer"))
        await server.setLocalDescription(await server.createAnswer())
        await watcher.accept(server.localDescription.sdp)
        await until(lambda: watcher.nacks and watcher.counter.frames > 10)
        assert relay.dropped["down"] > 0
        await watcher.leave()
        await server.close()

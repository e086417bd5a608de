"""Sends a server on this machine what strangers may send, for a while.

python tests/support/attacks.py http://127.0.0.1:8080 --ports 40000 40001 --seconds 60

prints how many of each attack were made. Its rates are bounded, so that the machine has time for the server.
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import time
import zlib
from collections import Counter
from collections.abc import Sequence

PAUSE_SECONDS = 0.02
HELD = 600
"""Connections that are kept open: more than a server takes."""
ADDRESSES = range(2, 10)
"""Last numbers of the loopback addresses that the connections come from."""
FLOOD = 50
"""Connections that come at once, and go."""
SDP = "Content-Type: application/sdp\r\n"


def request(head: str, headers: str = "", body: bytes = b"", length: int | None = None) -> bytes:
    """Return a request of HTTP."""
    size = len(body) if length is None else length
    return (
        f"{head} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {size}\r\n\r\n".encode()
        + body
    )


OFFER = "".join(
    f"{line}\r\n"
    for line in (
        *("v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", "m=video 9 UDP/TLS/RTP/SAVPF 97"),
        *("c=IN IP4 0.0.0.0", "a=mid:0", "a=recvonly", "a=rtcp-mux", "a=rtpmap:97 VP8/90000"),
        *("a=ice-ufrag:abcd", f"a=ice-pwd:{'x' * 22}", "a=setup:actpass"),
        f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}",
    )
).encode()
"""An offer that nobody goes on with."""
SECTION = b"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:x\r\n"
REQUESTS = {
    "bomb": request(
        "POST /whep/bunny",
        SDP + "Content-Encoding: deflate\r\n",
        zlib.compress(bytes(50_000_000), 9)[:50_000],
    ),
    "sections": request("POST /whep/bunny", SDP, b"v=0\r\n" + SECTION * 600),
    "no offer": request("POST /whep/bunny", SDP, b"v=0\r\nm=video 99999 UDP 96\r\n"),
    "no http": b"\x16\x03\x01" + bytes(100) + b"\r\n\r\n",
    "wrong header": b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
    "breaks off": request("POST /whep/bunny", SDP, b"v=0", 5000),
    "too long": request("POST /whep/bunny", SDP, b"", 10_000_000),
    "charset": request(
        "POST /whep/bunny",
        "Content-Type: application/sdp; charset=punycode\r\n",
        b"a-" + b"b" * 60_000,
    ),
    "feedback": request("POST /whep/bunny", SDP, OFFER + b"a=rtcp-fb:* x\r\n" * 1900),
    "offer": request("POST /whep/bunny", SDP, OFFER),
    "private offer": request("POST /whep/bunny?private=1", SDP, OFFER),
    "long name": request(f"GET /static/{'a' * 4000}"),
    "expectation": request("GET /", "Expect: a miracle\r\n"),
    "silent": b"",
    "half": b"POST /whep/bunny HTTP/1.1\r\nHost: x\r\n",
}
KINDS = (*REQUESTS, "flood")
DATAGRAMS = (
    b"",
    b"\x80" + bytes(100),
    b"\x80" + bytes(3000),
    b"\x16\xfe\xfd" + bytes(100),
    b"\x00\x01\x00\x08\x21\x12\xa4\x42" + bytes(20),
)


async def attack(
    host: str, port: int, ports: list[int], seconds: float, names: Sequence[str] = KINDS
) -> Counter[str]:
    """Attack for a time; return how often each way."""
    done: Counter[str] = Counter()
    chance = random.Random(0)
    held: list[asyncio.StreamWriter] = []
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while time.monotonic() < end:
            name = chance.choice(names)
            source = (f"127.0.0.{chance.choice(ADDRESSES)}", 0)
            with contextlib.suppress(OSError):
                for _ in range(FLOOD if name == "flood" else 0):
                    with socket.create_connection((host, port), source_address=source):
                        pass
                _, writer = await asyncio.open_connection(host, port, local_addr=source)
                writer.write(REQUESTS.get(name, b""))
                done[name] += 1
                held.append(writer)
            if len(held) > HELD:
                held.pop(0).transport.abort()
            for _ in range(5):
                sender.sendto(chance.choice(DATAGRAMS), (host, chance.choice(ports)))
                done["datagram"] += 1
            await asyncio.sleep(PAUSE_SECONDS)
    for writer in held:
        writer.transport.abort()
    return done


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    host, port = args.url.removeprefix("http://").strip("/").split(":")
    assert host.startswith("127.")  # this machine alone
    print(json.dumps(asyncio.run(attack(host, int(port), args.ports, args.seconds, args.only))))


if __name__ == "__main__":
    main()

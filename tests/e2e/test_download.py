import contextlib
import datetime as dt
import ipaddress
import re
import resource
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from waiting import wait_for

import encoder
from encoder.codec.container import MAX_FILE_BYTES, ChunkReader, signature
from encoder.common.errors import BitstreamError, SettingsError, SourceError
from player.playback import download as download_module
from player.playback.address import clip_name, parse_url, shown
from player.playback.download import Download
from player.retry import TransientError, backoff_seconds, retry_after_seconds

DATA = signature() + bytes(range(256)) * 40
"""The start of a clip whose first segment never comes."""
ETAG = '"one"'
CUT = 4000
"""Byte at which connections are cut."""


class Server(ThreadingHTTPServer):
    """Serves `data`, after the steps of `script` have answered a request each."""

    daemon_threads = False

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.data, self.script, self.requests = DATA, [], []
        self.released = threading.Event()
        """Event that lets answers go on."""
        self.url = f"http://127.0.0.1:{self.server_port}/clip.nerv"

    @property
    def ranges(self):
        return [headers.get("Range") for _, headers, _ in self.requests]

    @property
    def times(self):
        return [time for _, _, time in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        script = self.server.script
        self.server.requests.append((self.path, self.headers, time.monotonic()))
        with contextlib.suppress(OSError):
            (script.pop(0) if script else whole)(self)

    def log_message(self, *_):
        pass

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def answer(status=200, body=b"", **headers):
    """Return a script's step that sends headers (with _ for -) and a body."""
    headers = {"Content-Length": len(body)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }

    def send(handler):
        handler.start(status, {name: value for name, value in headers.items() if value is not None})
        handler.wfile.write(body)
        handler.close_connection = True

    return send


def whole(handler):
    """Answer as a good server does."""
    data = handler.server.data
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(found[1]) if found and handler.headers.get("If-Range") in (None, ETAG) else 0
    place = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
    answer(206 if start else 200, data[start:], ETag=ETAG, **place)(handler)


def cut(handler, **headers):
    """Answer with the file's first bytes and close the connection."""
    data = handler.server.data
    answer(body=data[:CUT], **({"Content_Length": len(data), "ETag": ETAG} | headers))(handler)


def reset(handler, **headers):
    cut(handler, **headers)
    handler.wfile.flush()
    time.sleep(0.1)  # a reset discards bytes that the client has not read
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang(handler):
    """Answer with the file's first bytes and nothing more."""
    cut(handler)
    handler.server.released.wait(20)


def silence(handler):
    handler.server.released.wait(20)


def no_ranges(handler):
    answer(body=handler.server.data)(handler)


def chunked(data, *, end=b"0\r\n\r\n"):
    return answer(
        body=f"{len(data):x}\r\n".encode() + data + b"\r\n" + end,
        Content_Length=None,
        Transfer_Encoding="chunked",
    )


def redirect(location, status=302):
    return answer(status, Location=location)


@pytest.fixture
def make_server():
    servers = []

    def make(context=None, port=0):
        server = Server(port)
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            server.url = server.url.replace("http:", "https:")
            server.handle_error = lambda *_: None  # of clients that do not trust it
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return server

    yield make
    for server, thread in servers:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def fetch(server):
    """Return a function that starts a download, of the server's file if not told otherwise."""
    with contextlib.ExitStack() as stack:

        def start(url=None, **options):
            options = {"retry_seconds": 0.01, "stall_seconds": 20} | options
            return stack.enter_context(contextlib.closing(Download(url or server.url, **options)))

        yield start


def threads():
    """Return the running threads of downloads."""
    return [thread for thread in threading.enumerate() if thread.name == "download"]


def ended(download):
    """Return a download once it has ended."""
    wait_for(lambda: download.is_whole or download.error is not None)
    return download


def assert_whole(download, data=DATA):
    assert ended(download).error is None
    assert download.is_whole
    assert download.path.read_bytes() == data
    assert download.received_bytes == len(data)


def assert_failed(download, reason):
    pattern = r"cannot fetch http://127\.0\.0\.1:\d+/clip\.nerv(\?\.\.\.)?: "
    assert re.fullmatch(pattern + re.escape(reason), ended(download).error)
    assert not download.is_whole
    with pytest.raises(SourceError, match=re.escape(download.error)):
        download.first_segment()


def test_whole_file(server, fetch, tiny_clip):
    server.data = bytes(tiny_clip)
    download = fetch()
    with contextlib.closing(download.first_segment(20)) as follower:
        assert_whole(download, bytes(tiny_clip))
        follower.read_on()
        assert follower.is_whole
        assert tuple(follower.clip.segments) == tuple(tiny_clip.segments)
    assert download.total_bytes == len(bytes(tiny_clip))
    ((path, headers, _),) = server.requests
    assert path == "/clip.nerv"
    assert (headers["Accept-Encoding"], headers["Range"], headers["If-Range"]) == (
        "identity",
        None,
        None,
    )


def test_first_segment_plays_while_the_second_travels(server, fetch, tiny_clip):
    data = bytes(tiny_clip)
    _, _, _, second, _ = ChunkReader().feed(data)

    def pause(handler):
        answer(body=data[: second.offset], Content_Length=len(data))(handler)
        server.released.wait(20)
        handler.wfile.write(data[second.offset :])

    server.script = [pause]
    download = fetch()
    with contextlib.closing(download.first_segment(20)) as follower:
        assert (follower.clip.end, follower.is_whole) == (3, False)
        assert (download.received_bytes, download.total_bytes, download.is_whole) == (
            second.offset,
            len(data),
            False,
        )
        server.released.set()
        assert_whole(download, data)
        follower.read_on()
        assert (follower.clip.end, follower.is_whole) == (6, True)


def test_first_segment_of_a_download_that_failed_later(server, fetch, tiny_clip):
    data = bytes(tiny_clip)
    _, _, _, second, _ = ChunkReader().feed(data)
    server.script = [answer(body=data[: second.offset], Content_Length=len(data)), answer(410)]
    download = ended(fetch())
    with contextlib.closing(download.first_segment()) as follower:
        assert (follower.clip.end, follower.is_whole) == (3, False)
    assert download.error.endswith("410 Gone")


@pytest.mark.parametrize("broken", [cut, reset])
def test_broken_connection_goes_on_where_it_was(server, fetch, broken):
    server.script = [broken]
    assert_whole(fetch())
    assert server.ranges == [None, f"bytes={CUT}-"]
    assert server.requests[1][1]["If-Range"] == ETAG


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"ETag": 'W/"1"', "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            "Mon, 01 Jan 2024 00:00:00 GMT",
        ),
        ({"ETag": 'W/"1"'}, None),
    ],
)
def test_weak_etag_does_not_tell_files_apart(server, fetch, headers, expected):
    place = f"bytes {CUT}-{len(DATA) - 1}/{len(DATA)}"
    server.script = [
        lambda handler: cut(handler, **headers),
        answer(206, DATA[CUT:], Content_Range=place),
    ]
    assert_whole(fetch())
    assert server.requests[1][1]["If-Range"] == expected


def test_parts_of_a_file(server, fetch):
    server.script = [
        answer(
            206,
            DATA[start : start + 3000],
            Content_Range=f"bytes {start}-{start + 2999}/{len(DATA)}",
        )
        for start in range(3000, 9000, 3000)
    ]
    server.script.insert(0, answer(body=DATA[:3000], Content_Length=len(DATA), ETag=ETAG))
    assert_whole(fetch())
    assert [headers["If-Range"] for _, headers, _ in server.requests] == [None, ETAG, ETAG, ETAG]
    assert server.ranges == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_silent_connection_is_broken(server, fetch):
    server.script = [hang]
    assert_whole(fetch(stall_seconds=0.3))
    assert server.ranges == [None, f"bytes={CUT}-"]


def test_server_without_ranges(server, fetch):
    server.script = [cut, cut, no_ranges]
    assert_whole(fetch())
    assert server.ranges == [None, f"bytes={CUT}-", f"bytes={CUT}-"]


@pytest.mark.parametrize(
    "second",
    [
        answer(body=b"!" + DATA[1:], ETag='"two"'),
        answer(body=DATA[: CUT - 1]),
        answer(206, DATA[CUT:], Content_Range=f"bytes {CUT}-{len(DATA) - 1}/{len(DATA) + 1}"),
        answer(
            206, DATA[CUT:], Content_Range=f"bytes {CUT}-{len(DATA) - 1}/{len(DATA)}", ETag='"two"'
        ),
        answer(206, DATA[CUT:] + b"!", Content_Range=f"bytes {CUT}-{len(DATA) - 1}/{len(DATA)}"),
        answer(416, Content_Range=f"bytes */{CUT - 1}"),
    ],
    ids=["bytes", "shorter", "total", "etag", "longer", "416"],
)
def test_file_changed(server, fetch, second):
    server.script = [cut, second]
    assert_failed(fetch(), "the file changed on the server")


def test_file_that_grew_on_the_server(server, fetch):
    server.data = DATA[:-1]
    server.script = [cut, answer(body=DATA, ETag='"two"')]
    download = fetch()
    assert_whole(download)
    assert download.total_bytes == len(DATA)


def test_parts_of_two_versions_are_not_mixed(server, fetch):
    server.data = DATA[: CUT - 1] + b"!" + DATA[CUT:]
    old = answer(body=DATA[:CUT], Content_Length=len(DATA), ETag='"old"')
    server.script = [old, answer(body=server.data[: CUT - 10], Content_Length=len(DATA), ETag=ETAG)]
    assert_failed(fetch(), "the file changed on the server")
    assert [headers["If-Range"] for _, headers, _ in server.requests] == [None, '"old"', '"old"']


@pytest.mark.parametrize(
    "range_",
    [f"bytes {CUT + 1}-{len(DATA) - 1}/{len(DATA)}", f"bytes 0-{CUT}/{len(DATA)}", "?", None],
)
def test_wrong_content_range(server, fetch, range_):
    server.script = [cut, answer(206, DATA[CUT:], Content_Range=range_)]
    assert_failed(fetch(), f"the server sends another part of it than that from byte {CUT}")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "404 Not Found"),
        (403, "403 Forbidden"),
        (410, "410 Gone"),
        (204, "204 No Content"),
        (416, "416 Requested Range Not Satisfiable"),
        (499, "status 499"),
    ],
)
def test_refusal_is_final(server, fetch, status, reason):
    server.script = [answer(status)]
    assert_failed(fetch(), reason)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_trouble(server, fetch, status):
    server.script = [answer(status), cut, answer(status)]
    assert_whole(fetch())
    assert server.ranges == [None, None, f"bytes={CUT}-", f"bytes={CUT}-"]


def test_retry_after_is_honoured(server, fetch, caplog):
    server.script = [answer(503, Retry_After="1")]
    assert_whole(fetch())
    first, second = server.times
    assert second - first >= 1
    assert caplog.messages == [f"{server.url}: 503 Service Unavailable; trying again in 1.0 s"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("3600", 60),
        ("9" * 400, 60),
        ("-1", 0),
        ("soon", 0),
        ("", 0),
        (formatdate(0, usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60),
        ("Mon, 01 Jan 0001 00:00:00 -2359", 0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0),
    ],
)
def test_retry_after(text, seconds):
    assert retry_after_seconds({"Retry-After": text}, most=60) == seconds


def test_backoff_doubles():
    waits = [backoff_seconds(failures, 0.5) for failures in range(10)]
    assert waits == [0.5, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff_seconds(10_000, 0.5) == 30


def test_server_may_ask_for_a_longer_backoff():
    assert backoff_seconds(1, 0.5, TransientError("busy", retry_seconds=60)) == 60
    assert backoff_seconds(4, 0.5, TransientError("busy", retry_seconds=1)) == 4


def test_gives_up_after_ten_failures_without_progress(server, fetch):
    server.script = [*[answer(500)] * 9, cut, *[answer(500)] * 10]
    assert_failed(fetch(retry_seconds=0.0001), "500 Internal Server Error, after 10 tries")
    assert len(server.requests) == 20


@pytest.mark.parametrize(
    "step",
    [
        lambda handler: answer(Content_Length=None)(handler) or handler.wfile.write(DATA),
        chunked(DATA),
    ],
    ids=["close", "chunked"],
)
def test_file_of_unknown_size(server, fetch, step):
    server.script = [step]
    download = fetch()
    assert_whole(download)
    assert download.total_bytes is None


def test_reset_of_a_file_of_unknown_size_is_not_its_end(server, fetch):
    server.script = [lambda handler: reset(handler, Content_Length=None)]
    assert_whole(fetch())
    assert server.ranges == [None, f"bytes={CUT}-"]


def test_broken_chunks_go_on(server, fetch):
    server.script = [chunked(DATA[:CUT], end=b"")]
    download = fetch()
    assert_whole(download)
    assert server.ranges == [None, f"bytes={CUT}-"]
    assert download.total_bytes == len(DATA)


def test_nothing_was_missing(server, fetch):
    server.script = [chunked(DATA, end=b""), answer(416, Content_Range=f"bytes */{len(DATA)}")]
    assert_whole(fetch())
    assert server.ranges == [None, f"bytes={len(DATA)}-"]


def test_compressed_file_is_refused(server, fetch):
    server.script = [answer(body=DATA, Content_Encoding="gzip")]
    assert_failed(fetch(), "the server sends it in the encoding 'gzip'")


def test_too_large_by_its_header(server, fetch):
    server.script = [answer(Content_Length=MAX_FILE_BYTES + 1)]
    assert_failed(fetch(), f"it is larger than {MAX_FILE_BYTES} bytes")


def test_too_large_without_saying_so(server, fetch, monkeypatch):
    monkeypatch.setattr(download_module, "MAX_FILE_BYTES", CUT)
    server.script = [chunked(DATA)]
    download = fetch()
    assert_failed(download, f"it is larger than {CUT} bytes")
    assert download.path.stat().st_size <= CUT


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed_with_each_request(server, fetch, status):
    server.script = [redirect("/a b/\xe9?x=1", status), cut, redirect("other", status)]
    assert_whole(fetch())
    assert [path for path, _, _ in server.requests] == [
        "/clip.nerv",
        "/a%20b/%E9?x=1",
        "/clip.nerv",
        "/other",
    ]
    assert server.ranges == [None, None, f"bytes={CUT}-", f"bytes={CUT}-"]


def test_redirect_loop(server, fetch):
    server.script = [redirect("/clip.nerv")] * 9
    assert_failed(fetch(), "more than 5 redirects")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (
            "file:///etc/passwd",
            "it redirects, and a URL must start with http:// or https://, got file:",
        ),
        (
            "ftp://127.0.0.1/clip.nerv",
            "it redirects, and a URL must start with http:// or https://, got ftp:",
        ),
        (
            "http://[::1",
            "it redirects, and a URL must be like https://host/clip.nerv, got a malformed one",
        ),
        (None, "302 Found does not say where to"),
    ],
)
def test_redirect_elsewhere_is_refused(server, fetch, location, reason):
    server.script = [redirect(location)]
    assert_failed(fetch(), reason)


def test_password_is_for_its_server_alone(server, make_server, fetch, caplog):
    other = make_server()
    server.script = [redirect("/clip.nerv"), redirect(other.url)]
    other.script = [answer(503), answer(404)]
    server.script += server.script
    download = fetch(server.url.replace("//", "//us%40er:pass%3Aword@") + "?key=hidden")
    assert_failed(download, "404 Not Found")
    assert [headers["Authorization"] for _, headers, _ in server.requests] == [
        "Basic dXNAZXI6cGFzczp3b3Jk"
    ] * 4
    assert [headers["Authorization"] for _, headers, _ in other.requests] == [None, None]
    assert len(caplog.messages) == 1
    for text in (*caplog.messages, download.error):
        assert server.url in text
        assert not re.search("er:|pass|word|hidden", text)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/clip.nerv", "start with"),
        ("file:///etc/passwd", "start with .* got file:"),
        ("ftp://user:secret@host/clip.nerv", "start with .* got ftp:"),
        ("http://user:secret@/clip.nerv", "without a valid host"),
        ("http://user:secret@a host/clip.nerv", "without a valid host"),
        ("http://user:secret@host:99999/clip.nerv", "malformed"),
        ("http://user:se/cret@host/clip.nerv", "malformed"),
        ("http://user:secret@[::1/clip.nerv", "malformed"),
        ("http://user:secret@a..b/clip.nerv", "malformed"),
        ("http://user:secret\udcff@host/clip.nerv", "malformed"),
    ],
)
def test_what_is_no_url(url, reason):
    with pytest.raises(SettingsError, match=reason) as caught:
        Download(url)
    assert not re.search("user|se/?cret", str(caught.value))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/bunny.nerv", "bunny"),
        ("/a/b%C3%BCcher%20%F0%9F%90%B0.nerv?key=1#part", "bücher 🐰"),
        ("/bücher.nerv", "bücher"),
        ("/a/evil%1B%5B2J%0A.nerv", "evil?[2J?"),
        ("/a%2F..%2Fb.nerv", "b"),
        ("/a/video", "video"),
        ("/a/.nerv", "clip"),
        ("/a/..", "clip"),
        ("/a/", "clip"),
        ("", "clip"),
    ],
)
def test_name(path, name):
    assert clip_name(parse_url(f"https://host{path}")) == name


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("HTTP://User@HOST:8080/a b.nerv?key=1#part", "http://host:8080/a%20b.nerv?..."),
        ("https://bücher.example", "https://xn--bcher-kva.example/"),
        ("http://[::1]:81/a%20b\x1b", "http://[::1]:81/a%20b%1B"),
        ("http://host:80/a?", "http://host/a"),
    ],
)
def test_address_as_it_is_shown(url, text):
    assert shown(parse_url(url)) == text


def test_what_is_no_clip_fails_at_once(server, fetch):
    server.data = b"<!DOCTYPE html>" + DATA
    server.script = [hang]
    download = fetch()
    with pytest.raises(BitstreamError, match="not a nervcast clip"):
        download.first_segment(20)
    assert (download.is_whole, download.error) == (False, None)


def test_clip_without_a_segment(server, fetch, tiny_clip):
    data = bytes(tiny_clip)
    server.data = data[: len(data) // 10]
    with pytest.raises(BitstreamError, match="ends before its first segment"):
        fetch().first_segment(20)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([silence], "0 bytes have come"),
        ([answer(503, Retry_After="60")], "503 Service Unavailable"),
    ],
)
def test_first_segment_is_not_waited_for_longer_than_told(server, fetch, script, reason):
    server.script = script
    with pytest.raises(
        SourceError,
        match=re.escape(f"cannot fetch {server.url}: no segment within 0.3 s ({reason})"),
    ):
        fetch().first_segment(0.3)


@pytest.mark.parametrize(
    ("script", "received"),
    [([silence], 0), ([hang], CUT), ([answer(503, Retry_After="60")], 0)],
    ids=["silent", "hangs", "waits"],
)
def test_close_does_not_wait_for_the_server(server, fetch, script, received):
    server.script = script
    download = fetch()
    wait_for(lambda: download.received_bytes == received and server.requests)
    time.sleep(0.1)  # the answer arrives
    start = time.monotonic()
    download.close()
    assert time.monotonic() - start < 0.9
    assert threads() == []
    assert not download.path.exists()
    assert (download.is_whole, download.error) == (False, None)
    with pytest.raises(SourceError, match="it was closed"):
        download.first_segment(20)
    download.close()


def test_close_of_a_file_of_unknown_size_does_not_make_it_whole(server, fetch):
    server.script = [lambda handler: cut(handler, Content_Length=None) or server.released.wait(20)]
    download = fetch()
    wait_for(lambda: download.received_bytes == CUT)
    download.close()
    assert threads() == []
    assert not download.is_whole


def test_close_at_once(fetch):
    for _ in range(20):
        fetch().close()
    assert threads() == []


def test_close_does_not_wait_for_the_lookup_of_a_name(fetch, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(20))
    download = fetch("http://host/clip.nerv")
    start = time.monotonic()
    download.close()
    assert time.monotonic() - start < 5
    with pytest.raises(SourceError, match="it was closed"):
        download.first_segment()
    released.set()
    wait_for(lambda: threads() == [])


def test_close_ends_the_wait_for_the_first_segment(server, fetch):
    server.script = [silence]
    download = fetch()
    timer = threading.Timer(0.2, download.close)
    timer.start()
    with pytest.raises(SourceError, match="it was closed"):
        download.first_segment()
    timer.join()


def test_nobody_listens(fetch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert_failed(fetch(f"http://127.0.0.1:{port}/clip.nerv"), "Connection refused")


def test_server_that_is_gone_for_a_while(server, make_server, fetch, caplog):
    server.script = [hang]
    download = fetch(retry_seconds=0.05)
    wait_for(lambda: download.received_bytes == CUT)
    server.shutdown()
    server.socket.close()
    server.released.set()
    wait_for(lambda: "Connection refused; trying again" in caplog.text)
    second = make_server(port=server.server_port)
    assert_whole(download)
    assert second.ranges == [f"bytes={CUT}-"]


def test_answer_that_is_no_http(server, fetch):
    server.script = [lambda handler: handler.wfile.write(b"SSH-2.0\x1b[2J\r\n")]
    with pytest.raises(SourceError, match=r"\(the answer is broken: .*Expected HTTP/.*SSH-2\.0"):
        fetch(retry_seconds=30).first_segment(0.5)


def test_full_disk(server, fetch):
    server.data = DATA * 300
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        download = ended(fetch())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_failed(download, f"cannot write to {download.path}: File too large")


def test_messages_name_no_internal_error(server, fetch, monkeypatch, caplog):
    monkeypatch.setattr(download_module, "retry_after_seconds", lambda *_, **__: 1 / 0)
    server.script = [answer(503)]
    assert_failed(fetch(), "internal error, see the log")
    assert "ZeroDivisionError" in caplog.text


@pytest.fixture
def certificate(tmp_path):
    """A certificate for this machine, which vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*plain))
    return path


@pytest.fixture
def secure(make_server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return make_server(context)


def test_https(secure, fetch, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    secure.script = [cut]
    assert_whole(fetch(secure.url))
    secure.script = [hang]
    download = fetch(secure.url)
    wait_for(lambda: download.received_bytes == CUT)
    download.close()
    assert threads() == []


def test_certificate_that_nobody_vouches_for(secure, fetch):
    download = ended(fetch(secure.url))
    assert "certificate verify failed" in download.error
    assert secure.requests == []


def test_clip_is_opened_by_its_url(server, tiny_clip):
    server.data = bytes(tiny_clip)
    assert bytes(encoder.open(server.url)) == bytes(tiny_clip)
    server.script = [answer(404)]
    with pytest.raises(SourceError, match=r"cannot read http://127.*clip\.nerv: Not Found"):
        encoder.open(f"{server.url}?token=secret")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed connection"),
        (b"garbage\r\n\r\n", "garbage"),
        (b"HTTP/1.1 404 Gone away\r\n\r\n", "Gone away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "it ends after 3 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "IncompleteRead"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "unknown url type: ftp"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/hosts\r\n\r\n", "not allowed"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "Invalid IPv6 URL"),
    ],
)
def test_answer_of_a_web_server_that_is_no_clip(answer, message):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as threads:
            threads.submit(serve)
            url = f"http://127.0.0.1:{server.getsockname()[1]}/x.nerv"
            with pytest.raises(SourceError, match=f"^cannot read {url}: [^\n]*{message}[^\n]*$"):
                encoder.open(f"{url}?token=secret")

"""A plain HTTP server of a folder, as any static host is one."""

import re
import threading
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

INDEX_BYTES = 1 << 16
"""Bytes of a file's end in which the page looks for the index."""


class Handler(SimpleHTTPRequestHandler):
    """Serves files without a word; other origins may read them where `allowed`."""

    allowed = False

    def end_headers(self):
        if self.allowed:
            self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_):
        pass


class SharingHandler(Handler):
    allowed = True


class RangesHandler(Handler):
    """Serves ranges of clips; of a whole clip, only the beginning comes before it may go on."""

    beginning = 100_000
    serves_ranges = True
    may_go_on = threading.Event()
    is_slow = False
    """Whether ranges other than the index wait until they may come."""
    may_answer = threading.Event()
    asked: ClassVar[list[int]] = []
    """First bytes of the ranges that were asked for."""

    def do_GET(self):
        if not self.path.endswith(".nerv"):
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        wish = self.headers.get("Range", "") if self.serves_ranges else ""
        found = re.fullmatch(r"bytes=(\d+)-", wish)
        start = int(found[1]) if found else 0
        if found:
            self.asked.append(start)
        if found and self.is_slow and start < len(data) - INDEX_BYTES:
            self.may_answer.wait(30)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if found else HTTPStatus.OK)
        self.send_header("Content-Length", str(len(data) - start))
        if found:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        with suppress(ConnectionError):  # the page may leave
            if not found:
                self.wfile.write(data[: self.beginning])
                self.wfile.flush()
                self.may_go_on.wait(30)
                start = self.beginning
            self.wfile.write(data[start:])


@contextmanager
def hosting(folder, handler=Handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

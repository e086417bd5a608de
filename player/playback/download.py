"""Downloads of clips from the web into temporary files, which play while they grow."""

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import threading
from concurrent.futures import Future
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from tempfile import NamedTemporaryFile

import aiohttp
from yarl import URL

from encoder.codec.clip_reader import ClipReader
from encoder.codec.container import MAX_FILE_BYTES
from encoder.codec.growing_file import GrowingFile
from encoder.common.console import printable
from encoder.common.errors import BitstreamError, SettingsError, SourceError
from player.playback.address import authorization, clip_name, parse_url, shown
from player.retry import TransientError, backoff_seconds, cause_of, reason_of, retry_after_seconds

STALL_SECONDS = 10.0
"""Time without a byte after which a connection counts as broken."""
RETRY_SECONDS = 0.5
"""Backoff after the first failure."""
MAX_RETRY_AFTER_SECONDS = 60.0
"""Longest backoff that a server may ask for."""
MAX_FAILURES = 10
"""Failures in a row, without a byte between them, that end a download."""
CLOSE_SECONDS = 1.0
"""Time that closing waits for the thread, because the lookup of a name cannot be interrupted."""
MAX_REDIRECTS = 5

REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)})
"""Statuses that may change with another request."""
HOPELESS = (socket.gaierror, ConnectionRefusedError, ssl.SSLError)
"""Errors that end a download before the first answer: the address is wrong, not the connection."""
VALIDATORS = {"ETag": re.compile(r'"[!#-~]*"'), "Last-Modified": re.compile("[ -~]+")}
"""Headers that tell versions of a file apart, the better first. Weak ETags do not."""
CONTENT_RANGE = re.compile(
    r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/(?:([0-9]{1,18})|\*)", re.IGNORECASE
)

logger = logging.getLogger(__name__)


class Download:
    """A download in a thread of its own, which resumes after a broken connection."""

    def __init__(
        self,
        url: str,
        *,
        stall_seconds: float = STALL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Start the thread. Raises SettingsError unless the URL is one of http or https."""
        self._url = parse_url(url)
        self._timeout = aiohttp.ClientTimeout(sock_connect=stall_seconds, sock_read=stall_seconds)
        self._retry_seconds = retry_seconds
        self.name = clip_name(self._url)
        """Name of the clip for people to read: the name of the file without its suffix."""
        self.received_bytes = 0
        """Size of the file so far."""
        self.total_bytes: int | None = None
        """Size of the whole file, if the server has told it."""
        self.is_whole = False
        """Whether the file is complete."""
        self.error: str | None = None
        """Reason why the download ended before the file was whole."""
        self._validator: tuple[str, str] | None = None
        self._problem: str | None = None
        """Reason of the last failure, if no byte came since."""
        self._has_answered = False
        self._reader = ClipReader()
        self._beginning = Future[None]()
        """Done once the first segment is there, or cannot come."""
        self._file = NamedTemporaryFile(prefix="nervcast-", suffix=".nerv", buffering=0)  # noqa: SIM115 (closed by `close`)
        self.path = Path(self._file.name)
        """The file."""
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._fetch())
        self._task.add_done_callback(self._end)
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def first_segment(self, timeout_seconds: float | None = None) -> GrowingFile:
        """Wait for the first segment, and return a reader of the growing file.

        Raises BitstreamError if the file is not a clip. Raises SourceError if the download fails,
        or the first segment does not come in time.
        """
        try:
            self._beginning.result(timeout_seconds)
        except TimeoutError:
            reason = self._problem or f"{self.received_bytes} bytes have come"
            raise self._failed(f"no segment within {timeout_seconds:g} s ({reason})") from None
        return GrowingFile(self.path)

    def close(self) -> None:
        """End the thread and remove the file."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread has ended
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(CLOSE_SECONDS)
        with contextlib.suppress(FileNotFoundError):  # the system may clean its folder up
            self._file.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(asyncio.wait({self._task}))

    def _end(self, task: asyncio.Task[None]) -> None:
        """Tell other threads how the download ended."""
        error = self._failed("it was closed") if task.cancelled() else task.exception()
        if not (error is None or isinstance(error, SourceError)):
            logger.error("downloading ended", exc_info=error)
            error = self._failed("internal error, see the log")
        self.is_whole = error is None
        self.error = None if error is None or task.cancelled() else str(error)
        if not self._beginning.done():
            self._beginning.set_exception(
                error or BitstreamError("clip ends before its first segment")
            )

    def _failed(self, reason: str) -> SourceError:
        return SourceError(f"cannot fetch {shown(self._url)}: {reason}")

    def _agree(self, *, is_same: bool) -> None:
        if not is_same:
            raise self._failed("the file changed on the server")

    async def _fetch(self) -> None:
        """Request the file until it is whole. Raises SourceError."""
        failures = 0
        async with aiohttp.ClientSession(
            # The default context ignores later changes of SSL_CERT_FILE.
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            headers={"User-Agent": "nervcast", "Accept-Encoding": "identity"},
        ) as session:
            while True:
                before = self.received_bytes
                try:
                    return await self._request(session)
                except (OSError, aiohttp.ClientError, TransientError) as error:
                    failures = 0 if self.received_bytes > before else failures + 1
                    await asyncio.sleep(self._backoff_seconds(error, failures))

    def _backoff_seconds(self, error: Exception, failures: int) -> float:
        """Return the time until the next request. Raises SourceError if there is none."""
        self._problem = reason_of(error)
        if failures >= MAX_FAILURES:
            raise self._failed(f"{self._problem}, after {failures} tries")
        if isinstance(cause_of(error), HOPELESS) and not self._has_answered:
            raise self._failed(self._problem)
        seconds = backoff_seconds(failures, self._retry_seconds, error)
        logger.warning("%s: %s; trying again in %.1f s", shown(self._url), self._problem, seconds)
        return seconds

    async def _request(self, session: aiohttp.ClientSession) -> None:
        """Request the missing bytes, follow redirects, and store the answer.

        Raises SourceError. Raises another error where another request may help.
        """
        headers = {"Range": f"bytes={self.received_bytes}-"} if self.received_bytes else {}
        if headers and self._validator is not None:
            headers["If-Range"] = self._validator[1]
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(
                url.with_user(None),
                headers=headers | authorization(url, self._url),
                allow_redirects=False,
            ) as response:
                try:
                    if response.status not in REDIRECTS:
                        self._has_answered = True
                        return await self._take(response)
                    url = self._redirected(url, response)
                finally:
                    connection = response.connection
                    if connection is not None and connection.transport is not None:
                        connection.transport.abort()  # a TLS shutdown would wait for the server
        raise self._failed(f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, url: URL, response: aiohttp.ClientResponse) -> URL:
        location = response.headers.get("Location")
        if location is None:
            raise self._failed(f"{_phrase(response.status)} does not say where to")
        try:  # aiohttp decodes bytes that are not UTF-8 as surrogates
            return parse_url(location.encode(errors="surrogateescape"), url)
        except SettingsError as error:
            raise self._failed(f"it redirects, and {error}") from None

    async def _take(self, response: aiohttp.ClientResponse) -> None:
        """Check an answer and store its bytes."""
        position, total = _place(response)
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total is not None:
            self._agree(is_same=total == self.received_bytes)
            return
        self._check(response, position, total)
        protocol = response.connection and response.connection.protocol
        is_open = True
        with contextlib.suppress(aiohttp.ClientPayloadError):  # the connection broke
            while is_open:
                if position == self.received_bytes:  # all earlier bytes are of this version
                    self.total_bytes = total or self.total_bytes
                    self._validator = _validator(response) or self._validator
                data = await response.content.readany()
                self._store(data, position)
                position += len(data)
                is_open = bool(data)
        # aiohttp takes a reset for the end of a file whose size it does not know.
        is_reset = protocol is not None and isinstance(protocol.exception(), OSError)
        end = self.received_bytes if self.total_bytes is None else self.total_bytes
        self._agree(is_same=position <= end)
        if is_open or position < end or (is_reset and self.total_bytes is None):
            raise TransientError(
                f"the connection ended at byte {position} of {self.total_bytes or '?'}"
            )

    def _check(self, response: aiohttp.ClientResponse, start: int, total: int | None) -> None:
        status = response.status
        headers = response.headers
        if status in TRANSIENT:
            seconds = retry_after_seconds(headers, most=MAX_RETRY_AFTER_SECONDS)
            raise TransientError(_phrase(status), retry_seconds=seconds)
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._failed(_phrase(status))
        encoding = headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise self._failed(f"the server sends it in the encoding {printable(encoding)!r}")
        # A file that is sent from its start may be another version: its bytes tell.
        if status == HTTPStatus.PARTIAL_CONTENT:
            if start != self.received_bytes:
                raise self._failed(
                    f"the server sends another part of it than that from byte {self.received_bytes}"
                )
            name, value = self._validator or ("", "")
            self._agree(is_same=headers.get(name, value) == value)
            self._agree(is_same=None in (total, self.total_bytes) or total == self.total_bytes)
        self._limit(total or 0)
        self._agree(is_same=total is None or total >= self.received_bytes)

    def _limit(self, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise self._failed(f"it is larger than {MAX_FILE_BYTES} bytes")

    def _store(self, data: bytes, position: int) -> None:
        """Write bytes at a position. Bytes that are there already must be the same."""
        self._limit(position + len(data))
        known = min(self.received_bytes - position, len(data))
        self._file.seek(position)
        self._agree(is_same=self._file.read(known) == data[:known])
        new = data[known:]
        try:
            written = 0
            while written < len(new):
                written += self._file.write(new[written:])
        except OSError as error:
            raise self._failed(f"cannot write to {self.path}: {error.strerror}") from None
        self.received_bytes += len(new)
        self._problem = None
        if not self._beginning.done():
            try:
                self._reader.feed(new)
                if self._reader.segments:
                    self._beginning.set_result(None)
            except BitstreamError as error:
                self._beginning.set_exception(error)


def _phrase(status: int) -> str:
    return f"{status} {responses[status]}" if status in responses else f"status {status}"


def _place(response: aiohttp.ClientResponse) -> tuple[int, int | None]:
    """Return the first byte of an answer, and the size of the file if the server tells it."""
    if response.status == HTTPStatus.OK:
        return 0, response.content_length
    place = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    start, total = place.groups() if place else (None, None)
    return int(start or -1), None if total is None else int(total)


def _validator(response: aiohttp.ClientResponse) -> tuple[str, str] | None:
    """Return the header that names the version of the file, and its value."""
    found = [(name, response.headers.get(name, "")) for name in VALIDATORS]
    return next((each for each in found if VALIDATORS[each[0]].fullmatch(each[1])), None)

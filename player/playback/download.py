"""A clip from the web: a thread fetches it into a temporary file, which plays while it grows."""

import contextlib
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from email.message import Message
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

from encoder.codec.clip import ClipReader
from encoder.codec.container import MAX_FILE_BYTES
from encoder.codec.growing_file import GrowingFile
from encoder.common.console import printable
from encoder.common.errors import SettingsError, SourceError, first_line
from player.playback.address import Address
from player.playback.retry import retry_after_seconds

STALL_SECONDS = 10.0
"""Time without a byte after which a connection counts as broken."""
RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0
"""Time before the first new try, which doubles with each failure, and the longest."""
MAX_RETRY_AFTER_SECONDS = 60.0
"""Longest time that a server may ask for before a new try."""
MAX_FAILURES = 10
"""Failures in a row, without a byte between them, after which there is no new try."""
CLOSE_SECONDS = 1.0
"""Time that closing waits for the thread: a name that is looked up and a connection that is made cannot be interrupted."""
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 16
MAX_SHOWN = 100
"""Characters of a server's answer that are shown."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)})
"""Statuses that another try may change."""
HOPELESS = (socket.gaierror, ConnectionRefusedError, ssl.SSLError)
"""What ends a download before a server has answered at all: then the address is wrong, rather than the connection."""
VALIDATORS = {"ETag": re.compile(r'"[!#-~]*"'), "Last-Modified": re.compile("[ -~]+")}
"""Headers that tell a file from a changed one, the better first: weak ETags do not."""
CONTENT_RANGE = re.compile(
    r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/(?:([0-9]{1,18})|\*)", re.IGNORECASE
)

logger = logging.getLogger(__name__)


class _RetryError(HTTPException):
    """Something that may be better next time."""

    def __init__(self, reason: str, *, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


@dataclass(frozen=True)
class _Body:
    """What an answer says of the bytes that it brings."""

    start: int
    """Their place in the file."""
    total: int | None
    """Size of the whole file, if it is told."""
    validator: tuple[str, str] | None
    """A header that names the file's version, and its value."""


class Download:
    """Fetches a URL into a file of its own, and goes on where it was when a connection breaks."""

    def __init__(
        self,
        url: str,
        *,
        stall_seconds: float = STALL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Start the thread; raises SettingsError for what is no http or https URL."""
        self._address = Address.parse(url)
        self._stall_seconds = stall_seconds
        self._retry_seconds = retry_seconds
        self.name = self._address.name
        """Name of the clip, for people to read: that of the file, without its suffix."""
        self.received_bytes = 0
        """Size of the file so far."""
        self.total_bytes: int | None = None
        """Size of the whole file, where the server has told it."""
        self.is_whole = False
        """Whether all of the file is there."""
        self.error: str | None = None
        """Why there will be no more of the file, if it is not whole."""
        self._validator: tuple[str, str] | None = None
        """What names the version of the file that the bytes are of."""
        self._problem: str | None = None
        """Why the last try failed, if there has been no byte since."""
        self._has_answered = self._has_ended = self._closed = False
        self._socket: socket.socket | None = None
        self._changed = threading.Condition()
        self._folder = TemporaryDirectory(prefix="nervcast-")
        self.path = Path(self._folder.name) / "clip.nerv"
        """The file."""
        file = self.path.open("w+b", buffering=0)
        self._thread = threading.Thread(
            target=self._run, args=(file,), name="download", daemon=True
        )
        self._thread.start()

    def first_segment(self, timeout_seconds: float | None = None) -> GrowingFile:
        """Wait until something can be shown, and return what follows the file.

        Raises BitstreamError for a file that is no clip, SourceError for one that cannot be fetched, or not in time.
        """
        reader = ClipReader()
        deadline = time.monotonic() + (timeout_seconds or 0.0)
        with self._open() as file:
            while not reader.segments:
                has_ended = self._has_ended
                for block in iter(partial(file.read, BLOCK_BYTES), b""):
                    reader.feed(block)
                if has_ended:
                    break
                left = None if timeout_seconds is None else deadline - time.monotonic()
                if not (reader.segments or self._wait_beyond(reader.file_bytes, left)):
                    reason = self._problem or f"{self.received_bytes} bytes have come"
                    raise self._failed(f"no segment within {timeout_seconds:g} s ({reason})")
        if not reader.segments and not self.is_whole:
            raise SourceError(self.error or str(self._failed("it was closed")))
        return GrowingFile(self.path)

    def close(self) -> None:
        """End the thread and remove the file."""
        with self._changed:
            self._closed = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # the server may have been faster
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        self._folder.cleanup()

    def _open(self) -> FileIO:
        try:
            return self.path.open("rb", buffering=0)
        except OSError:
            raise self._failed("it was closed") from None

    def _wait_beyond(self, size: int, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._has_ended or self.received_bytes > size, seconds
            )

    def _failed(self, reason: str) -> SourceError:
        return SourceError(f"cannot fetch {self._address}: {reason}")

    def _run(self, file: FileIO) -> None:
        try:
            with file:
                self._fetch(file)
        except SourceError as error:
            self.error = str(error)
        except Exception:
            # Our bug or a library's: who waits for the file must not wait for ever.
            self.error = str(self._failed("internal error, see the log"))
            logger.exception("downloading ended")
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _fetch(self, file: FileIO) -> None:
        failures = 0
        while not (self.is_whole or self._closed):
            before = self.received_bytes
            try:
                self._try(file)
            except (OSError, HTTPException) as error:
                failures = 0 if self.received_bytes > before else failures + 1
                self._pause(error, failures)

    def _pause(self, error: OSError | HTTPException, failures: int) -> None:
        """Wait after a failure; raises SourceError if it was the last."""
        if self._closed:
            return
        self._problem = _reason(error)
        if failures >= MAX_FAILURES:
            raise self._failed(f"{self._problem}, after {failures} tries")
        if isinstance(error, HOPELESS) and not self._has_answered:
            raise self._failed(self._problem)
        seconds = _back_off(failures, self._retry_seconds)
        if isinstance(error, _RetryError):
            seconds = max(seconds, error.after_seconds)
        logger.warning("%s: %s; trying again in %.1f s", self._address, self._problem, seconds)
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _try(self, file: FileIO) -> None:
        """Ask for what is missing and take what comes.

        Raises SourceError, or OSError or HTTPException where another try may get further.
        """
        with self._answer() as response:
            self._has_answered = True
            body = self._check(response)
            if body is not None:
                self._take(response, file, body)
            with self._changed:
                # Where nobody knows the size, closing looks like the end of the file.
                self.is_whole = not self._closed

    @contextlib.contextmanager
    def _answer(self) -> Generator[HTTPResponse]:
        """Ask for what is missing, also where a server sends us on to, and give the answer."""
        headers: dict[str, str] = {}
        if self.received_bytes:
            headers["Range"] = f"bytes={self.received_bytes}-"
            if self._validator is not None:
                headers["If-Range"] = self._validator[1]
        address = self._address
        for _ in range(MAX_REDIRECTS + 1):
            with (
                contextlib.closing(address.connect(self._stall_seconds)) as connection,
                self._interruptible(connection),
                address.ask(connection, headers) as response,
            ):
                if response.status not in REDIRECTS:
                    yield response
                    return
                address = self._redirected(address, response)
        raise self._failed(f"more than {MAX_REDIRECTS} redirects")

    def _redirected(self, address: Address, response: HTTPResponse) -> Address:
        location = response.headers.get("Location")
        if location is None:
            raise self._failed(f"{_phrase(response.status)} does not say where to")
        try:
            return address.redirect(location)
        except SettingsError as error:
            raise self._failed(f"it redirects, and {error}") from None

    @contextlib.contextmanager
    def _interruptible(self, connection: HTTPConnection) -> Generator[None]:
        """Let `close` end a connection, by a handle that is not closed meanwhile."""
        own = connection.sock
        with socket.fromfd(own.fileno(), own.family, own.type) as handle:
            with self._changed:
                if self._closed:
                    raise _RetryError("it was closed")
                self._socket = handle
            try:
                yield
            finally:
                with self._changed:
                    self._socket = None

    def _check(self, response: HTTPResponse) -> _Body | None:
        """Return what an answer brings, None if nothing is missing; raises as `_try` does."""
        status = response.status
        headers = response.headers
        if status in PASSING:
            after = retry_after_seconds(
                headers.get("Retry-After", ""), most=MAX_RETRY_AFTER_SECONDS
            )
            raise _RetryError(_phrase(status), after_seconds=after)
        start, total = _content_range(headers)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total is not None:
            self._agree(is_same=total == self.received_bytes)
            return None
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise self._failed(_phrase(status))
        encoding = headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise self._failed(
                f"the server sends it in the encoding {printable(encoding)[:MAX_SHOWN]!r}"
            )
        # Whether a file that is sent from its start is still the same, its bytes tell.
        whole = _Body(0, response.length, _validator(headers))
        body = whole if status == HTTPStatus.OK else self._check_part(headers, start, total)
        if body.total is not None and body.total > MAX_FILE_BYTES:
            raise self._too_large()
        self._agree(is_same=body.total is None or body.total >= self.received_bytes)
        return body

    def _check_part(self, headers: Message, start: int | None, total: int | None) -> _Body:
        if start is None or start != self.received_bytes:
            raise self._failed(
                f"the server sends another part of it than that from byte {self.received_bytes}"
            )
        self._agree(is_same=None in (total, self.total_bytes) or total == self.total_bytes)
        if self._validator is not None:
            name, value = self._validator
            self._agree(is_same=headers.get(name, value) == value)
        return _Body(start, total, self._validator or _validator(headers))

    def _agree(self, *, is_same: bool) -> None:
        if not is_same:
            raise self._failed("the file changed on the server")

    def _too_large(self) -> SourceError:
        return self._failed(f"it is larger than {MAX_FILE_BYTES} bytes")

    def _take(self, response: HTTPResponse, file: FileIO, body: _Body) -> None:
        """Take the bytes of an answer; those that are there already must be the same."""
        position = body.start
        self._adopt(body, position)
        while data := response.read1(BLOCK_BYTES):
            known = min(self.received_bytes - position, len(data))
            if known:
                file.seek(position)
                self._agree(is_same=file.read(known) == data[:known])
            self._append(file, data[known:])
            position += len(data)
            self._adopt(body, position)
        end = self.received_bytes if self.total_bytes is None else self.total_bytes
        self._agree(is_same=position <= end)
        if position < end:
            raise _RetryError(f"the connection ended at byte {position} of {end}")

    def _adopt(self, body: _Body, position: int) -> None:
        """Believe what an answer says of the file once all that was there before is known to be of that file."""
        if position == self.received_bytes:
            self.total_bytes = self.total_bytes if body.total is None else body.total
            self._validator = body.validator

    def _append(self, file: FileIO, data: bytes) -> None:
        if self.received_bytes + len(data) > MAX_FILE_BYTES:
            raise self._too_large()
        try:
            file.seek(self.received_bytes)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise self._failed(f"cannot write to {self.path}: {error.strerror}") from None
        with self._changed:
            self.received_bytes += len(data)
            self._problem = None
            self._changed.notify_all()


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, _RetryError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return f"the answer is broken: {printable(first_line(error))[:MAX_SHOWN]}"


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def _back_off(failures: int, first_seconds: float) -> float:
    """Return the time to wait after a number of failures in a row."""
    return min(first_seconds * 2 ** max(failures - 1, 0), MAX_RETRY_SECONDS)


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Return where a part starts, and the size of the whole file, as far as they are told."""
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    start, total = found.groups() if found else (None, None)
    return None if start is None else int(start), None if total is None else int(total)


def _validator(headers: Message) -> tuple[str, str] | None:
    found = ((name, headers.get(name, "")) for name in VALIDATORS)
    return next(((name, value) for name, value in found if VALIDATORS[name].fullmatch(value)), None)

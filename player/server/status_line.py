"""Status of a server in one line of the terminal, renewed every second."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from typing import IO

from player.playback.playout import Playout

SECONDS = 1.0
"""Time from one line to the next."""
CLEAR = "\r\x1b[K"


def describe(
    playouts: Iterable[Playout], reports: Sequence[Mapping[str, float | None]] = ()
) -> str:
    """Return the worst stats of the playouts with viewers, and of the reports of their pages."""
    watched = [(playout.source, playout.stats) for playout in playouts if playout.viewers]
    if not watched:
        return "no viewers"
    slowest, decode = min(watched, key=lambda pair: pair[1].decode_fps / pair[0].clip.header.rate)
    multiple = decode.decode_fps / float(slowest.clip.header.rate)
    encode = min((stats for _, stats in watched), key=lambda stats: stats.encode_fps)
    parts = [
        f"decode {decode.decode_fps:.1f} fps ({multiple:.1f}x)",
        f"encode {encode.encode_fps:.1f} fps {encode.encode_ms:.1f} ms",
        f"sent {min(stats.sent_fps for _, stats in watched):.1f}",
        _worst("received", "received_fps", reports),
        _worst("presented", "presented_fps", reports),
        f"{sum(stats.bitrate for _, stats in watched) / 1e6:.1f} Mb/s",
        f"viewers {sum(stats.viewers for _, stats in watched)}",
    ]
    return " | ".join(filter(None, parts))


def _worst(name: str, key: str, reports: Iterable[Mapping[str, float | None]]) -> str:
    values = [value for report in reports if (value := report.get(key)) is not None]
    return f"{name} {min(values):.1f}" if values else ""


@contextlib.asynccontextmanager
async def showing(file: IO[str], text: Callable[[], str]) -> AsyncGenerator[None]:
    """Show a text on a terminal, renewed every second, while the body runs.

    Nothing is written to a file that is no terminal.
    """
    task = asyncio.create_task(_keep_showing(file, text))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_showing(file: IO[str], text: Callable[[], str]) -> None:
    if not file.isatty():
        return
    with _clearing(file):
        while True:
            columns = shutil.get_terminal_size().columns
            file.write(f"{CLEAR}{text()[: columns - 1]}")
            file.flush()
            await asyncio.sleep(SECONDS)


@contextlib.contextmanager
def _clearing(file: IO[str]) -> Generator[None]:
    """Clear the line before each log record, and at the end."""

    def clear(_record: logging.LogRecord) -> bool:
        file.write(CLEAR)
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(clear)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(clear)
        file.write(CLEAR)

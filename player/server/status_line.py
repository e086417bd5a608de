"""How a server goes, in one line that is renewed every second."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from typing import IO

from player.playback.playout import Playout

SECONDS = 1.0
CLEAR = "\r\x1b[K"


def describe(streams: Iterable[Playout], reports: Sequence[dict[str, float | None]] = ()) -> str:
    """Return the figures of the streams that are watched, of each the worst; of the viewers what their pages report."""
    watched = [(stream, stream.figures) for stream in streams if stream.viewers]
    if not watched:
        return "no viewers"
    slowest, decode = min(
        watched, key=lambda pair: pair[1].decode_fps / pair[0].item.clip.header.rate
    )
    multiple = decode.decode_fps / float(slowest.item.clip.header.rate)
    encode = min((figures for _, figures in watched), key=lambda figures: figures.encode_fps)
    parts = [
        f"decode {decode.decode_fps:.1f} fps ({multiple:.1f}x)",
        f"encode {encode.encode_fps:.1f} fps {encode.encode_ms:.1f} ms",
        f"sent {min(figures.sent_fps for _, figures in watched):.1f}",
        *(
            _worst(name, key, reports)
            for name, key in (("received", "received_fps"), ("presented", "presented_fps"))
        ),
        f"{sum(figures.bitrate for _, figures in watched) / 1e6:.1f} Mb/s",
        f"viewers {sum(figures.viewers for _, figures in watched)}",
    ]
    return " | ".join(filter(None, parts))


def _worst(name: str, key: str, reports: Iterable[dict[str, float | None]]) -> str:
    values = [value for report in reports if (value := report.get(key)) is not None]
    return f"{name} {min(values):.1f}" if values else ""


@contextlib.asynccontextmanager
async def showing(stream: IO[str], text: Callable[[], str]) -> AsyncGenerator[None]:
    """Show a text on a terminal, anew every second, while the body runs; elsewhere nothing."""
    task = asyncio.create_task(_keep_showing(stream, text))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_showing(stream: IO[str], text: Callable[[], str]) -> None:
    if not stream.isatty():
        return
    with _making_way(stream):
        while True:
            columns = shutil.get_terminal_size().columns
            stream.write(f"{CLEAR}{text()[: columns - 1]}")
            stream.flush()
            await asyncio.sleep(SECONDS)


@contextlib.contextmanager
def _making_way(stream: IO[str]) -> Generator[None]:
    """Have the line vanish before anything is logged, and at the end."""

    def clear(_record: logging.LogRecord) -> bool:
        stream.write(CLEAR)
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(clear)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(clear)
        stream.write(CLEAR)

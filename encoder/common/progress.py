"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Generator
from typing import IO, Protocol

PLAIN_SECONDS = 5.0
"""Time between two lines of progress without a terminal."""


class Update(Protocol):
    """Callback that takes the progress of a job."""

    def __call__(self, done: float, text: str = "") -> None:
        """Show the part of the total that is done, and a text."""
        ...


@contextlib.contextmanager
def progress(title: str, *, total: float = 1.0, stream: IO[str] | None = None) -> Generator[Update]:
    """Show progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""
    output: IO[str] = stream or sys.stderr
    if not output.isatty():
        yield _Lines(title, total, output)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(file=output)) as bar:
        task = bar.add_task(title, total=total, text="")

        def update(done: float, text: str = "") -> None:
            bar.update(task, completed=done, text=text)

        yield update


class _Lines:
    def __init__(self, title: str, total: float, stream: IO[str]) -> None:
        self._title = title
        self._total = total
        self._stream = stream
        self._next = time.monotonic() + PLAIN_SECONDS
        self._has_ended = False

    def __call__(self, done: float, text: str = "") -> None:
        now = time.monotonic()
        if self._has_ended or (now < self._next and done < self._total):
            return
        self._has_ended = done >= self._total
        self._next = now + PLAIN_SECONDS
        print(
            f"{self._title}: {int(100 * done / self._total):3}% {text}".rstrip(),
            file=self._stream,
            flush=True,
        )

"""Waits for what another thread, process or task does, however slow the machine is."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], seconds: float = 60.0) -> Value:
    """Return what a condition returns, once that is true; raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
    return value


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Let the event loop run until a condition holds; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.01)

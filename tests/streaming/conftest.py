"""Playouts in virtual time, for the tests of streaming."""

from collections.abc import AsyncIterator

import pytest
from stand_ins import Studio


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    """Playouts that are closed after the test."""
    studio = Studio()
    yield studio
    await studio.close()

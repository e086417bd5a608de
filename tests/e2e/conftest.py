"""Browsers for the tests of pages."""

import pytest
from chromium import CHROMIUM, DRIVER, browsing


@pytest.fixture
def driver(tmp_path):
    """A headless Chromium."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium: sh tests/support/install_peers.sh")
    with browsing(tmp_path / "profile") as driver:
        yield driver

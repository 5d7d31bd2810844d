"""Debian's Chromium through Playwright, which brings no browser of its own here."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

__all__ = ["chromium"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATHS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with an empty profile; the test is skipped where there is none."""
    path = next((found for name in _PATHS if (found := shutil.which(name)) is not None), None)
    if path is None or not Path(path).exists():
        pytest.skip("no Chromium; `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        except Error as error:
            pytest.skip(f"{path} does not start here: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()

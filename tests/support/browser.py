"""A real browser for tests: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.apt import AptInstaller

NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1400, "height": 900}
WAIT_MS = 60_000.0
DRAWING_MS = 1500.0
"""Graphs move into their place."""
# It is to talk to the page's server and to nobody else; root, in a container, has no sandbox to give it.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def chromium() -> str:
    """Its path; installed where it is missing and may be. Skips the test where there is none to be had."""
    if (found := find()) is not None:
        return found
    apt = AptInstaller("chromium", lambda: find() is not None)
    obstacle = apt.obstacle()
    if not obstacle:
        try:
            apt.install()
        except OSError as error:
            obstacle = str(error)
    return find() or pytest.skip(f"no browser: Chromium is missing; {obstacle}")


@contextmanager
def page(profile: Path) -> Iterator[Page]:
    """One page of a browser with an empty profile; what it waits for comes within a minute or fails."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            profile, executable_path=chromium(), args=OPTIONS, viewport=SIZE, headless=True
        )
        try:
            opened = browser.pages[0] if browser.pages else browser.new_page()
            opened.set_default_timeout(WAIT_MS)
            expect.set_options(timeout=WAIT_MS)
            yield opened
        finally:
            browser.close()


def picture(page: Page, name: str) -> None:
    """A screenshot, if POORWILL_TEST_PICTURES names a folder for it: those of the README are made so."""
    if folder := os.environ.get("POORWILL_TEST_PICTURES"):
        page.wait_for_timeout(DRAWING_MS)
        page.screenshot(path=Path(folder) / f"{name}.png")

"""The page in a real browser, for a picture of it.

python -m bibier_hf.demo.screenshot outputs/quickstart docs/demo.png    # needs playwright and a Chromium (Debian:
chromium)
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, ViewportSize, sync_playwright

from .analysis import Limits
from .app import build_app, serve
from .examples import SCENE, write_examples
from .texts import TEXTS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

SIZE: ViewportSize = {"width": 1280, "height": 900}
"""Of the window, in pixels."""

PATIENCE_MS = 120_000
"""How long an answer may take, in milliseconds."""

_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
"""A microphone that beeps, and no question whether it may be used."""


def find_browser() -> str | None:
    """Path of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def open_window(size: ViewportSize = SIZE, language: str = "en-US") -> Generator[Page]:
    """An empty window of a browser, in light colours, with a microphone that beeps.

    Raises:
        FileNotFoundError: no browser here.
    """
    browser_path = find_browser()
    if browser_path is None:
        raise FileNotFoundError(f"None of {', '.join(BROWSERS)} is here. Install one (Debian: apt install chromium).")
    with sync_playwright() as playwright:
        # Its sandbox refuses to run as root, which containers do; only our own page is opened.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", *_MICROPHONE])
        try:
            context = browser.new_context(
                viewport=size, color_scheme="light", locale=language, permissions=["microphone"]
            )
            yield context.new_page()
        finally:
            browser.close()


def wait_for_recording(page: Page) -> None:
    """Until the recording has come to the page: its length is shown."""
    page.locator("#duration:not(:text-is('0:00'))").wait_for(timeout=PATIENCE_MS)


def take_screenshot(pipe: Any, picture: str | Path) -> None:
    """Show the longest example to a pipeline and write the whole page as a PNG."""
    limits = Limits()
    with tempfile.TemporaryDirectory() as examples:
        app = build_app(pipe, write_examples(examples), limits)
        serve(app, limits, wait=False)
        try:
            with open_window() as page:
                page.goto(app.local_url or "")
                page.get_by_role("button", name=SCENE).click()
                wait_for_recording(page)
                page.get_by_role("button", name=TEXTS["en"].button, exact=True).click()
                page.locator(".strip").wait_for(timeout=PATIENCE_MS)
                page.wait_for_timeout(2000)  # until bars and wave have stopped moving
                page.screenshot(path=picture, full_page=True)
        finally:
            app.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bibier_hf.demo.screenshot")
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("picture", help="PNG to write")
    arguments = parser.parse_args()
    from ..commands.checkpoint import load_pipeline

    take_screenshot(load_pipeline(arguments.checkpoint), arguments.picture)
    print(f"{arguments.picture}: {Path(arguments.picture).stat().st_size / 1000:.0f} kB", file=sys.stderr)

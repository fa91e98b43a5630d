"""Take a screenshot of the demo page in a real browser.

    python tools/screenshot.py outputs/quickstart docs/demo.png

Needs playwright and a Chromium (Debian: apt install chromium).
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

from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.demo.analysis import Limits
from bibier_hf.demo.app import build_app, serve
from bibier_hf.demo.examples import SCENE, write_examples
from bibier_hf.demo.texts import TEXTS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

SIZE: ViewportSize = {"width": 1280, "height": 900}
"""Window size in pixels."""

PATIENCE_MS = 120_000
"""Longest wait for an answer, in milliseconds."""

_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
"""Simulate a beeping microphone and grant access to it."""


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def open_window(size: ViewportSize = SIZE, language: str = "en-US") -> Generator[Page]:
    """Open an empty browser window in light colors, with a beeping microphone.

    Raises:
        FileNotFoundError: no browser is installed.
    """
    browser_path = find_browser()
    if browser_path is None:
        raise FileNotFoundError(
            f"None of {', '.join(BROWSERS)} is installed. Install one (Debian: apt install chromium)."
        )

    with sync_playwright() as playwright:
        # The sandbox refuses to run as root, as in containers. Only our own page is opened.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", *_MICROPHONE])
        try:
            context = browser.new_context(
                viewport=size, color_scheme="light", locale=language, permissions=["microphone"]
            )
            yield context.new_page()
        finally:
            browser.close()


def wait_for_recording(page: Page) -> None:
    """Wait until the page has loaded the recording and shows its duration."""
    page.locator("#duration:not(:text-is('0:00'))").wait_for(timeout=PATIENCE_MS)


def take_screenshot(pipe: Any, picture: str | Path) -> None:
    """Analyze the longest example with a pipeline and save the page, down to the bands over time, as a PNG."""
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
                page.locator(".downloads").wait_for(timeout=PATIENCE_MS)
                page.wait_for_timeout(2000)  # until bars and wave have stopped moving
                last = page.locator(".downloads").bounding_box()
                assert last is not None
                height = last["y"] + last["height"] + 24
                page.screenshot(
                    path=picture, full_page=True, clip={"x": 0, "y": 0, "width": SIZE["width"], "height": height}
                )
        finally:
            app.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("picture", help="PNG to write")
    arguments = parser.parse_args()
    take_screenshot(load_pipeline(arguments.checkpoint), arguments.picture)
    print(f"{arguments.picture}: {Path(arguments.picture).stat().st_size / 1000:.0f} kB", file=sys.stderr)

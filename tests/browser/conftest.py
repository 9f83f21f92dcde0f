"""A headless Chromium of the system, and pages of the viewer in it that must stay free of errors and requests."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """The browser, started once."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install 'agentopd[browser]'"
    )
    if BROWSER is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is on the path")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Opens a file (or an address) at a place behind ``#``; afterwards no error may have been told and nothing asked for elsewhere."""
    contexts, problems = [], []

    def opened(page: Path | str, place: str = "", **options: object) -> "Page":
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(8000)
        home = page.as_uri() if isinstance(page, Path) else page

        def asked(request: "Request") -> None:
            if not request.url.startswith((home, "data:", "blob:")):
                problems.append(f"asked for {request.url}")

        shown.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("request", asked)
        shown.goto(home + (f"#{place}" if place else ""))
        shown.wait_for_selector("body[data-ready]")
        return shown

    yield opened
    for context in contexts:
        context.close()
    assert problems == []

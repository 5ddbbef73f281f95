"""A real browser for the pages that are looked at: Chromium without a window, in a fresh profile for each page."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no chromium here; on Debian: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def shown(browser):
    """Opens pages from disk; at the end no error, message of the console, dialog or request may have been seen."""
    seen, contexts = [], []

    def opened(path, width=1200, height=800, ignored=(), init="", **options):
        """The page of a file; ``ignored``: kinds of messages that may come; ``init``: JavaScript run before its own."""
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: seen.append(message.text) if message.type not in ignored else 0)
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on(
            "request", lambda asked: seen.append(asked.url) if asked.url[:5] not in ("file:", "data:", "blob:") else 0
        )
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.add_init_script(init)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert seen == []

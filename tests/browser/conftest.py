"""A real browser without a network, for the tests marked `browser`: these run only if `-m browser` asks for them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.example import Example, example

ARGUMENTS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1280,900",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "browser" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Browser:
    """Chromium on pages of `tests.browser.example`."""

    def __init__(self, driver: Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, made: Example | None = None, **parts: Any) -> Example:
        """Opens a page from a file: an example, or one made of `parts`."""
        made = example(**parts) if made is None else made
        file = self.folder / "page.html"
        file.write_text(made.html, "utf-8")
        self.show(file)
        return made

    def show(self, file: Path) -> None:
        """Opens a file."""
        self.folder = file.parent
        self.driver.get_log("performance")
        self.driver.get(file.as_uri())

    def look(self, css: str) -> None:
        """Scrolls to an element, and waits until what is seen there is drawn."""
        script = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 60))"
        self.run("document.querySelector(arguments[0]).scrollIntoView()", css)
        self.driver.execute_async_script(script)

    def run(self, script: str, *args: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *args)

    def all(self, css: str) -> list[WebElement]:
        """The elements of a selector."""
        return self.driver.find_elements("css selector", css)

    def one(self, css: str) -> WebElement:
        """The first element of a selector."""
        return self.driver.find_element("css selector", css)

    def text(self, css: str) -> str:
        """The text of an element, seen or not."""
        return str(self.one(css).get_property("textContent"))

    def choose(self, name: str, value: Any) -> None:
        """Sets a control by its id, as a reader would."""
        kind = "change" if self.one(f"#{name}").tag_name == "select" else "input"
        script = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        self.run(f"{script} one.dispatchEvent(new Event('{kind}', {{bubbles: true}}))", name, str(value))
        if self.one(f"#{name}").tag_name == "select":
            self.run("document.getElementById(arguments[0]).dispatchEvent(new Event('input', {bubbles: true}))", name)

    def canvas(self, of: WebElement) -> tuple[list[int], int, int]:
        """The colours of a canvas, four numbers a pixel, and its height and width."""
        script = (  # a copy: reading from the canvas itself would make the browser complain
            "const {width, height} = arguments[0], copy = document.createElement('canvas');"
            "Object.assign(copy, {width, height}); const paint = copy.getContext('2d', {willReadFrequently: true});"
            "paint.drawImage(arguments[0], 0, 0);"
            "return [[...paint.getImageData(0, 0, width, height).data], height, width]"
        )
        found = self.run(script, of)
        return found[0], found[1], found[2]

    def requests(self) -> list[str]:
        """The addresses asked for since the page was opened, but for the page and data inside it."""
        told = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in told if one["method"] == "Network.requestWillBeSent"]
        return [one for one in asked if not one.startswith(("data:", self.folder.as_uri()))]

    def errors(self) -> list[str]:
        """What the console says since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def program(*names: str) -> str:
    """The first program of these names that is installed."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail(f"{names[0]} is missing. Debian: apt-get install chromium chromium-driver")
    return found


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium, without a network."""
    options = ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for argument in [*ARGUMENTS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options, Service(program("chromedriver")))
    chrome.execute_cdp_cmd("Network.enable", {})
    off = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", off)
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(driver: Chrome, tmp_path: Path) -> Iterator[Browser]:
    """The browser; a page that complains fails its test."""
    driver.get("about:blank")
    driver.get_log("browser")
    one = Browser(driver, tmp_path)
    yield one
    assert not one.errors()
    assert not one.requests()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    path = Path(os.environ.get("AXE_CORE", "axe.min.js"))
    if not path.is_file():
        pytest.fail("axe-core is missing: run make test-browser, which gets it from npm.")
    return path.read_text("utf-8")

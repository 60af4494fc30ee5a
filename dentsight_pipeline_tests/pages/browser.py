"""A headless Chromium, and the pages' servers as people start them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 30


@contextmanager
def browser(width: int = 1400, height: int = 900) -> Iterator[WebDriver]:
    """A browser with a profile of its own; without Chromium and its driver the test is left out."""
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(paths.values()):
        pytest.skip("no chromium and chromedriver")
    options = Options()
    options.binary_location = paths["chromium"] or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(paths["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


class Server:
    """`dentsight read` or `review` in a process of its own."""

    def __init__(self, command: Sequence[str], folder: Path, changed: str = "") -> None:
        """Starts it, and waits for its links; `changed` is run before, in its process."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{changed}\nfrom dentsight_pipeline.cli import main; main()", *command, "--json"],
            stdout=subprocess.PIPE, text=True, cwd=folder,
        )  # fmt: skip
        told = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told += line
            if line.startswith("}"):
                break
        self.links: dict[str, str] = json.loads(told)["links"]

    def kill(self) -> None:
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(SECONDS)


@contextmanager
def served(command: Sequence[str], folder: Path, changed: str = "") -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(command, folder, changed)
    try:
        yield server
    finally:
        server.stop()


class Visitor:
    """Somebody who opened a link, without a browser."""

    def __init__(self, link: str) -> None:
        """Opens it."""
        self.origin = link.split("/in/")[0]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = self._opener.open(link).read().decode()
        self._token = page.split('data-token="')[1].split('"')[0]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the server answers to a page's request."""
        headers = {"X-Dentsight": self._token, "Origin": self.origin}
        data = None if body is None else json.dumps(body).encode()
        return json.load(self._opener.open(urllib.request.Request(self.origin + path, data, headers)))


def press(driver: WebDriver, *keys: str) -> None:
    """Keys, one after the other, wherever the focus is."""
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


def draw(driver: WebDriver, width: int, height: int) -> None:
    """A box from the middle of the X-ray, by pointer."""
    viewer = driver.find_element(By.ID, "viewer")
    drawn = ActionChains(driver).move_to_element(viewer).click_and_hold()
    drawn.move_by_offset(width // 2, height // 2).move_by_offset(width - width // 2, height - height // 2)
    drawn.release().perform()


def text(driver: WebDriver, selector: str) -> str:
    """What an element says."""
    return driver.find_element(By.CSS_SELECTOR, selector).text


def wait(driver: WebDriver, selector: str, said: str) -> None:
    """Until an element is there and says something."""
    seen: list[str] = []

    def says(page: WebDriver) -> bool:
        seen.append(text(page, selector))
        return said in seen[-1]

    try:
        WebDriverWait(driver, SECONDS).until(says)
    except TimeoutException as error:
        raise AssertionError(f"{selector} never said {said!r}, at last {seen[-1:]}") from error


ENTER = Keys.ENTER

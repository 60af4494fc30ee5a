"""The reader study's page in a browser: by keyboard, reloaded, in two windows, killed, with a hostile name."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from dentsight_pipeline_tests.pages.browser import ENTER, browser, draw, press, served, text, wait
from dentsight_pipeline_tests.pages.studies import write_study

A = "A. Bell <script>document.title='owned'</script>"
C = "C. Dorn"


@pytest.mark.slow
def test_a_study_is_read_by_keyboard_through_reloads_windows_and_a_kill(tmp_path: Path) -> None:
    """Nothing said is lost, nothing is said twice, nobody reads under another's name, and names are only text."""
    write_study(tmp_path / "s", readers=(A, C))
    with browser() as driver:
        with served(["read", "s"], tmp_path) as server:
            driver.get(server.links[A])
            wait(driver, "#progress", "image 1 of 3")
            assert driver.title == "Ten X-rays"
            assert text(driver, "#reader") == A
            ActionChains(driver).send_keys("36cc36c").perform()  # a quick hand: marked, taken back, marked
            wait(driver, "#marks", "36 caries")
            press(driver, "r")  # crown: its first letter is taken
            wait(driver, "#marks", "36 crown")
            press(driver, "r")
            press(driver, "/")
            wait(driver, "#message", "Draw the box of 36 caries")
            draw(driver, 60, 40)
            wait(driver, ".box.drawn", "36 caries")
            driver.refresh()
            wait(driver, "#marks", "36 caries")
            wait(driver, ".box.drawn", "36 caries")
            assert "crown" not in text(driver, "#marks")

            driver.switch_to.new_window("tab")
            driver.get(server.links[A])
            wait(driver, "#marks", "36 caries")
            press(driver, ENTER)
            wait(driver, "#progress", "image 2 of 3")
            driver.switch_to.window(driver.window_handles[0])
            wait(driver, "#progress", "image 2 of 3")
            assert text(driver, "#marks") == "nothing yet"

            driver.get(server.links[C])
            assert "somebody else's" in text(driver, "#refused")
            driver.get(server.links[A])
            wait(driver, "#progress", "image 2 of 3")
            press(driver, "1", "1", "c")
            wait(driver, "#marks", "11 caries")
            server.kill()
            press(driver, "p")
            wait(driver, "#message", "the server does not answer")
        with served(["read", "s"], tmp_path) as server:
            driver.get(server.links[A])
            wait(driver, "#marks", "11 caries")
            press(driver, ENTER)
            wait(driver, "#progress", "image 3 of 3")
            press(driver, ENTER)
            wait(driver, "#message", "Nothing is marked")
            press(driver, ENTER)
            wait(driver, "#rest-title", "All images are read")
            source = driver.page_source
            assert "owned" not in driver.title
            assert "script>document" not in source.replace("&lt;script&gt;document", "")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 700, 420])
def test_the_page_fits_at_twice_the_size_and_on_a_narrow_screen(tmp_path: Path, width: int) -> None:
    """Nothing may hang over the side, and every tooth can be touched; 1400 px at 200 % are 700."""
    write_study(tmp_path / "s")
    with served(["read", "s"], tmp_path) as server, browser(width) as driver:
        driver.get(server.links[C])
        wait(driver, "#progress", "image 1 of 3")

        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        for tooth in driver.find_elements(By.CSS_SELECTOR, ".tooth"):
            assert tooth.rect["width"] >= 24 and tooth.rect["height"] >= 24
        driver.find_element(By.CSS_SELECTOR, "[data-tooth='36']").click()
        driver.find_element(By.CSS_SELECTOR, "[data-condition='caries']").click()
        wait(driver, "#marks", "36 caries")


def test_what_does_not_come_from_the_page_is_refused(tmp_path: Path) -> None:
    """Another site that knows the address can neither read nor write, nor can a name that points to localhost."""
    write_study(tmp_path / "s")

    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(base + path, data, {k.replace("_", "-"): v for k, v in headers.items()})
        try:
            return opener.open(request).status
        except urllib.error.HTTPError as error:
            return error.code

    with served(["read", "s"], tmp_path) as server:
        base = server.links[C].split("/in/")[0]
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert status("/") == 403
        assert status("/image/0") == 403
        assert status("/in/" + "0" * 64) == 403
        page = opener.open(server.links[C]).read().decode()
        token = page.split('data-token="')[1].split('"')[0]
        body = b'{"position":0,"tooth":"36","condition":"caries","present":true}'
        assert status("/mark", body) == 403
        assert status("/mark", body, X_Dentsight=token) == 403
        assert status("/mark", body, X_Dentsight=token, Origin="http://evil.example") == 403
        assert status("/state", Host="evil.example") == 400
        assert status("/mark", body, X_Dentsight=token, Origin=base) == 200
        assert status("/mark", b'{"position":0}', X_Dentsight=token, Origin=base) == 400
        assert status("/image/1") == 409

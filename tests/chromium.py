"""A real browser: Chromium, by its driver, and what tests do with a page in it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from needs import need

#: The longest wait for anything; a miss is a failure.
SECONDS = 20

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # a page is left before its scripts have run so often that compiling them again pays
    "--js-flags=--no-opt --no-maglev",
    # as on a phone: they lie over the page and take no room
    "--hide-scrollbars",
)


#: Chromium without the windows, tabs and menus around a page, which draw and listen even where
#: nobody sees them: the same pages cost it half the time. By that name the driver knows it.
SHELL, SHELL_TO_DRIVER = "chromium-headless-shell", "chrome-headless-shell"


def start_browser(profile_dir: Any) -> webdriver.Chrome:
    """Start a browser without a window, with a profile of its own."""
    shell, driver = shutil.which(SHELL), shutil.which("chromedriver")
    browser = shell or shutil.which("chromium")
    need(browser and driver, f"{SHELL} or chromium, and chromedriver (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    if shell:
        options.set_capability("browserName", SHELL_TO_DRIVER)
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={profile_dir}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: Any) -> Iterator[Any]:
    """A browser for the tests of a module."""
    made = start_browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()
    gc.collect()


#: How many presses of the tabulator lead from what has the focus to the control of that name.
_CONTROLS_BEFORE = """
const all = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")]
  .filter((each) => each.tabIndex >= 0 && !each.disabled && each.checkVisibility());
const named = all.findIndex((each) => (each.ariaLabel || each.textContent).trim() === arguments[0]);
return named - all.indexOf(document.activeElement);
"""


class BrowserPage:
    """The page that the browser shows. address: that of the server, without "/" at its end."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, condition: Callable[[], Any]) -> Any:
        # A page may be replaced while it is being read: look again.
        waits = WebDriverWait(self.driver, SECONDS, 0.1, ignored_exceptions=[WebDriverException])
        return waits.until(lambda _driver: condition())

    def press(self, *keys: str) -> None:
        """Press keys, at whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        return str(self.run("return document.activeElement.outerHTML.split('>')[0]"))

    def tab_to(self, label: str) -> None:
        """Go on with the tabulator to the control of this name.

        Most of the way is one command, of as many presses as there seem to be controls between.
        """
        self.press(Keys.TAB * max(0, int(self.run(_CONTROLS_BEFORE, label))))
        name = "const e = document.activeElement; return e.ariaLabel || e.textContent"
        for _ in range(60):
            if self.run(name).strip() == label:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"no control {label!r}: {self.focused()}")

    def hide(self, yes: bool = True) -> None:
        """Have the page believe that nobody sees it, as in another tab."""
        change = (
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            if yes else "delete document.hidden;"
        )  # fmt: skip
        self.run(f"{change} document.dispatchEvent(new Event('visibilitychange'))")

    def count_requests(self) -> None:
        """Count the requests that scripts make from now on."""
        self.run(
            "const own = fetch; window.made = 0;"
            "window.fetch = (...given) => { window.made += 1; return own(...given); }"
        )

    def requests_after_timers(self) -> int:
        """How many there were when the timers that are due have run."""
        script = "const done = arguments[0]; setTimeout(() => setTimeout(() => done(made)))"
        return int(self.driver.execute_async_script(script))

    def complaints(self) -> list[str]:
        """What the browser has complained of, such as a violation of the policy."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]


def set_script_enabled(driver: Any, yes: bool) -> None:
    """Switch JavaScript on or off."""
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not yes})

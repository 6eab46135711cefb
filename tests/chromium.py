"""A real browser: Chromium, by its driver."""

from __future__ import annotations

import shutil
from typing import Any

from selenium import webdriver

from needs import need

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # as on a phone: they lie over the page and take no room
    "--hide-scrollbars",
)


def chromium_or_skip() -> tuple[Any, Any]:
    """Give the paths of browser and driver."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    need(browser and driver, "chromium and chromedriver (Debian: chromium, chromium-driver)")
    return browser, driver


def start_browser(profile_dir: Any) -> webdriver.Chrome:
    """Start a browser without a window, with a profile of its own."""
    browser, driver = chromium_or_skip()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={profile_dir}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))

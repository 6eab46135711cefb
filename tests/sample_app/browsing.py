"""A real browser, and the hands and eyes of whoever sits before it."""

import base64

from running_album import SECONDS
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def photograph(driver):
    """Give the whole page as a PNG, what lies below the window too."""
    picture = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
    )
    return base64.b64decode(picture["data"])


def set_width(driver, width):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )


def set_scheme(driver, scheme):
    """Prefer the light or the dark scheme of colours."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(browser, label):
    browser.find_element(By.XPATH, f"//button[normalize-space()='{label}']").click()


def wait_until(browser, condition):
    return WebDriverWait(browser, SECONDS, poll_frequency=0.1).until(condition)


def wait_for_state(browser, state):
    # A page may be replaced while it is being read: ask again.
    wait_until(
        browser,
        lambda driver: (
            driver.execute_script(
                "const bar = document.querySelector('asyncjob-progress');"
                "return document.readyState === 'complete' && bar && bar.dataset.state"
            )
            == state
        ),
    )


def bar_value(browser):
    value = browser.execute_script(
        "return document.querySelector('asyncjob-progress progress').getAttribute('value')"
    )
    return -1 if value is None else int(value)


def said(browser):
    """What stands below the bar."""
    return browser.execute_script(
        "return document.querySelector('.asyncjob-said').textContent.trim()"
    )

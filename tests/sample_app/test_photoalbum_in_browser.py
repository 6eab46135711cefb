"""The pages of the sample application in a real browser, narrow and wide.

Every page and every state of a job is measured (no scrolling sideways, text that can be
read), and photographed where PHOTOALBUM_SCREENSHOTS names a folder for the pictures.

The states do not depend on luck. No thread runs jobs, so a job waits until the test runs
it; and while it runs it stops at a gate until the test lets it go on.
"""

import os
from pathlib import Path

import pytest
from browsing import (
    bar_value,
    photograph,
    press,
    said,
    set_width,
    wait_for_state,
    wait_until,
)
from running_album import SECONDS
from selenium.webdriver.common.by import By

from photoalbum.lib import darkroom, samples

WIDTHS = (390, 1280)

# WebOb copies the body of an upload into a temporary file and leaves the closing of
# it to the garbage collector; so does urllib3 with the sockets to the driver.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

#: Gives [text, ratio, colour, background] for every visible text below 4.5 : 1.
TOO_FAINT = r"""
const rgba = (css) => {
  const [r, g, b, a = 1] = css.match(/[\d.]+/g).map(Number);
  return [r, g, b, a];
};
const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((v) => {
    v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    layers.push(rgba(getComputedStyle(e).backgroundColor));
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim();
  const element = walker.currentNode.parentElement;
  if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName)) continue;
  if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const behind = background(element);
  const front = over(rgba(getComputedStyle(element).color), behind);
  const [a, b] = [luminance(front), luminance(behind)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) faint.push([text.slice(0, 40), ratio.toFixed(2), front, behind]);
}
return faint;
"""


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    """Paint the sample pictures no larger than their thumbnails: it is what takes longest here."""
    monkeypatch.setattr(samples, "SIZE", (480, 360))


@pytest.fixture
def look(browser):
    """Measure and photograph the page at each width: ``look("index")``."""
    folder = os.environ.get("PHOTOALBUM_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def measure(name):
        for width in WIDTHS:
            set_width(browser, width)
            if folder:
                Path(folder, f"{name}-{width}.png").write_bytes(photograph(browser))
            scroll_width, inner_width = browser.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert inner_width == width
            assert scroll_width <= inner_width, f"{name} scrolls sideways at {width} px"
            assert browser.execute_script(TOO_FAINT) == [], f"{name} at {width} px"
        set_width(browser, 1280)

    return measure


def test_album_pages_are_readable_narrow_and_wide(
    browser, album, address, look, tmp_path, monkeypatch
):
    monkeypatch.setattr(samples, "SIZE", (1600, 1200))  # wider than the window
    look("index-empty")
    press(browser, "Use the sample pictures")
    wait_for_state(browser, "waiting")
    press(browser, "Cancel")
    wait_for_state(browser, "cancelled")
    browser.get(address + "/login")
    look("login")
    album.web.post("/samples")
    album.web.post("/fail")
    album.queue.run_pending()
    album.web.post("/oil")
    album.web.post("/samples")

    browser.get(address + "/")
    look("index")
    browser.get(address + "/picture/1")
    look("picture")
    browser.get(address + "/job/asyncjob_nobody")
    look("error")

    bad_file = tmp_path / "a file with quite a long name, and no picture at all.jpg"
    bad_file.write_text("words")
    browser.get(address + "/")
    browser.find_element(By.ID, "pictures").send_keys(str(bad_file))
    press(browser, "Upload and develop")
    wait_until(browser, lambda driver: "is not a JPEG" in driver.page_source)
    look("index-refused")


def test_job_goes_from_waiting_over_a_moving_bar_to_done(
    browser, held_samples, in_background, look
):
    press(browser, "Use the sample pictures")
    wait_for_state(browser, "waiting")
    look("job-waiting")

    worker = in_background()
    wait_for_state(browser, "running")
    assert bar_value(browser) == 0
    browser.execute_script("window.notLoadedAgain = true")
    for expected in (5, 10, 15):
        held_samples.let_pass()
        wait_until(browser, lambda _, expected=expected: bar_value(browser) == expected)
    assert browser.execute_script("return window.notLoadedAgain") is True
    assert "Painting “Polar night”" in said(browser)
    look("job-running")

    held_samples.let_pass(10)
    worker.join(SECONDS)
    wait_for_state(browser, "done")
    wait_until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".grid img"))
    look("job-done")
    assert bar_value(browser) == 1


def test_failed_job_shows_its_error(browser, held_samples, in_background, look):
    held_samples.let_pass()
    press(browser, "Start a failing job")
    wait_for_state(browser, "waiting")
    in_background()

    wait_for_state(browser, "failed")

    wait_until(browser, lambda _: "Failed: DamagedPicture: " in said(browser))
    assert browser.find_element(By.CLASS_NAME, "lost").is_displayed()
    look("job-failed")
    press(browser, "Run again")
    wait_for_state(browser, "retrying")


def test_running_job_is_cancelled_by_its_button(browser, held_samples, in_background, look):
    press(browser, "Use the sample pictures")
    wait_for_state(browser, "waiting")
    in_background()
    wait_for_state(browser, "running")

    press(browser, "Cancel")
    wait_for_state(browser, "cancelling")
    look("job-cancelling")
    held_samples.let_pass()

    wait_for_state(browser, "cancelled")
    look("job-cancelled")


def test_bar_of_a_job_that_only_counts_shows_the_count(
    browser, album, gate, in_background, monkeypatch, look
):
    monkeypatch.setattr(samples, "SIZE", (1600, 1200))  # 130 tiles, painted twice
    monkeypatch.setattr(samples, "SCENES", samples.SCENES[:1])
    album.web.post("/samples")
    album.queue.run_pending()
    monkeypatch.setattr(darkroom, "brush", gate.before(lambda image, box, width: image.crop(box)))
    press(browser, "Start a long job")
    wait_for_state(browser, "waiting")
    in_background()
    wait_for_state(browser, "running")

    gate.let_pass(90)

    wait_until(browser, lambda _: bar_value(browser) == 90)
    assert "34 %" in said(browser)
    look("job-running-counting")


def test_bars_of_recent_jobs_move_while_the_album_is_open(
    browser, album, address, held_samples, in_background, look
):
    album.web.post("/samples")
    browser.get(address + "/")
    wait_for_state(browser, "waiting")

    in_background()
    held_samples.let_pass()

    wait_until(browser, lambda _: bar_value(browser) == 5)
    look("index-running")
    held_samples.let_pass(10)
    wait_for_state(browser, "done")


def test_slow_page_becomes_itself_when_its_job_is_done(browser, album, address, held_samples, look):
    held_samples.let_pass(10)
    album.web.post("/samples")
    album.queue.run_pending()
    browser.get(address + "/colours")
    wait_for_state(browser, "waiting")

    album.queue.run_pending()

    wait_until(browser, lambda driver: driver.find_elements(By.CLASS_NAME, "colours"))
    assert "/colours?_job=asyncjob_" in browser.current_url
    look("colours")


def test_dashboard_is_reached_by_the_login(browser, album, address, look):
    album.web.post("/samples")
    browser.find_element(By.LINK_TEXT, "Log in").click()
    browser.find_element(By.NAME, "login").send_keys("manager")
    browser.find_element(By.NAME, "password").send_keys("darkroom")
    press(browser, "Log in")
    wait_until(browser, lambda driver: driver.current_url == address + "/asyncjob/")
    look("dashboard")


def test_pages_ask_no_other_server(browser, address, album):
    album.web.post("/samples")
    album.queue.run_pending()

    browser.get(address + "/")

    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert loaded
    assert [each for each in loaded if not each.startswith(address + "/")] == []


@pytest.fixture
def without_javascript(browser):
    address = browser.current_url
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get("data:text/html,<title>off</title><script>document.title = 'on'</script>")
    assert browser.title == "off"
    browser.get(address)
    yield browser
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_without_javascript_a_button_reloads_the_page(
    without_javascript, held_samples, in_background
):
    driver = without_javascript
    press(driver, "Use the sample pictures")
    wait_until(driver, lambda _: said(driver).startswith("Waiting"))
    in_background()
    for expected in (0, 10):
        if expected:
            held_samples.let_pass(2)
        wait_until(driver, lambda _, expected=expected: reloaded(driver) == expected)
    held_samples.let_pass(10)
    wait_until(driver, lambda _: "pictures ready" in reload_page(driver))


def reload_page(driver):
    """Press the button of the bar, or load the page where it has gone; gives its source."""
    buttons = driver.find_elements(By.XPATH, "//button[normalize-space()='Reload']")
    buttons[0].click() if buttons else driver.refresh()
    return driver.page_source


def reloaded(driver):
    reload_page(driver)
    return bar_value(driver)

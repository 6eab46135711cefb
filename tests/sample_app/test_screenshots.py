"""The pictures of the documentation, taken in a real browser: ``make screenshots``.

SCREENSHOTS names the folder for the pictures; without it they go into a temporary one, and this
is a test that all of them can be taken. ``test_pictures.py`` compares their names with the pages.

A second run on the same machine changes no file: jobs are held while their picture is taken; uids,
durations, the time that is left and the grain of the sample pictures, which differ from run to run,
are replaced; and a file stays if the new picture differs by shades alone. Another version of
Chromium or other fonts may give other files.

A quickstart application takes Bootstrap from a server on the network. Here it never does: BOOTSTRAP
names the file with its styles, and without it the pages of the tutorial have none.
"""

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import pytest
from browsing import photograph, press, said, set_scheme, set_width, wait_for_state, wait_until
from PIL import Image, ImageChops
from running_album import SECONDS
from selenium.webdriver.common.by import By
from webtest.http import StopableWSGIServer

from clocks import FakeClock
from dashboard_jobs import PastDay, Shop
from photoalbum.lib import samples
from quickstart import GEARBOX, follow_tutorial, make_project
from test_docs import ReadmePage
from test_servers import free_port
from tgext.asyncjob import JobQueue
from tgext.asyncjob.backends.memory import MemoryBackend
from tgext.asyncjob.web import Rights, WebApplication

# For the album's server see test_photoalbum_in_browser.py.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

NARROW, WIDE = 390, 800
MARGIN = 24
SHADES = 80  #: of 256; a letter that moves by a pixel differs by more

#: The pipe that the job of the tutorial waits for.
GATE = "gate"

#: Makes what differs from run to run always the same, and waits for the images.
SETTLE = """
for (const uid of document.querySelectorAll(".uid")) {
  uid.textContent = "asyncjob_2f1c7a9e4b6d4d0f8a35c1e09b7d6e42";
}
for (const time of document.querySelectorAll(".times dd:not(.uid)")) {
  if (/ s$/.test(time.textContent)) time.textContent = "0.1 s";
}
for (const each of document.querySelectorAll(".asyncjob-details")) {
  each.textContent = each.textContent.replace(/, (about [^,]*|a few seconds) left$/, "");
}
for (const link of document.links) link.href += "#";  // visited, for a browser that remembers it
document.activeElement.blur();
for (const each of document.getAnimations()) {
  if (each.effect.getComputedTiming().endTime === Infinity) each.cancel(); else each.finish();
}
const loaded = (image) => {
  image.loading = "eager";
  return image.decode();
};
Promise.all([...document.images].map(loaded)).then(() => arguments[0]());
"""


@pytest.fixture
def folder(tmp_path):
    made = Path(os.environ.get("SCREENSHOTS", tmp_path / "pictures"))
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture
def take(chromium, folder):
    """Take a picture of the whole page: ``take("album", width=WIDE)``."""

    def picture(name, *, width=WIDE):
        set_width(chromium, width)
        chromium.execute_async_script(SETTLE)
        taken = Image.open(BytesIO(photograph(chromium))).convert("RGB")
        # A palette makes the file a third as large.
        small = without_empty_end(taken).quantize(256)
        file = folder / f"{name}.png"
        if not (file.exists() and is_alike(Image.open(file), small)):
            small.save(file, optimize=True)

    chromium.delete_all_cookies()
    set_width(chromium, WIDE)
    yield picture
    chromium.get("about:blank")


def without_empty_end(picture):
    """Cut off what is below the last thing on the page, but for a margin."""
    empty = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    bottom = ImageChops.difference(picture, empty).getbbox()[3]
    return picture.crop((0, 0, picture.width, min(bottom + MARGIN, picture.height)))


def is_alike(one, other):
    """Whether two pictures differ by shades at most: images that are scaled down sometimes do."""
    if one.size != other.size:
        return False
    difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return max(most for _, most in difference.getextrema()) < SHADES


@pytest.fixture
def plain_samples(monkeypatch):
    """Paint the sample pictures small, and without their grain, which is random."""
    monkeypatch.setattr(samples, "SIZE", (1600, 1200))
    monkeypatch.setattr(samples, "_grain", lambda image: image)


def test_album(plain_samples, album, browser, address, take):
    album.web.post("/samples")
    album.queue.run_pending()
    album.web.post("/fail")
    album.queue.run_pending()
    album.web.post("/samples")

    browser.get(address + "/")

    take("album", width=1280)
    take("album-narrow", width=NARROW)


def test_job_of_the_album(plain_samples, held_samples, in_background, browser, take):
    press(browser, "Use the sample pictures")
    wait_for_state(browser, "waiting")
    in_background()
    wait_for_state(browser, "running")
    held_samples.let_pass(3)
    wait_until(browser, lambda _: "Painting “Polar night”" in said(browser))

    take("album-job-running")
    take("album-job-running-narrow", width=NARROW)

    held_samples.let_pass(10)
    wait_for_state(browser, "done")
    wait_until(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, ".grid img"))
    take("album-job-done")


def test_failed_job_of_the_album(plain_samples, held_samples, in_background, browser, take):
    held_samples.let_pass()
    press(browser, "Start a failing job")
    wait_for_state(browser, "waiting")
    in_background()
    wait_for_state(browser, "failed")

    take("album-job-failed")


def test_program_of_the_readme(chromium, take):
    program = ReadmePage()
    server = StopableWSGIServer.create(program.app.app)
    try:
        chromium.get(server.application_url)
        press(chromium, "10 days")
        program.steps.allow(4)
        value = "return document.querySelector('progress')?.value"
        wait_until(chromium, lambda driver: driver.execute_script(value) == 4)
        take("readme-running", width=NARROW)

        program.steps.allow(6)
        wait_until(chromium, lambda driver: "Done" in driver.page_source)
        chromium.get(server.application_url)
        press(chromium, "99 days")
        wait_until(chromium, lambda driver: "Failed" in driver.page_source)
        take("readme-failed", width=NARROW)
    finally:
        program.steps.allow(1000)
        program.queue.close()
        server.shutdown()
        server.runner.join(SECONDS)


def test_overview_of_the_dashboard(chromium, take, monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("tgext.asyncjob.web.visit.Visit.now", clock.now())
    with JobQueue(MemoryBackend(clock=clock), threads=0) as queue:
        Shop(queue).open()
        queue.backend.statistics = PastDay(clock())
        web = WebApplication(queue, rights=lambda _environ: Rights("boss", may_act=True))
        server = StopableWSGIServer.create(web)
        try:
            set_scheme(chromium, "light")
            chromium.get(f"{server.application_url.rstrip('/')}/")
            take("dashboard", width=1280)
            set_scheme(chromium, "dark")
            take("dashboard-narrow", width=NARROW)
        finally:
            set_scheme(chromium, "light")
            server.shutdown()
            server.runner.join(SECONDS)


def test_application_of_the_tutorial(tmp_path, chromium, take):
    project = make_project(tmp_path)
    follow_tutorial(project)
    with held_tutorial(project, chromium) as address:
        chromium.get(f"{address}/rename")
        chromium.find_element(By.NAME, "login").send_keys("manager")
        password = chromium.find_element(By.NAME, "password")
        password.send_keys("managepass")
        password.submit()
        wait_until(chromium, lambda driver: driver.find_elements(By.NAME, "suffix"))
        take("tutorial-form")

        press(chromium, "Rename")
        wait_until(
            chromium, lambda driver: re.search(r'<progress[^>]* value="6"', driver.page_source)
        )
        take("tutorial-running")
        (project.path / GATE).open("w").close()
        wait_until(chromium, lambda driver: "SUCCESSFUL" in driver.page_source)
        take("tutorial-done")

        chromium.get(f"{address}/rename")
        chromium.find_element(By.NAME, "suffix").clear()
        press(chromium, "Rename")
        wait_until(chromium, lambda driver: "FAILED" in driver.page_source)
        take("tutorial-failed")


@contextmanager
def held_tutorial(project, driver):
    """Serve the application of the tutorial; gives its address. The job waits after six steps."""
    port = free_port()
    project.edit("development.ini", "port = 8080", f"port = {port}")
    project.edit("development.ini", "debug = true", "debug = false")  # no debug bar
    # opened for reading, a pipe waits until somebody opens it for writing
    os.mkfifo(project.path / GATE)
    project.edit("myapp/jobs.py", "sleep(0.5)", f"_step == 6 and open({GATE!r}).close()")
    take_bootstrap_from_here(project)
    project.gearbox("setup-app", "-c", "development.ini")
    with (project.path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *GEARBOX, "serve", "-c", "development.ini"],
            cwd=project.path, env=project.environ, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_until(driver, lambda _: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait(SECONDS)


def take_bootstrap_from_here(project):
    """Let the pages load nothing from the network."""
    styles = os.environ.get("BOOTSTRAP")
    (project.path / "myapp" / "public" / "css" / "bootstrap.css").write_text(
        Path(styles).read_text() if styles else ""
    )
    master = project.path / "myapp" / "templates" / "master.xhtml"
    text = re.sub(r"<script[^>]*></script>", "", master.read_text())
    master.write_text(re.sub(r"https:[^\"]*bootstrap[^\"]*\.css", "/css/bootstrap.css", text))


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), SECONDS):
        return True

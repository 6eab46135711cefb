"""The sample application, for real: its own .ini file, a database file, a media folder.

No thread of the application runs jobs here (test.ini says threads = 0): a test that
wants a job run calls ``album.queue.run_pending()``.
"""

import gc
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tg
import transaction
from browsing import set_width
from paste.deploy import loadapp
from PIL import Image
from running_album import SAMPLE_APP, SECONDS, Album, Gate
from webtest import TestApp
from webtest.http import StopableWSGIServer

from chromium import start_browser
from photoalbum.lib import samples
from photoalbum.model import DBSession


@pytest.fixture
def album(tmp_path: Path) -> Any:
    ini = tmp_path / "album.ini"
    ini.write_text(
        "[app:main]\n"
        f"use = config:{SAMPLE_APP / 'test.ini'}\n"
        f"photoalbum.media_dir = {tmp_path / 'media'}\n"
        f"sqlalchemy.url = sqlite:///{tmp_path / 'album.db'}?timeout=30\n"
    )
    wsgi = loadapp(f"config:{ini}")
    app_globals = tg.config["tg.app_globals"]

    yield Album(wsgi, TestApp(wsgi), app_globals.asyncjob_queue, tmp_path / "media")

    app_globals.asyncjob_queue.close()
    transaction.abort()
    DBSession.remove()
    app_globals.sa_engine.dispose()
    # What is to be collected is collected here, where its warnings belong.
    gc.collect()


@pytest.fixture
def rows(album: Album) -> Any:
    """Look into the database as it is committed: ``rows(Picture)``."""

    def look(model_class: Any) -> list[Any]:
        transaction.abort()
        return DBSession.query(model_class).order_by(model_class.id).all()

    return look


@pytest.fixture
def picture_file() -> Any:
    """Make the bytes of a picture file: ``picture_file("PNG", size=(40, 30))``."""

    def make(image_format: str = "JPEG", size: tuple[int, int] = (640, 480)) -> bytes:
        stream = BytesIO()
        Image.linear_gradient("L").resize(size).convert("RGB").save(stream, image_format)
        return stream.getvalue()

    return make


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.let_pass(10_000)


@pytest.fixture
def in_background(album: Album, gate: Gate) -> Any:
    """Run what is enqueued in a thread, as a worker would: ``in_background()``."""
    threads = []

    def start() -> threading.Thread:
        thread = threading.Thread(target=album.queue.run_pending)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    gate.let_pass(10_000)
    for thread in threads:
        thread.join(SECONDS)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
    gc.collect()


@pytest.fixture
def address(album):
    server = StopableWSGIServer.create(album.wsgi, threads=8)
    yield server.application_url.rstrip("/")
    server.shutdown()
    server.runner.join(SECONDS)


@pytest.fixture
def browser(chromium, address):
    chromium.delete_all_cookies()
    set_width(chromium, 1280)
    chromium.get(address + "/")
    yield chromium
    chromium.get("about:blank")


@pytest.fixture
def held_samples(gate, monkeypatch):
    """Let each sample picture wait at the gate before it is painted."""
    monkeypatch.setattr(samples, "paint", gate.before(samples.paint))
    return gate

"""Show the photo album: ``make demo``.

Without arguments: serve it on 127.0.0.1 until Ctrl-C.
With ``--once``: start it as a process of its own, upload pictures over HTTP as a
browser would, watch the job, fetch every thumbnail. Exit status 0 says that all of
it worked. With ``--once=fail``: start the job that fails, print its error, exit 1.
"""

import argparse
import contextlib
import json
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from io import BytesIO
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
DEFAULT_PORT = 8080
PORTS_TRIED = 20
PATIENCE_SECONDS = 120  #: for a whole --once; it needs about five
PICTURES_UPLOADED = 6
LEAST_VALUES_SEEN = 3


class DemoFailed(Exception):
    """Raised when something did not go as it should; says what."""


def main():
    """Do what the command line asks; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--once",
        nargs="?",
        const="develop",
        choices=["develop", "fail"],
        help="run one job over HTTP and stop; --once=fail: one that fails",
    )
    parser.add_argument("--port", type=int, help="default: 8080, or the next free one")
    parser.add_argument("--data", type=Path, help="folder for database and pictures")
    options = parser.parse_args()
    if options.once is None:
        return serve(options.port, options.data or HERE / "data")
    try:
        return run_once(options.once)
    except DemoFailed as reason:
        print(f"demo: {reason}", file=sys.stderr)
        return 1


# -- serving --------------------------------------------------------------------


def serve(port, data_dir):
    """Serve the album until Ctrl-C. port 0: any free one."""
    # Imported here: the --once side is a plain HTTP client and needs none of it.
    import tg
    import waitress

    with contextlib.closing(listening_socket(port)) as listener:
        app = load_album(data_dir)
        password = tg.config["photoalbum.manager_password"]
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        print(f"The photo album is at {address}", flush=True)
        print("  Press “Use the sample pictures” and watch the bar move.")
        print("  Start the long job and cancel it; start the failing one and read why.")
        print(f"  The jobs are at {address}asyncjob/ for “manager”, password “{password}”.")
        print("  Ctrl-C ends it.", flush=True)
        waitress.serve(app, sockets=[listener], threads=8, _quiet=True)
    print("\nThe photo album has ended.")
    return 0


def listening_socket(port):
    """Give a socket on *port*; None: on the first free one from DEFAULT_PORT on."""
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if port is None else [port]
    for candidate in candidates:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)
        except OSError:
            listener.close()
        else:
            return listener
    raise SystemExit(f"demo: no free port on {HOST} among {list(candidates)}; try --port 0")


def load_album(data_dir):
    """Make the application of development.ini, with its data in *data_dir*."""
    from logging.config import fileConfig

    from paste.deploy import appconfig

    from photoalbum.config.application import make_app

    ini = HERE / "development.ini"
    fileConfig(ini, disable_existing_loggers=False)
    settings = appconfig(f"config:{ini}")
    data_dir = data_dir.resolve()
    return make_app(
        settings.global_conf,
        **{
            **settings.local_conf,
            "photoalbum.media_dir": str(data_dir / "media"),
            "sqlalchemy.url": f"sqlite:///{data_dir}/photoalbum.db?timeout=30",
        },
    )


# -- one job, over HTTP ---------------------------------------------------------


def run_once(kind):
    """Run one job against a server of its own; gives the exit status.

    Raises DemoFailed when something does not go as it should.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    data_dir = Path(tempfile.mkdtemp(prefix="photoalbum-"))
    try:
        with server(data_dir, deadline) as address:
            browser = Browser(address, deadline)
            return watch_failing_job(browser) if kind == "fail" else watch_upload(browser)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@contextlib.contextmanager
def server(data_dir, deadline):
    """Start the album as a child process, give its address, and end it in any case."""
    log = (data_dir / "server.log").open("w+")
    child = subprocess.Popen(
        [sys.executable, str(HERE / "demo.py"), "--port=0", f"--data={data_dir}"],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield wait_for_address(child, Path(log.name), deadline)
    except DemoFailed:
        print("---- the server's last lines ----", file=sys.stderr)
        print(*Path(log.name).read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        raise
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        log.close()


def wait_for_address(child, log_path, deadline):
    """Give the address that the child prints once it listens."""
    while time.monotonic() < deadline:
        found = re.search(rf"http://{HOST}:\d+/", log_path.read_text())
        if found:
            print(f"serving at {found[0]}")
            return found[0]
        if child.poll() is not None:
            raise DemoFailed(f"the server ended at once, with status {child.returncode}")
        time.sleep(0.05)
    raise DemoFailed("the server did not start in time")


class Browser:
    """The little of a browser that a demonstration needs."""

    def __init__(self, address, deadline):
        self.address = address
        self.deadline = deadline

    def get(self, path):
        """Give the body of a page."""
        return self._open(urllib.request.Request(urllib.parse.urljoin(self.address, path))).read()

    def post(self, path, body=b"", content_type="application/x-www-form-urlencoded"):
        """Send a form; gives the uid of the job whose page the answer leads to."""
        request = urllib.request.Request(
            urllib.parse.urljoin(self.address, path), body, {"Content-Type": content_type}
        )
        page = self._open(request).url
        uid = urllib.parse.unquote(page.rpartition("/job/")[2])
        if not uid.startswith("asyncjob_"):
            raise DemoFailed(f"{path} led to {page}, not to the page of a job")
        return uid

    def follow(self, uid):
        """Give the status of a job again and again, until it has ended."""
        while True:
            status = json.loads(self.get(f"/status?uid={urllib.parse.quote(uid)}"))
            yield status
            if status["status"] in ("SUCCESSFUL", "FAILED", "CANCELLED"):
                return
            time.sleep(0.05)

    def _open(self, request):
        seconds_left = self.deadline - time.monotonic()
        if seconds_left <= 0:
            raise DemoFailed(f"it took more than {PATIENCE_SECONDS} s")
        try:
            return urllib.request.urlopen(request, timeout=seconds_left)
        except (urllib.error.URLError, OSError) as error:
            raise DemoFailed(f"{request.full_url}: {error}") from error


def watch_upload(browser):
    """Upload pictures, watch them being developed, look at every thumbnail; gives 0."""
    files = make_picture_files(PICTURES_UPLOADED)
    print(f"uploading {len(files)} pictures, {sum(map(len, files.values())) // 1024:,} KB")
    uid = browser.post("/upload", *multipart("pictures", files))

    bar, values_seen = Bar(), set()
    for status in browser.follow(uid):
        bar.draw(status)
        if status["status"] == "RUNNING":
            values_seen.add(status["progress"]["value"])
    bar.end()

    if status["status"] != "SUCCESSFUL":
        raise DemoFailed(f"the job is {status['status']}: {status['error']}")
    look_at_thumbnails(browser)
    values_seen.discard(-1)
    if len(values_seen) < LEAST_VALUES_SEEN:
        raise DemoFailed(
            f"expected {LEAST_VALUES_SEEN} or more values of the progress bar while the job "
            f"ran, saw {sorted(values_seen)}"
        )
    print(f"progress values seen while it ran: {len(values_seen)}")
    return 0


def watch_failing_job(browser):
    """Start the failing job and print its error; gives 1, as a failure should."""
    uid = browser.post("/fail")
    bar = Bar()
    for status in browser.follow(uid):
        bar.draw(status)
    bar.end()
    if status["status"] != "FAILED":
        raise DemoFailed(f"the failing job should have FAILED, it is {status['status']}")
    print(f"{status['error']['class']}: {status['error']['message']}", file=sys.stderr)
    return 1


def look_at_thumbnails(browser):
    """Open the thumbnail of each picture with Pillow."""
    pictures = json.loads(browser.get("/pictures"))["pictures"]
    if len(pictures) != PICTURES_UPLOADED:
        raise DemoFailed(f"uploaded {PICTURES_UPLOADED} pictures, the album has {len(pictures)}")
    for picture in pictures:
        if not picture["thumbnail"]:
            raise DemoFailed(f"{picture['title']} has no thumbnail")
        try:
            image = Image.open(BytesIO(browser.get(picture["thumbnail"])))
            image.load()
        except OSError as error:
            raise DemoFailed(f"the thumbnail of {picture['title']} is damaged: {error}") from error
        print(f"  {picture['title']}: {image.width} x {image.height} {image.format}")


def make_picture_files(number):
    """Make *number* different JPEG files as large as a camera's; gives {name: bytes}."""
    files = {}
    for which in range(1, number + 1):
        small = Image.effect_mandelbrot(
            (750, 500), (-2.0 + 0.15 * which, -1.0, 1.0 - 0.1 * which, 1.0), 60 + 20 * which
        )
        stream = BytesIO()
        small.resize((3000, 2000)).convert("RGB").save(stream, "JPEG", quality=85)
        files[f"mandelbrot_{which}.jpg"] = stream.getvalue()
    return files


def multipart(field, files):
    """Write *files* as a browser's form does; gives the body and its content type."""
    boundary = secrets.token_hex(16)
    body = BytesIO()
    for name, content in files.items():
        body.write(
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            "Content-Type: image/jpeg\r\n\r\n".encode()
        )
        body.write(content + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    return body.getvalue(), f"multipart/form-data; boundary={boundary}"


class Bar:
    """A progress bar made of signs; on paper (no terminal) one line for each change."""

    WIDTH = 30

    def __init__(self):
        self.line = ""

    def draw(self, status):
        """Draw the bar as *status* says, over the last one."""
        value, total = status["progress"]["value"], status["progress"]["total"]
        part = max(value, 0) / total if total else 0
        filled = int(self.WIDTH * part)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        step = status["progress"]["data"] or ""
        line = f"[{bar}] {part:4.0%} {status['status']:<10} {step}"
        if sys.stdout.isatty():
            print(f"\r{line:<90.90}", end="", flush=True)
        elif line != self.line:
            print(line, flush=True)
        self.line = line

    def end(self):
        """Leave the line of the bar."""
        if sys.stdout.isatty():
            print()


if __name__ == "__main__":
    sys.exit(main())

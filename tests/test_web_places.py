"""Where the pages may be served: each kind of host x where the host is x where its pages are.

A browser stays outside: it knows the public host and path alone. From the overview and from a page
with a progress element it follows every link, script, style sheet and form to the end.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

import pytest
import tg
import webtest
from tg import (
    FullStackApplicationConfigurator,
    MinimalApplicationConfigurator,
    TGController,
    expose,
)

from dashboard_jobs import Shop
from databases import sqlite_with_tables
from tgapps import applications, globals_with
from tgext.asyncjob import JobQueue, asyncjob_progress
from tgext.asyncjob.web import Rights, WebApplication, as_visitor
from tgext.asyncjob.web.routes import ROUTES
from webpages import SAME_ORIGIN

ASCII = "".join(map(chr, range(33, 127)))

#: The host that browsers know, and the one that the server is asked by.
PUBLIC, INSIDE = "https://shop.example", "inside:8080"

#: The environ of one who may do everything, as repoze.what leaves it.
MANAGER = {
    "repoze.who.identity": {"repoze.who.userid": "boss"},
    "repoze.what.credentials": {"repoze.what.userid": "boss", "permissions": ["manage"],
                                "groups": []},
}  # fmt: skip


class Place(NamedTuple):
    """Where an application is. prefix: of all its public paths."""

    prefix: str
    way: str  #: how the application learns of the prefix


PLACES = [
    Place("", "at the root"),
    Place("/a/b", "by SCRIPT_NAME"),
    Place("/shop", "by a proxy"),  # which strips it, and names it in X-Script-Name
    Place("/shop/a", "by a proxy and SCRIPT_NAME"),
    Place("/caf%C3%A9", "by SCRIPT_NAME"),
]


class Front:
    """What stands before an application: a dispatcher by SCRIPT_NAME, or a proxy."""

    def __init__(self, application: Any, place: Place) -> None:
        self._application = application
        self._place = place

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        # WSGI has the bytes of a path as latin-1
        prefix = self._place.prefix.replace("%C3%A9", "\xc3\xa9")
        path = environ["PATH_INFO"]
        if path != prefix and not path.startswith(f"{prefix}/"):
            start_response("418 Outside", [("Content-Type", "text/plain")])
            return [b"outside"]
        environ = {**environ, **MANAGER, "PATH_INFO": path[len(prefix) :]}
        if "proxy" not in self._place.way:
            return self._application({**environ, "SCRIPT_NAME": prefix}, start_response)
        environ |= {"HTTP_HOST": INSIDE, "wsgi.url_scheme": "http", "SCRIPT_NAME": "",
                    "HTTP_X_FORWARDED_HOST": "shop.example", "HTTP_X_FORWARDED_PROTO": "https",
                    "HTTP_X_SCRIPT_NAME": prefix}  # fmt: skip
        return self._behind(environ, start_response)

    def _behind(self, environ: dict[str, Any], start_response: Any) -> Any:
        """What an application puts before itself: only it knows whether its proxy is to be
        believed. Its host stays the inner one."""
        return self._application(
            {**environ, "SCRIPT_NAME": environ["HTTP_X_SCRIPT_NAME"]}, start_response
        )


class Site(NamedTuple):
    """An application, its queue, where its pages are in it, and its page with an element."""

    application: Any
    queue: JobQueue
    pages: str


def element(uid: str, then: str) -> str:
    made = asyncjob_progress(uid, "A job", cancel=True, then=then)
    return f"<!doctype html><html><head><title>x</title></head><body>{made}</body></html>"


class Pages(TGController):
    """A TurboGears application's own page."""

    @expose()
    def own(self, uid: str) -> str:
        return element(uid, f"{quote(tg.request.script_name)}/done")

    @expose()
    def done(self) -> str:
        return "done"


def plain(backend: str, path: str, folder: Path) -> Iterator[Site]:
    """A WSGI application without TurboGears, which mounts the pages at *path*."""
    given = {"url": sqlite_with_tables(folder)} if backend == "sql" else {}
    options: Any = {"threads": 0, "secret": "swordfish", **given}
    with JobQueue(backend, **options) as queue:
        rights = Rights("boss", may_act=True)
        web = WebApplication(queue, rights=lambda _environ: rights)

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            found, script_name = environ["PATH_INFO"], environ["SCRIPT_NAME"]
            if found == "/own":
                base = (script_name + path).encode("latin-1").decode()
                script = script_name.encode("latin-1").decode()
                with queue.as_current(), as_visitor(rights, base):
                    body = element(environ["QUERY_STRING"].partition("=")[2], f"{script}/done")
                start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
                return [body.encode()]
            if found == "/done":
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [b"done"]
            assert found.startswith(path), found
            below = {"SCRIPT_NAME": script_name + path, "PATH_INFO": found[len(path) :]}
            return web({**environ, **below}, start_response)

        yield Site(application, queue, path)


def turbogears(kind: str, backend: str, path: str, folder: Path) -> Iterator[Site]:
    """A TurboGears application: full-stack, minimal with a database, or of a single file."""
    configurator = (
        FullStackApplicationConfigurator() if kind == "full-stack"
        else MinimalApplicationConfigurator()
    )  # fmt: skip
    options: dict[str, Any] = {"threads": 0, "secret": "swordfish", "web_path": path}
    if backend == "sql":
        options |= {"backend": "sql", "url": sqlite_with_tables(folder)}
    with applications(folder) as make:
        app = make(
            Pages(), database=kind == "full-stack", configurator=configurator,
            app_globals=globals_with(**options), helpers=types.SimpleNamespace(),
        )  # fmt: skip
        yield Site(app.wsgi, app.queue, path)


HOSTS: dict[str, Callable[..., Iterator[Site]]] = {
    "plain": plain,
    "full-stack": lambda *given: turbogears("full-stack", *given),
    "minimal": lambda *given: turbogears("minimal", *given),
}

AT_ROOT, BELOW, BY_PROXY, BOTH, IN_FRENCH = PLACES

#: Host, backend, path of its pages, and where it is: each of them with each kind of the others'.
TABLE = [
    ("plain", "memory", "/asyncjob", AT_ROOT),
    ("plain", "sql", "", BELOW),
    ("plain", "sql", "/x/y", BY_PROXY),
    ("plain", "memory", "/asyncjob", IN_FRENCH),
    ("full-stack", "sql", "/asyncjob", AT_ROOT),
    ("full-stack", "memory", "/x/y", BELOW),
    ("full-stack", "sql", "/x/y", BOTH),
    ("full-stack", "memory", "/asyncjob", IN_FRENCH),
    ("minimal", "memory", "/asyncjob", AT_ROOT),
    ("minimal", "sql", "/asyncjob", BELOW),
    ("minimal", "memory", "/x/y", BY_PROXY),
]


@pytest.fixture
def site(request: Any, tmp_path: Path) -> Iterator[Site]:
    host, backend, path, _place = request.param
    yield from HOSTS[host](backend, path, tmp_path)


#: The most URLs of the same path and fields that are followed.
MOST_ALIKE = 3


class Browser:
    """Follows everything that the pages name, and keeps what went wrong."""

    def __init__(self, site: Site, place: Place) -> None:
        self.app = webtest.TestApp(
            Front(site.application, place),
            extra_environ={"HTTP_HOST": "shop.example", "wsgi.url_scheme": "https"},
        )
        self.prefix = place.prefix
        self.seen: dict[str, int] = {}
        self.kinds: Counter[tuple[str, ...]] = Counter()
        self.forms: dict[tuple[str, ...], tuple[str, list[tuple[str, str]]]] = {}

    def get(self, url: str) -> Any:
        """Ask for a URL as it stands in a page; a redirect is followed as a browser does."""
        for _ in range(5):
            url = quote(url, safe=ASCII)  # as a browser does
            parts = urlsplit(url)
            assert (parts.scheme, parts.netloc) in (("", ""), ("https", "shop.example")), url
            assert parts.path.startswith(f"{self.prefix}/"), url
            answer = self.app.get(f"{parts.path}?{parts.query}", expect_errors=True)
            if answer.status_int != 303:
                return answer
            url = urljoin(url, answer.headers["Location"])
        raise AssertionError(f"{url} leads in circles")

    def crawl(self, *urls: str) -> None:
        """Read pages, and everything that they lead to."""
        waiting = list(urls)
        while waiting:
            url = urljoin(f"{self.prefix}/", waiting.pop()).partition("#")[0]
            kind = urlsplit(url).path, *sorted(parse_qs(urlsplit(url).query))
            if url in self.seen or self.kinds[kind] == MOST_ALIKE:
                continue
            self.kinds[kind] += 1
            answer = self.get(url)
            self.seen[url] = answer.status_int
            assert answer.status_int == 200, url
            if answer.content_type == "text/html":
                waiting += [urljoin(url, each) for each in self._read(url, answer.html)]

    def _read(self, url: str, page: Any) -> Iterator[str]:
        for name, tag in (("href", "a"), ("href", "link"), ("src", "script")):
            yield from (each[name] for each in page.find_all(tag) if each.has_attr(name))
        for each in page.find_all("asyncjob-progress"):
            yield f"{each['data-url']}/progress?uid={each['data-uid']}"
        for each in page.find_all(attrs={"data-keys": True}):
            yield each["data-keys"]
        for form in page.find_all("form"):
            inputs = form.find_all("input", attrs={"name": True})
            fields = [(each["name"], each.get("value") or "") for each in inputs]
            buttons = [each for each in form.find_all("button") if each.has_attr("name")]
            action = quote(urljoin(url, form["action"]), safe=ASCII)
            if form["method"] == "get":
                yield action + "?" + "&".join(f"{a}={b}" for a, b in fields if b)
            for button in buttons or [None]:
                chosen = [] if button is None else [(button["name"], button["value"])]
                key = (action, *(b for a, b in fields + chosen if a in ("uid", "of", "action")))
                if form["method"] == "post":
                    self.forms[key] = action, fields + chosen

    def post(self, action: str, fields: list[tuple[str, str]]) -> Any:
        """Send a form, and follow where it leads."""
        path = urlsplit(action).path
        assert path.startswith(f"{self.prefix}/"), action
        answer = self.app.post(path, fields, headers=SAME_ORIGIN, expect_errors=True)
        assert answer.status_int in (200, 303), (action, answer.text)
        if answer.status_int == 303:
            return self.get(urljoin(action, answer.headers["Location"]))
        return answer


def in_table(test: Any) -> Any:
    """Run a test on each row of the table."""
    names = [f"{host} {backend} {path or '/'} {place.way}" for host, backend, path, place in TABLE]
    rows = [(row, row[-1]) for row in TABLE]
    return pytest.mark.parametrize(("site", "place"), rows, ids=names, indirect=["site"])(test)


@pytest.mark.slow
@in_table
def test_every_link_and_form_leads_where_it_should(site, place):
    uids = Shop(site.queue).open()
    schedule = site.queue.schedule("each day", len, ["x"], cron="0 0 * * *")
    schedule.run_now()
    browser = Browser(site, place)
    base = place.prefix + site.pages

    own = f"{place.prefix}/own?uid={uids['waiting']}"
    browser.crawl(f"{base}/", own, f"{base}/job?uid={uids['failed']}")

    found = {urlsplit(url).path.removeprefix(base) for url in browser.seen}
    assert found >= {route.path for route in ROUTES if route.method == "GET" and route.path}
    posted = {urlsplit(action).path.removeprefix(base) for action, *_ in browser.forms}
    rows = {route.path for route in ROUTES if route.method == "POST"}
    assert posted == rows - {"/schedules/resume"}  # none is paused
    # what deletes comes last: others lead to what is deleted
    for action, fields in sorted(browser.forms.values(), key=lambda form: "delete" in form[0]):
        assert browser.post(action, fields).status_int == 200, action


@in_table
def test_element_leads_on_to_then_wherever_it_is(site, place):
    shop = Shop(site.queue)
    done = shop.open()["done"]
    waiting = shop.add()
    browser = Browser(site, place)
    page = browser.get(f"{place.prefix}/own?uid={waiting}").html
    form = page.find("form", class_="asyncjob-reload")
    fields = {each["name"]: each["value"] for each in form.find_all("input")}
    link = browser.get(f"{place.prefix}/own?uid={done}").html.find("a", class_="asyncjob-then")

    assert quote(unquote(fields["then"])) == f"{place.prefix}/done"
    asks = page.find("asyncjob-progress")["data-url"]
    assert quote(unquote(asks)) == place.prefix + site.pages
    assert browser.get(link["href"]).text == "done"

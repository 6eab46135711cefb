"""The texts of pages and elements in the language of the application's own catalogue."""

from __future__ import annotations

import json
import pickle
import re
import types
from collections.abc import Iterator
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tg
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from bs4 import BeautifulSoup
from tg import FullStackApplicationConfigurator, TGController, expose

from dashboard_jobs import Shop
from databases import sqlite_with_tables
from test_turbogears_web import Identities, as_user
from texts_template import POT, messages, written
from tgapps import applications, globals_with
from tgext.asyncjob import JobQueue, asyncjob_progress, tick_reasons
from tgext.asyncjob.errors import (
    BadSignature,
    CallableMissing,
    ConfigError,
    ModuleMissing,
    OtherPython,
    QueueClosed,
    QueueFull,
    UnknownJob,
)
from tgext.asyncjob.sentence import Sentence
from tgext.asyncjob.web import Rights, WebApplication, as_visitor
from tgext.asyncjob.web import texts as page_texts
from tgext.asyncjob.web.dashboard import NAVIGATION
from tgext.asyncjob.web.refusals import refusal
from webpages import SAME_ORIGIN, Jobs

BASE = "/pages"
BOSS = Rights("boss", may_act=True)

GERMAN = {
    "Waiting to try again": "Wartet auf einen neuen Versuch",
    "Waiting": "Wartet",
    "Done": "Fertig",
    "Running": "Läuft",
    "Jobs": "Aufträge",
    "Cancel": "Abbrechen",
    "No such page": "Keine solche Seite",
    "%(time)s ago": "vor %(time)s",
    "about %(time)s left": "noch etwa %(minutes)s",  # a name that there is not
    ("Waiting, %(number)s job before it", "Waiting, %(number)s jobs before it"): (
        "Wartet, %(number)s Auftrag davor", "Wartet, %(number)s Aufträge davor",
    ),
}  # fmt: skip

POLISH = {
    "Waiting to try again": "Czeka na kolejną próbę",
    ("Waiting, %(number)s job before it", "Waiting, %(number)s jobs before it"): (
        "Czeka, przed nim %(number)s zadanie", "Czeka, przed nim %(number)s zadania",
        "Czeka, przed nim %(number)s zadań",
    ),
}  # fmt: skip


def compiled(language: str, texts: Any) -> bytes:
    """A catalogue as an application ships it."""
    made = Catalog(locale=language)
    for message, translation in texts.items():
        made.add(message, translation)
    file = BytesIO()
    write_mo(file, made)
    return file.getvalue()


def translations(language: str, texts: Any) -> GNUTranslations:
    return GNUTranslations(BytesIO(compiled(language, texts)))


class Marking(NullTranslations):
    """Puts brackets around each text."""

    def gettext(self, message: str) -> str:
        return f"«{message}»"

    def ngettext(self, singular: str, plural: str, number: int) -> str:
        return f"«{singular if number == 1 else plural}»"


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("sql", threads=0, url=sqlite_with_tables(tmp_path), secret="swordfish") as made:
        yield made


def site(queue: JobQueue, found: Any) -> Any:
    import webtest

    web = WebApplication(queue, rights=lambda _environ: BOSS, translations=lambda _environ: found)
    return webtest.TestApp(web, extra_environ={"SCRIPT_NAME": BASE, "HTTP_HOST": "shop.example"})


def element(queue: JobQueue, uid: str, found: Any, **options: Any) -> Any:
    with queue.as_current(), as_visitor(BOSS, BASE, found):
        return BeautifulSoup(asyncjob_progress(uid, **options), "html.parser").find(
            "asyncjob-progress"
        )


def said(found: Any) -> str:
    return str(found.find(class_="asyncjob-said").get_text(" ", strip=True))


# -- the list of texts


def test_list_for_translators_has_every_text() -> None:
    assert POT.read_bytes() == written(), "run: make texts"


def test_list_is_read_by_the_usual_tools_and_names_the_places() -> None:
    found = read_po(BytesIO(POT.read_bytes()))

    assert len(found) > 200
    assert found["Waiting"].locations[0][0] == "job_state.py"
    assert "python-format" in found["%(time)s ago"].flags
    assert {each for _name, each in messages()} >= {name for name, _path in NAVIGATION}


# -- every page


ATTRIBUTES = ("aria-label", "data-label", "aria-valuetext")


def untranslated(page: Any) -> list[str]:
    """The words of a page that are neither in brackets nor marked as those of a job, a user or an
    application."""
    for each in page.select("[dir=auto], code, kbd, script, style"):
        each.decompose()
    texts = [page.get_text(" ")]
    for name in ATTRIBUTES:
        texts += [each[name] for each in page.find_all(attrs={name: True})]
    return re.findall(r"[^\W\d]{3,}\S*", " ".join(map(_without_brackets, texts)))


def _without_brackets(text: str) -> str:
    inner = re.compile("«[^«»]*»")
    while inner.search(text):
        text = inner.sub("", text)
    return text


#: Data without a mark of its own.
DATA = re.compile(r"asyncjob_|web1-4711|^last$|UTC|dashboard_jobs|^mail$|^picture$")

PATHS = [
    "/", "/jobs", "/failures", "/queues", "/schedules", "/limits", "/workers",
    "/audit",
    "/schedule?of=nightly", "/jobs?did=retry&changed=1&of=3", "/jobs/all?action=cancel",
    "/failures?retried=2", "/audit?before=x", "/schedule?of=none", "/nothing", "/jobs/change",
    "/reload", "failed", "done", "running", "waiting",
]  # fmt: skip


def test_page_shows_no_text_that_is_not_looked_up(queue):
    uids = Shop(queue).open()
    schedule = queue.schedule("nightly", len, ["x"], cron="0 0 * * *")
    schedule.run_now()
    schedule.pause()
    queue.result(uids["failed"]).retry(by="ann")
    Shop(queue).fail(queue_name="other")
    app = site(queue, Marking())

    for path in PATHS:
        path_of_job = f"/job?uid={uids[path]}" if path in uids else path
        page = app.get(path_of_job, expect_errors=True).html.html
        assert [text for text in untranslated(page) if not DATA.search(text)] == [], path
        assert page["lang"] == "und", path  # this catalogue has no header


def test_script_of_the_dashboard_has_its_texts_from_the_page(queue):
    texts = json.loads(site(queue, Marking()).get("/queues").html.main["data-texts"])

    assert texts["pause"] == "«Pause updates»"
    script = (POT.parent / "static" / "dashboard.js").read_text()
    assert set(re.findall(r"\btexts\.(\w+)", script)) == set(texts)
    assert not re.search(r'"[A-Z][a-z]+ [a-z]', script)


# -- sentences that commands have, too


def test_reasons_of_a_waiting_job_are_in_the_language_of_the_page(queue):
    shop = Shop(queue)
    uid = [shop.add(queue_name="other") for _ in range(3)][-1]
    queue.pause("other", by="ann")

    reasons = (
        site(queue, Marking()).get(f"/job?uid={uid}").html.find(attrs={"data-part": "reasons"})
    )

    assert [each.text[:19] for each in reasons.find_all("li")] == [
        "«its queue 'other' ", "«2 jobs of its queu", "«no living worker s",
    ][: len(reasons.find_all("li"))]  # fmt: skip
    assert len(reasons.find_all("li")) >= 2
    assert queue.result(uid).explain()[1] == "2 jobs of its queue are before it"


def test_reason_has_the_forms_of_a_language(queue):
    shop = Shop(queue)
    uids = [shop.add() for _ in range(6)]
    many = "%(number)s job of its queue is before it", "%(number)s jobs of its queue are before it"
    app = site(
        queue, translations("pl", POLISH | {many: ("%(number)s A", "%(number)s B", "%(number)s C")})
    )

    said = [app.get(f"/job?uid={uids[number]}").html.find("li", dir="auto") for number in (1, 2, 5)]

    assert [each.text for each in said] == ["1 A", "2 B", "5 C"]


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/jobs?status=LOST", "«status: expected one of"),
        ("/jobs?since=never", "«since: expected an age"),
        ("/jobs?after=x", "«after: expected"),
        ("/job?uid=nothing", "«no job 'nothing': «the sql backend has none"),
    ],
)
def test_refusal_is_in_the_language_of_the_page(queue, path, begins):
    page = site(queue, Marking()).get(path, expect_errors=True)

    assert page.status_int in (400, 404)
    assert any(each.text.strip().startswith(begins) for each in page.html.main.find_all("p"))


def test_reason_of_a_schedule_is_in_the_language_of_the_page(queue):
    schedule = queue.schedule("nightly", len, ["x"], cron="0 0 * * *")
    schedule.pause()

    page = site(queue, Marking()).get("/schedule?of=nightly").html

    assert page.find(attrs={"data-part": "reasons"}).li.text == "«it is paused»"
    assert schedule.explain() == ["it is paused"]


def test_reason_of_a_tick_is_in_the_language_of_the_page(queue):
    schedule = queue.schedule("nightly", len, ["x"], cron="0 0 * * *")
    schedule.run_now()

    page = site(queue, Marking()).get("/schedule?of=nightly").html

    assert page.find(attrs={"data-part": "ticks"}).find(attrs={"data-label": "«Reason»"}).text == (
        "«run now»"
    )
    assert schedule.ticks()[0].reason == "run now"


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (tick_reasons.paused(None), "«paused»"),
        (tick_reasons.paused("ann; with it"), "«paused by ann; with it»"),
        (tick_reasons.late(61.4, "last"), "«seen 61 s after its instant; catch_up is 'last'»"),
        (
            tick_reasons.together(tick_reasons.paused("ann"), 12, "2026-01-02 UTC"),
            "««paused by ann»; with it 12 before, from 2026-01-02 UTC»",
        ),
        (
            tick_reasons.refused(ValueError("50 %; with\nit")),
            "«no job can be enqueued: ValueError: 50 %; with\nit»",
        ),
        (tick_reasons.duplicate_of("asyncjob_1"), "«a duplicate of asyncjob_1»"),
        (tick_reasons.RUN_NOW, "«run now»"),
        ("what a later version writes", "what a later version writes"),
    ],
    ids=str,
)
def test_reason_of_a_tick_is_translated_when_it_was_read_from_a_row(reason, shown):
    with page_texts.translated_by(Marking):
        assert page_texts.said(reason) == shown
        assert page_texts.said(tick_reasons.read(str(reason))) == shown
    assert tick_reasons.read(str(reason)) == reason


def test_message_of_an_error_is_as_in_english_without_a_catalogue():
    errors = [
        UnknownJob("x", "why"), QueueFull(3, 2), QueueClosed(), ModuleMissing("a.b", "a"),
        CallableMissing("a.b", "it is gone"), OtherPython("f", "3.10", "3.11"),
        BadSignature("it was changed"), ConfigError(Sentence("%(a)s is wrong", a="100 %")),
    ]  # fmt: skip

    assert [refusal(error) for error in errors] == [str(error) for error in errors]


def test_sentence_is_a_text_and_survives_a_pickle():
    made = Sentence.of_number("%(number)s job, %(a)s", "%(number)s jobs, %(a)s", 2, a="5 %")

    again = pickle.loads(pickle.dumps(made))

    assert made == again == "2 jobs, 5 %"
    assert type(str(made)) is str
    assert vars(again) == vars(made)


# -- a catalogue with some of the texts


def test_translated_texts_are_shown_and_others_in_english(queue):
    shop = Shop(queue)
    shop.open()
    page = site(queue, translations("de", GERMAN)).get("/jobs").html.html

    assert page["lang"] == "de"
    assert page.title.text == "Aufträge - Aufträge"
    assert "Wartet" in page.main.text
    assert "Queues" in page.header.text  # it has no translation


def test_catalogue_without_the_texts_leaves_the_page_in_english(queue):
    app = site(queue, translations("de", {"Basket": "Korb"}))

    assert app.get("/jobs").html.html["lang"] == "en"
    assert site(queue, None).get("/jobs").html.html["lang"] == "en"


def test_element_is_translated_with_what_its_script_will_say(queue):
    jobs = Jobs(queue)
    uid = jobs.waiting()
    english, german = (
        element(queue, uid, None),
        element(queue, uid, translations("de", GERMAN), cancel=True),
    )

    texts = json.loads(german["data-texts"])

    assert not english.has_attr("data-texts")
    assert said(german) == "Wartet"
    assert german.find(class_="asyncjob-cancel").text == "Abbrechen"
    assert (texts["done"], texts["running"]) == ("Fertig", "Läuft")
    assert texts["before"] == [
        "Wartet, %(number)s Aufträge davor",
        "Wartet, %(number)s Auftrag davor",
    ]
    assert texts["forms"][:4] == "0100"


def test_forms_of_a_number_are_those_of_the_language(queue):
    jobs = Jobs(queue)
    uids = [jobs.waiting() for _ in range(23)]
    polish = translations("pl", POLISH)

    sentences = [said(element(queue, uids[number], polish)) for number in (1, 2, 5, 12, 22)]
    texts = json.loads(element(queue, uids[0], polish)["data-texts"])

    assert sentences == [
        "Czeka, przed nim 1 zadanie", "Czeka, przed nim 2 zadania", "Czeka, przed nim 5 zadań",
        "Czeka, przed nim 12 zadań", "Czeka, przed nim 22 zadania",
    ]  # fmt: skip
    assert sentences == [
        texts["before"][int(texts["forms"][number])].replace("%(number)s", str(number))
        for number in (1, 2, 5, 12, 22)
    ]


def test_translation_that_has_broken_a_name_is_left_out(queue):
    from tgext.asyncjob.web.job_state import time_left
    from tgext.asyncjob.web.texts import translated_by

    with translated_by(lambda: translations("de", GERMAN)):
        assert time_left(30) == "about 30 s left"


def test_translation_is_no_markup(queue):
    evil = {**GERMAN, "Jobs": "<script>alert(1)</script>", "%(time)s by %(user)s": "<b>%(user)s"}
    Shop(queue).open()

    page = site(queue, translations("de", evil)).get("/queues")

    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


# -- a TurboGears application


class Pages(TGController):
    """A page with an element."""

    @expose()
    def own(self, uid: str) -> str:
        return str(asyncjob_progress(uid, cancel=True))

    @expose()
    def plain(self) -> str:
        return str(tg.i18n.ugettext("Waiting"))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Any]:
    catalogues = tmp_path / "i18n"
    for language, texts in (("de", GERMAN), ("pl", POLISH)):
        folder = catalogues / language / "LC_MESSAGES"
        folder.mkdir(parents=True)
        (folder / "translated_shop.mo").write_bytes(compiled(language, texts))
    package = types.ModuleType("translated_shop")
    package.__file__ = str(tmp_path / "__init__.py")
    with applications(tmp_path) as make:
        yield make(
            Pages(), configurator=FullStackApplicationConfigurator(), package=package,
            app_globals=globals_with(threads=0, secret="swordfish"),
            **{"i18n.enabled": True, "localedir": str(catalogues),
               "sa_auth.authmetadata": Identities(), "paths": {
                   "root": str(tmp_path), "controllers": str(tmp_path),
                   "templates": [str(tmp_path)], "static_files": str(tmp_path)}},
        )  # fmt: skip


def test_pages_of_a_turbogears_application_have_its_language(host):
    jobs = Jobs(host.queue)
    uid = jobs.waiting()
    german = {"Accept-Language": "de-AT,de;q=0.8,en;q=0.5"}
    boss = as_user("manage")

    assert host.get("/plain", headers=german).text == "Wartet"  # the host itself
    own = host.get(f"/own?uid={uid}", headers=german).html.find("asyncjob-progress")
    assert said(own) == "Wartet"
    assert json.loads(own["data-texts"])["done"] == "Fertig"
    page = host.get("/asyncjob/jobs", headers=german, extra_environ=boss).html.html
    assert (page["lang"], page.h1.text) == ("de", "Aufträge")
    missing = host.get("/asyncjob/nothing", headers=german)
    assert (missing.status_int, missing.html.h1.text) == (404, "Keine solche Seite")
    posted = host.web.post("/asyncjob/cancel", {"uid": "x"}, expect_errors=True,
                           headers={**german, **SAME_ORIGIN})  # fmt: skip
    assert posted.html.html["lang"] == "de"
    for language in ("en", "fr", ""):
        page = host.get("/asyncjob/jobs", headers={"Accept-Language": language}, extra_environ=boss)
        assert (page.html.html["lang"], page.html.h1.text) == ("en", "Jobs")

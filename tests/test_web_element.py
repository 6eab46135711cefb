"""``asyncjob_progress``: the element as a page without JavaScript has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from markupsafe import Markup

from databases import sqlite_with_tables
from tgext.asyncjob import BadCall, ConfigError, JobQueue
from tgext.asyncjob.job import TaskError
from tgext.asyncjob.web import Rights, as_visitor, asyncjob_progress
from tgext.asyncjob.web.job_state import FINAL, SENTENCES, shown
from tgext.asyncjob.web.tokens import Tokens
from webpages import FORBIDDEN, HOSTILE, Jobs


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with JobQueue(threads=0, secret="swordfish") as made:
        yield made


@pytest.fixture
def jobs(queue: JobQueue) -> Jobs:
    return Jobs(queue)


def made(*args: Any, **options: Any) -> Any:
    """The element, parsed as a browser parses it."""
    return BeautifulSoup(asyncjob_progress(*args, **options), "html.parser").contents[0]


def test_element_of_each_state_has_its_sentence_a_bar_and_a_shape(jobs):
    css = (Path(__file__).parent.parent / "tgext/asyncjob/web/static/progress.css").read_text()
    shapes = dict(re.findall(r'\[data-state="(\w+)"\] > .*content: "(.+?)"', css))
    uids = jobs.of_each_state()

    elements = {name: made(uid) for name, uid in uids.items()}

    assert {name: element["data-state"] for name, element in elements.items()} == {
        name: name for name in SENTENCES
    }
    sentences = {name: found.find(class_="asyncjob-state").text for name, found in elements.items()}
    assert sentences == {
        **SENTENCES,
        "retrying": "Trying again in 60 s",
        "failed": "Failed: Broken: three is not a colour",
    }
    assert len(set(shapes.values())) == len(SENTENCES) == len(shapes)
    for name, element in elements.items():
        assert element.progress["aria-label"] == "Progress"
        assert element.progress["aria-valuetext"].startswith(sentences[name])
        assert (element.find("form") is None) is (name in FINAL)
        assert element.find(role="status").text == ""


def test_bar_has_the_value_of_the_last_report(jobs):
    bars = [made(uid).progress for uid in (
        jobs.running(3, "copying", 12), jobs.running(), jobs.running(30, None, 12), jobs.done(),
        jobs.waiting(),
    )]  # fmt: skip

    assert [(bar.get("value"), bar.get("max")) for bar in bars] == [
        ("3", "12"), (None, None), ("12", "12"), ("1", "1"), ("0", "1"),
    ]  # fmt: skip
    assert bars[0]["aria-valuetext"] == "Running, 25 %, copying"


def test_label_is_shown_and_names_the_bar(jobs):
    element = made(jobs.waiting(), "Import of photos")

    assert element.find(class_="asyncjob-label").text == "Import of photos"
    assert element.progress["aria-label"] == "Import of photos"


def test_element_has_no_inline_script_style_or_handler(jobs):
    for uid in jobs.of_each_state().values():
        element = made(uid, "A label", cancel=True, then="/")
        for each in [element, *element.find_all(True)]:
            assert not [name for name in each.attrs if name.startswith("on") or name == "style"]
            assert each.name != "style"
            assert each.name != "script" or (each["src"] and not each.text)


def test_element_is_markup_and_well_formed_xml(jobs):
    from xml.etree import ElementTree

    for uid in jobs.of_each_state().values():
        element = asyncjob_progress(uid, "A & B", cancel=True, then="/a?b=c&d=e")

        assert isinstance(element, Markup)
        ElementTree.fromstring(element)


def test_hostile_text_is_shown_without_what_it_would_do(jobs):
    error = TaskError(f"app.{HOSTILE}", HOSTILE * 1000, "")
    big = HOSTILE + "x" * 100_000
    for element in (
        asyncjob_progress(jobs.running(1, HOSTILE, 3), HOSTILE),
        asyncjob_progress(jobs.running(1, big, 3), big),
        asyncjob_progress(jobs.failed(error=error), HOSTILE, cancel=True),
        asyncjob_progress(HOSTILE, then="/"),
        asyncjob_progress(big),
    ):
        assert not [each for each in FORBIDDEN if each in element]
        assert element.count("<script") == 1
        assert len(element) < 8000
        assert "onerror" not in element


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  two\nlines\u2028and\ttabs ", "two lines and tabs"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\0b\x1b", "a\\x00b\\x1b"),
        ("\ud800", "\\ud800"),
        ("family \U0001f468\u200d\U0001f469", "family \U0001f468\u200d\U0001f469"),
        ("x" * 21, "x" * 20 + "..."),
        (" " * 100_000 + "x", ""),
    ],
)
def test_text_is_shown_as_one_line(text, line):
    assert shown(text, 20).removesuffix("...") == line.removesuffix("...")


@pytest.mark.parametrize(
    "then",
    ["//evil.example/", "/\\evil.example/", "https://evil.example/", "javascript:alert(1)",
     "album", "", "/a\nb", "/\t/evil.example", "/ /x", 7],
)  # fmt: skip
def test_then_that_may_lead_to_another_site_is_refused(jobs, then):
    with pytest.raises(BadCall, match="a path of this site"):
        asyncjob_progress(jobs.waiting(), then=then)


def test_then_is_signed_and_a_link_once_the_job_is_done(jobs, queue):
    waiting, done, failed = (
        made(uid, then="/album/3") for uid in (jobs.waiting(), jobs.done(), jobs.failed())
    )
    fields = {field["name"]: field["value"] for field in waiting.find_all("input")}

    assert Tokens(queue).fits(fields["token"], "then", fields["uid"], "/album/3")
    assert waiting.a is None
    assert done.a["href"] == "/album/3"
    assert failed.a is None


def test_button_is_there_if_it_is_asked_for_and_signed_for_the_reader(jobs, queue):
    uid = jobs.running()

    with as_visitor(Rights("ann"), "/elsewhere"):
        form = made(uid, cancel=True).find("form", method="post")

    fields = {field["name"]: field["value"] for field in form.find_all("input")}
    assert form["action"] == "/elsewhere/cancel"
    assert Tokens(queue).fits(fields["token"], "post", "/cancel", uid, "ann")
    assert not Tokens(queue).fits(fields["token"], "post", "/cancel", uid, None)
    assert made(uid).find("form", method="post") is None
    assert made(jobs.done(), cancel=True).find("form") is None


def test_without_a_secret_a_shared_backend_signs_nothing(tmp_path: Path) -> None:
    with JobQueue("sql", url=sqlite_with_tables(tmp_path), threads=0) as queue:
        uid = Jobs(queue).waiting()

        assert made(uid)["data-state"] == "waiting"
        for options in ({"cancel": True}, {"then": "/"}):
            with pytest.raises(ConfigError, match=r"expected asyncjob\.secret"):
                asyncjob_progress(uid, **options)


def test_without_a_secret_memory_signs_with_the_key_of_its_process() -> None:
    with JobQueue(threads=0) as queue:
        token = Tokens(queue).sign("then", "x", "/")

        assert Tokens(queue).fits(token, "then", "x", "/")
        assert not Tokens(queue).fits(token, "then", "x", "/y")


def test_path_of_the_application_is_the_option_and_needed() -> None:
    with JobQueue(threads=0, web_path="/app/jobs") as queue:
        assert made(Jobs(queue).waiting())["data-url"] == "/app/jobs"
    with JobQueue(threads=0, web_path="none"), pytest.raises(ConfigError, match="web_path"):
        asyncjob_progress("asyncjob_x")


@pytest.mark.parametrize("path", ["jobs", "/", "/a/", "//a", "/a b", "/a?b", "/../a", "/a/./b"])
def test_path_that_is_none_is_refused(path):
    with pytest.raises(ConfigError, match="a path such as /asyncjob, or none"):
        JobQueue(web_path=path)


def test_owner_alone_sees_the_state_where_the_option_says_so() -> None:
    with JobQueue(threads=0, progress_access="owner") as queue:
        uid, of_nobody = Jobs(queue).running(user="ann"), Jobs(queue).running()
        states = {}
        for user in ("ann", "eve", None, "reader"):
            with as_visitor(Rights(user, may_view=user == "reader")):
                states[user] = [made(each)["data-state"] for each in (uid, of_nobody)]

    assert states == {
        "ann": ["running", "unknown"], "eve": ["unknown"] * 2, None: ["unknown"] * 2,
        "reader": ["running"] * 2,
    }  # fmt: skip

"""The pages of the sample application, under WebTest."""

import re
import threading
import time
from io import BytesIO
from urllib.parse import unquote

import pytest
from PIL import Image
from running_album import SECONDS
from webtest import TestApp

from photoalbum.controllers import root
from photoalbum.lib import darkroom, samples, uploads
from photoalbum.model import ContactSheet, Picture

# WebOb copies the body of an upload into a temporary file and leaves the closing of
# it to the garbage collector.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]


def upload(album, *files):
    return album.web.post("/upload", upload_files=[("pictures", *each) for each in files])


def uid_of(answer):
    assert answer.status_int == 302
    return unquote(answer.location.rpartition("/job/")[2])


def state_on(page):
    return page.html.find("asyncjob-progress")["data-state"]


def said_on(page):
    return page.html.find(class_="asyncjob-said").text.strip()


def cancel_on(page):
    return page.forms[1].submit()


def status(album, uid):
    return album.web.get("/status", params={"uid": uid}).json


@pytest.fixture
def small_samples(monkeypatch):
    """Paint the sample pictures small, where their size is not what is tested."""
    monkeypatch.setattr(samples, "SIZE", (400, 300))


def test_empty_album_says_what_to_do(album):
    page = album.web.get("/")

    assert "The album is empty" in page
    assert page.html.find(string="Use the sample pictures")


def test_upload_goes_from_waiting_to_thumbnails_and_contact_sheet(album, rows, picture_file):
    answer = upload(album, ("cat_one.jpg", picture_file()), ("dog.png", picture_file("PNG")))
    uid = uid_of(answer)
    assert state_on(answer.follow()) == "waiting"
    assert status(album, uid)["status"] == "READY"

    assert album.queue.run_pending() == 1

    page = answer.follow()
    assert state_on(page) == "done"
    assert "2 pictures ready" in page
    assert status(album, uid)["status"] == "SUCCESSFUL"
    assert [picture.title for picture in rows(Picture)] == ["Cat one", "Dog"]
    for listed in album.web.get("/pictures").json["pictures"]:
        thumbnail = album.web.get(listed["thumbnail"])
        assert thumbnail.content_type == "image/jpeg"
        assert Image.open(BytesIO(thumbnail.body)).size == (480, 360)
    [sheet] = rows(ContactSheet)
    Image.open(BytesIO(album.web.get(f"/sheet/{sheet.id}").body)).load()


def test_every_page_of_a_developed_picture_answers(album, picture_file):
    upload(album, ("cat.jpg", picture_file()))
    album.queue.run_pending()

    assert "Cat" in album.web.get("/picture/1")
    for kind in ("original", "preview", "thumbnail"):
        Image.open(BytesIO(album.web.get(f"/{kind}/1").body)).load()
    assert "Latest contact sheet" in album.web.get("/")


def test_progress_is_reported_for_each_step(album, picture_file, monkeypatch):
    seen = []

    def thumbnail(image):
        seen.append(album.queue.result(uid).progress)
        return image.resize((480, 360))

    monkeypatch.setattr(darkroom, "thumbnail", thumbnail)
    uid = uid_of(upload(album, ("a.jpg", picture_file()), ("b.jpg", picture_file())))

    album.queue.run_pending()

    assert [(each.value, each.total) for each in seen] == [(2, 9), (6, 9)]
    assert seen[1].data == "Thumbnail of “B”"
    assert status(album, uid)["progress"]["value"] == 9


def test_good_pictures_are_kept_when_others_are_refused(album, rows, picture_file):
    whole = picture_file(size=(900, 700))

    answer = upload(
        album,
        ("good.jpg", picture_file()),
        ("notes.jpg", b"these are words"),
        ("broken.jpg", whole[: len(whole) // 2]),
        ("nothing.png", b""),
    )

    page = answer.follow()
    assert "“notes.jpg” is not a JPEG, PNG, WebP or GIF picture" in page
    assert "“broken.jpg” is damaged and cannot be read to its end" in page
    assert "“nothing.png” is empty" in page
    assert [picture.title for picture in rows(Picture)] == ["Good"]
    assert len(album.files("originals")) == 1


def test_file_that_is_too_large_is_refused_by_name(album, rows, picture_file, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 1000)

    page = upload(album, ("large.jpg", picture_file())).follow()

    assert "“large.jpg” is larger than" in page
    assert rows(Picture) == []
    assert album.queue.run_pending() == 0


def test_request_that_is_too_large_is_refused_with_a_sentence(
    album, rows, monkeypatch, picture_file
):
    monkeypatch.setattr(uploads, "MAX_REQUEST_BYTES", 1000)

    page = album.web.post(
        "/upload", upload_files=[("pictures", "large.jpg", picture_file())], status=413
    )

    assert "together the files are larger" in page
    assert rows(Picture) == []


def test_picture_with_too_many_pixels_is_refused(album, monkeypatch, picture_file):
    monkeypatch.setattr(uploads, "MAX_PIXELS", 2_000_000)

    page = upload(album, ("bomb.png", picture_file("PNG", size=(2000, 2000)))).follow()

    assert "“bomb.png” has more than 2 million pixels" in page


def test_many_refused_files_still_fit_into_a_cookie(album):
    page = upload(album, *((f"{'ü' * 100}{n}.jpg", b"no") for n in range(40))).follow()

    assert "and 36 more" in page


def test_upload_without_files_is_answered_with_a_sentence(album):
    assert "No files were chosen" in album.web.post("/upload").follow()


def test_name_of_an_uploaded_file_is_no_path_and_no_markup(album, rows, picture_file):
    upload(album, ("../../<b>evil</b>.jpg", picture_file()))
    album.queue.run_pending()

    page = album.web.get("/")
    assert "<b>" not in page
    assert len(album.files("originals")) == 1
    assert rows(Picture)[0].developed


def test_transparent_and_small_pictures_are_developed_too(album, rows):
    stream = BytesIO()
    Image.new("RGBA", (1, 1), (255, 0, 0, 0)).save(stream, "PNG")

    upload(album, ("dot.png", stream.getvalue()))
    album.queue.run_pending()

    assert rows(Picture)[0].colour == "#ffffff"


def test_sample_pictures_are_painted_by_a_job(album, rows, small_samples):
    answer = album.web.post("/samples")
    assert rows(Picture) == []

    album.queue.run_pending()

    assert state_on(answer.follow()) == "done"
    assert [picture.title for picture in rows(Picture)] == [s.title for s in samples.SCENES]
    assert len({path.read_bytes() for path in album.files("thumbnails")}) == len(samples.SCENES)


def test_failing_job_shows_class_and_message(album, small_samples):
    answer = album.web.post("/fail")

    album.queue.run_pending()

    page = answer.follow()
    assert state_on(page) == "failed"
    assert re.match("Failed: DamagedPicture: .* breaks off after", said_on(page))
    error = status(album, uid_of(answer))["error"]
    assert error["class"] == "photoalbum.jobs.DamagedPicture"
    assert "Traceback" not in str(error)


def test_failed_job_can_be_run_again(album, small_samples):
    answer = album.web.post("/fail")
    album.queue.run_pending()

    answer.follow().forms[0].submit()

    assert state_on(answer.follow()) == "retrying"
    album.queue.run_pending()
    assert state_on(answer.follow()) == "failed"


def test_waiting_job_is_cancelled_at_once_and_never_runs(album, rows, small_samples):
    answer = album.web.post("/samples")

    cancel_on(answer.follow())

    assert state_on(answer.follow()) == "cancelled"
    album.queue.run_pending()
    assert rows(Picture) == []


@pytest.fixture
def held_oil_painting(album, picture_file, gate, monkeypatch, in_background):
    """Start the longest job and hold it at its third stroke; gives its uid."""
    upload(album, ("cat.jpg", picture_file()))
    album.queue.run_pending()
    monkeypatch.setattr(darkroom, "brush", gate.before(darkroom.brush))
    uid = uid_of(album.web.post("/oil"))
    in_background()
    gate.let_pass(2)
    for _stroke in range(3):
        gate.wait_for_arrival()
    return uid


def test_running_job_stops_at_its_next_stroke_and_leaves_nothing(
    album, rows, held_oil_painting, gate
):
    page = f"/job/{held_oil_painting}"
    cancel_on(album.web.get(page))
    assert state_on(album.web.get(page)) == "cancelling"

    gate.let_pass()
    album.queue.result(held_oil_painting).wait(SECONDS)

    assert state_on(album.web.get(page)) == "cancelled"
    assert len(rows(Picture)) == 1
    assert len(album.files("originals")) == 1


def test_requests_that_write_are_not_held_up_by_the_longest_job(
    album, rows, held_oil_painting, picture_file
):
    began = time.monotonic()

    upload(album, ("dog.jpg", picture_file()))

    assert time.monotonic() - began < 1
    assert [picture.title for picture in rows(Picture)] == ["Cat", "Dog"]
    assert status(album, held_oil_painting)["status"] == "RUNNING"


def test_oil_painting_becomes_a_picture_of_the_album(album, rows, picture_file):
    upload(album, ("cat.jpg", picture_file()))
    album.web.post("/oil")

    album.queue.run_pending()

    assert [picture.title for picture in rows(Picture)] == ["Cat", "Cat, in oil"]


def test_oil_painting_of_an_empty_album_is_answered_with_a_sentence(album):
    assert "There is no picture yet to paint" in album.web.post("/oil").follow()


def test_message_stays_when_its_page_is_loaded_again_and_is_on_no_other(album, picture_file):
    answer = upload(album, ("good.jpg", picture_file()), ("nothing.png", b""))
    first = answer.follow()
    album.queue.run_pending()

    again = album.web.get(first.request.path)
    elsewhere = album.web.get("/")

    assert "“nothing.png” is empty" in first
    assert "“nothing.png” is empty" in again
    assert "“nothing.png” is empty" not in elsewhere


@pytest.mark.parametrize("cookie", ["", "{", "%7B%7D", "[]", "%22text%22", "1"])
def test_message_that_somebody_made_up_is_no_error(album, cookie):
    album.web.set_cookie("message", cookie)

    assert "The album is empty" in album.web.get("/")


def test_unknown_job_is_json_for_a_client_that_asks_for_json(album):
    as_json = {"Accept": "application/json"}
    answers = [
        album.web.get("/job/asyncjob_nobody", headers=as_json, status=404),
        album.web.get("/status", {"uid": "asyncjob_nobody"}, status=404),
    ]
    page = album.web.get("/job/asyncjob_nobody", headers={"Accept": "text/html"}, status=404)

    for answer in answers:
        assert answer.content_type == "application/json"
        assert "There is no such job." in answer.json.values()
    assert page.content_type == "text/html"
    assert "There is no such job." in page


def test_pictures_of_a_cancelled_job_can_be_developed_later(album, rows, picture_file):
    cancel_on(upload(album, ("cat.jpg", picture_file())).follow())
    page = album.web.get("/")
    assert "1 picture without a thumbnail" in page

    page.forms[max(page.forms)].submit()
    album.queue.run_pending()

    assert rows(Picture)[0].developed
    assert "without a thumbnail" not in album.web.get("/")


def test_request_that_fails_leaves_neither_rows_nor_job(album, rows, picture_file, monkeypatch):
    monkeypatch.setattr(root, "redirect", lambda *args, **kwargs: 1 / 0)

    album.web.post("/upload", upload_files=[("pictures", "cat.jpg", picture_file())], status=500)

    assert album.queue.run_pending() == 0
    assert rows(Picture) == []


def test_unknown_addresses_are_404(album):
    for path in (
        "/job/asyncjob_x",
        "/status?uid=asyncjob_x",
        "/picture/7",
        "/thumbnail/x",
        "/no",
        "/job",
        "/job/",
    ):
        album.web.get(path, status=404)


def test_jobs_are_started_by_post_only_and_never_by_another_site(album, rows):
    for path in ("/samples", "/oil", "/fail", "/upload", "/develop_rest"):
        album.web.get(path, status=405)
        album.web.post(path, headers={"Sec-Fetch-Site": "cross-site"}, status=403)
    assert album.queue.run_pending() == 0


def test_waiting_job_cannot_be_run_again(album, small_samples):
    uid = uid_of(album.web.post("/fail"))

    page = album.web.post("/again", {"uid": uid}).follow()

    assert "Only a job that has ended can be run again." in page


def test_recent_jobs_have_a_bar_each_newest_first(album, small_samples):
    album.web.post("/fail")
    album.queue.run_pending()
    album.web.post("/samples")

    bars = album.web.get("/").html.find(class_="jobs").find_all("asyncjob-progress")

    assert [(bar.div.text, bar["data-state"]) for bar in bars] == [
        ("Add the sample pictures", "waiting"),
        ("Read a damaged picture", "failed"),
    ]


def test_removed_picture_is_gone_at_once_and_its_files_with_the_next_job(album, rows, picture_file):
    upload(album, ("cat.jpg", picture_file()))
    album.queue.run_pending()

    page = album.web.get("/picture/1").forms[0].submit().follow()
    before = [len(album.files(folder)) for folder in ("originals", "previews", "thumbnails")]
    album.queue.run_pending()

    assert "“Cat” was removed." in page
    assert rows(Picture) == []
    assert before == [1, 1, 1]
    assert [album.files(folder) for folder in ("originals", "previews", "thumbnails")] == [[]] * 3
    assert "Develop pictures" in album.web.get("/")


def test_picture_that_is_removed_while_it_is_developed_stays_removed(
    album, rows, picture_file, monkeypatch
):
    def thumbnail(image):
        transaction_of_a_visitor = TestApp(album.wsgi)
        transaction_of_a_visitor.post("/remove", {"picture_id": "1"})
        monkeypatch.undo()
        return darkroom.thumbnail(image)

    monkeypatch.setattr(darkroom, "thumbnail", thumbnail)
    uid = uid_of(upload(album, ("a.jpg", picture_file()), ("b.jpg", picture_file())))

    worker = threading.Thread(target=album.queue.run_pending)
    worker.start()
    worker.join(SECONDS)

    assert status(album, uid)["status"] == "SUCCESSFUL"
    assert [picture.title for picture in rows(Picture)] == ["B"]


def test_oil_painting_of_a_removed_picture_fails_with_a_sentence(album, picture_file):
    upload(album, ("cat.jpg", picture_file()))
    answer = album.web.post("/oil")
    album.web.post("/remove", {"picture_id": "1"})

    album.queue.run_pending()

    assert said_on(answer.follow()) == (
        "Failed: RemovedPicture: the picture was removed from the album"
    )


def test_slow_page_of_colours_is_a_job_that_becomes_the_page(album, small_samples):
    album.web.post("/samples")
    album.queue.run_pending()

    page = album.web.get("/colours", status=202)
    then = page.html.find(attrs={"name": "then"})["value"]
    album.queue.run_pending()
    done = album.web.get(then)

    assert state_on(page) == "waiting"
    assert len(done.html.select(".colours span")) == 5 * len(samples.SCENES)
    assert samples.SCENES[0].title in done


def log_in(album, password):
    form = album.web.get("/login").form
    form["login"], form["password"] = "manager", password
    return form.submit().follow().follow()


def test_dashboard_is_behind_the_login(album, small_samples):
    album.web.post("/fail")
    album.queue.run_pending()
    closed = album.web.get("/asyncjob/", status=403)
    wrong = log_in(album, "drakroom")

    right = log_in(album, "darkroom")

    assert "Not allowed" in closed
    assert "User name or password is wrong." in wrong
    assert "manager" in right
    assert "DamagedPicture" in album.web.get("/asyncjob/failures")
    assert "Log out" in album.web.get("/")
    album.web.get("/logout_handler")
    album.web.get("/asyncjob/failures", status=403)

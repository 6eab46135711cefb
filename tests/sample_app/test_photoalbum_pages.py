"""The pages of the sample application, under WebTest."""

import time
from io import BytesIO
from urllib.parse import unquote

import pytest
import transaction
from PIL import Image
from running_album import SECONDS

from photoalbum.lib import darkroom, samples, uploads
from photoalbum.model import ContactSheet, DBSession, JobRecord, Picture

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
    return page.html.find(id="job")["data-state"]


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
    assert seen[1].data == {"step": "Thumbnail of “B”"}
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
    assert rows(JobRecord) == []


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
    assert page.html.find(class_="error-name").text == "DamagedPicture"
    assert "breaks off after" in page.html.find(class_="error-message").text
    assert "read_damaged" in page.html.find("pre").text
    error = status(album, uid_of(answer))["error"]
    assert error["class"] == "photoalbum.jobs.DamagedPicture"
    assert "Traceback" not in str(error)


def test_failed_job_can_be_run_again(album, small_samples):
    answer = album.web.post("/fail")
    album.queue.run_pending()

    answer.follow().forms[0].submit()

    assert state_on(answer.follow()) == "waiting"
    album.queue.run_pending()
    assert state_on(answer.follow()) == "failed"


def test_waiting_job_is_cancelled_at_once_and_never_runs(album, rows, small_samples):
    answer = album.web.post("/samples")

    page = answer.follow().forms[0].submit().follow()

    assert state_on(page) == "cancelled"
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
    page = album.web.post(f"/job/{held_oil_painting}/cancel").follow()
    assert "stops at its next step" in page
    assert state_on(page) == "running"

    gate.let_pass()
    album.queue.result(held_oil_painting).wait(SECONDS)

    assert state_on(album.web.get(f"/job/{held_oil_painting}")) == "cancelled"
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


def test_cancelling_an_ended_job_says_that_it_had_ended(album, small_samples):
    uid = uid_of(album.web.post("/fail"))
    album.queue.run_pending()

    page = album.web.post(f"/job/{uid}/cancel").follow()

    assert "the job had ended" in page
    assert state_on(page) == "failed"


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


def test_page_of_a_job_that_was_run_again_tells_of_its_last_attempt(album, small_samples):
    uid = uid_of(album.web.post("/fail"))
    first_wait = album.web.get(f"/job/{uid}")
    album.queue.run_pending()
    album.web.post(f"/job/{uid}/again")
    waiting = album.web.get(f"/job/{uid}")
    album.queue.run_pending()
    found = album.queue.result(uid)

    page = album.web.get(f"/job/{uid}")

    ran = (found.finished_at - found.last_attempted_at).total_seconds()
    times = {row.dt.text: row.dd.text for row in page.html.find(class_="times").find_all("div")}
    assert "starts as soon as a worker is free" in first_wait
    assert "will run from its" in waiting
    assert times == {"Attempts": "2", "Ran": f"{ran:.1f} s", "Job": uid}


def test_job_that_was_cancelled_before_it_began_says_so(album, small_samples):
    uid = uid_of(album.web.post("/samples"))

    page = album.web.post(f"/job/{uid}/cancel").follow()

    assert "was cancelled before it started" in page
    assert "Ran" not in page


def test_pictures_of_a_cancelled_job_can_be_developed_later(album, rows, picture_file):
    upload(album, ("cat.jpg", picture_file())).follow().forms[0].submit()
    page = album.web.get("/")
    assert "1 picture without a thumbnail" in page

    page.forms[max(page.forms)].submit()
    album.queue.run_pending()

    assert rows(Picture)[0].developed
    assert "without a thumbnail" not in album.web.get("/")


def test_request_that_fails_leaves_neither_rows_nor_job(album, rows, picture_file, monkeypatch):
    monkeypatch.setattr(JobRecord, "__init__", lambda *args, **kwargs: 1 / 0)

    album.web.post("/upload", upload_files=[("pictures", "cat.jpg", picture_file())], status=500)

    assert album.queue.run_pending() == 0
    assert rows(Picture) == []


def test_job_of_a_server_that_has_stopped_is_shown_as_no_longer_known(album, rows):
    DBSession.add(JobRecord(uid="asyncjob_of_last_week", title="Develop 3 pictures"))
    transaction.commit()

    assert state_on(album.web.get("/job/asyncjob_of_last_week")) == "unknown"
    assert "No longer known" in album.web.get("/")


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
    assert rows(JobRecord) == []


def test_page_without_javascript_reloads_itself_until_the_job_has_ended(album, small_samples):
    answer = album.web.post("/samples")
    assert answer.follow().html.find("meta", attrs={"http-equiv": "refresh"})

    album.queue.run_pending()

    assert not answer.follow().html.find("meta", attrs={"http-equiv": "refresh"})

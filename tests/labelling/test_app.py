"""The pages: what they show, store and refuse. Requests go to the application in this process."""

import html
import re
import sqlite3

import pytest

from rlhf_jax.labelling import answers, guard
from rlhf_jax.labelling.app import make_app
from rlhf_jax.labelling.forms import MOST_TEXT
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.store import Store
from tests.labelling.client import FORM, ORIGIN, Browser, Labelling, ranking

NASTY = ("<script>alert(1)</script>", "\u202eright to left\u202c", "a\0b\x1b[31m", "x" * 100_000)


def items(count: int = 3, outputs: int = 3) -> list[Item]:
    return [Item("rank", f"prompt {i}", tuple(Output(f"o{j}") for j in range(outputs)))
            for i in range(count)]  # fmt: skip


@pytest.fixture
def labelling(tmp_path):
    return Labelling(tmp_path, items(), each=2)


def stored(labelling) -> list[tuple[str, str, dict]]:
    return [(a.labeler, a.state, a.content) for a in answers.read(labelling.database)]


def test_an_answer_is_stored_by_output_though_it_is_given_by_place(tmp_path):
    labelling = Labelling(tmp_path, items(3, outputs=4))
    anna = labelling.browser("anna")
    page = anna.get()
    assert page.status == 200 and page.value("assignment")
    for number in range(3):  # in one of 24 orders each, which may be that of the file
        found = labelling.store.next("anna")
        fields = ranking([2, 1, 4, 4], [3, 7, 1, 2])
        fields |= {"flag-0": ["violent", "opinion"], "flag-3": "sexual", "seconds": "12"}
        reply = anna.post("/answer", assignment=found.id, **fields)
        assert (reply.status, reply.headers["location"]) == (303, "/")
        labeler, state, content = stored(labelling)[number]
        assert (labeler, state) == ("anna", "answered")
        shown = lambda field, of=content, by=found.places: [of[field][place] for place in by]
        assert shown("ranks") == [1, 0, 2, 2]
        assert shown("scores") == [3, 7, 1, 2]
        assert shown("flags") == [["violent", "opinion"], [], [], ["sexual"]]
    # The clock of the server bounds what the page counts.
    assert all(answer.seconds < 12 for answer in answers.read(labelling.database))


def test_outputs_are_shown_in_random_order_without_their_origin(tmp_path):
    outputs = tuple(Output(f"text {i}", origins=(f"secret-model-{i}",)) for i in range(4))
    labelling = Labelling(tmp_path, [Item("rank", f"p{i}", outputs) for i in range(12)])
    anna, orders = labelling.browser("anna"), set()
    for _ in range(12):
        text = anna.get().text
        assert "secret-model" not in text
        orders.add(tuple(dict.fromkeys(re.findall(r"text \d", text))))
        anna.answer([1, 2, 3, 4])
    assert len(orders) > 3  # of 24; the chance of fewer is below 1e-7


def test_a_model_s_text_is_shown_as_text(tmp_path):
    labelling = Labelling(tmp_path, [Item("rank", "<b>p</b>", tuple(map(Output, NASTY)))])
    text = labelling.browser("anna").get().text
    assert "<script>alert" not in text and "<b>p</b>" not in text
    assert html.escape(NASTY[0], quote=False) in text.replace("&#39;", "'")
    assert "a\u2400b\u241b[31m" in text  # controls that HTML cannot hold are visible
    assert NASTY[1] in text and NASTY[3] in text and "\0" not in text
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)


def test_demonstrations_and_prompts_are_written(tmp_path):
    labelling = Labelling(tmp_path, [Item("demonstrate", "question"), Item("write", "")])
    anna = labelling.browser("anna")
    for field, text in (("response", "two\r\nlines "), ("prompt", "do\u202ethis")):
        page = anna.get()
        assert ("question" in page.text) == (field == "response")
        name = page.value("assignment")
        for wrong in ("", " \r\n\t", "x" * (MOST_TEXT + 1), "nul\0"):
            reply = anna.post("/answer", assignment=name, **{field: wrong})
            assert reply.status == 422 and "Nothing" not in reply.title
        assert anna.post("/answer", assignment=name, **{field: text}).status == 303
    texts = [content["text"] for *_, content in stored(labelling)]
    assert texts == ["two\nlines ", "do\u202ethis"]
    assert anna.get().status == 200 and 'name="assignment"' not in anna.get().text


def test_a_wrong_form_is_shown_again_with_what_was_typed(labelling):
    anna = labelling.browser("anna")
    name = anna.get().value("assignment")
    fields = ranking([2, 1, 3], [5, 6, 7])
    wrong = [("rank-1", value) for value in ("", "0", "4", "-1", "1.0", "x", "\u0661", "9" * 30)]
    wrong += [("score-2", value) for value in ("", "0", "8", " 3")]
    for field, value in wrong:
        reply = anna.post("/answer", assignment=name, **fields | {field: value})
        assert reply.status == 422
        told = f"Output {'ABC'[int(field[-1])]}: {field[:-2]} must be a whole number from 1 to"
        assert told in reply.text
        assert reply.value("assignment") == name
    assert re.search(r'name="rank-0"[^>]*value="2"', reply.text)
    assert stored(labelling) == []
    assert anna.post("/answer", assignment=name, **fields).status == 303


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"rank-3": "1"}, 400),
        ({"seconds": "-1"}, 400),
        ({"seconds": ["1", "2"]}, 400),
        ({"rank-0": ["1", "2"]}, 400),
        ({"flag-0": "kind"}, 400),
        ({"flag-0": ["opinion", "opinion"]}, 400),
        ({"ranks": "1"}, 400),
        ({"assignment": "unknown"}, 404),
        ({"assignment": ""}, 404),
        ({"csrf": ""}, 403),
        ({"csrf": "0" * 64}, 403),
    ],
)
def test_a_form_that_no_page_sends_is_refused(labelling, fields, status):
    anna = labelling.browser("anna")
    good = {"assignment": anna.get().value("assignment"), **ranking([1, 2, 3], [1, 2, 3])}
    reply = anna.post("/answer", **good | fields)
    assert reply.status == status and "Nothing was stored" in reply.text
    assert stored(labelling) == []
    assert anna.post("/answer", **good).status == 303


def test_an_item_of_another_labeler_is_refused(labelling):
    name = labelling.browser("anna").get().value("assignment")
    ben = labelling.browser("ben")
    assert ben.post("/answer", assignment=name, **ranking([1, 2, 3], [1, 2, 3])).status == 404
    assert ben.post("/skip", assignment=name, reason="unclear").status == 404
    assert stored(labelling) == []


def test_a_form_that_is_sent_twice_is_stored_once(labelling):
    anna = labelling.browser("anna")
    name = anna.get().value("assignment")
    first, other = ranking([1, 2, 3], [7, 4, 1]), ranking([3, 2, 1], [7, 4, 1])
    assert anna.post("/answer", assignment=name, **first).status == 303
    assert anna.post("/answer", assignment=name, **first).status == 303
    assert anna.post("/answer", assignment=name, **other).status == 409
    assert anna.post("/skip", assignment=name, reason="unclear").status == 409
    assert len(stored(labelling)) == 1


def test_a_skip_has_a_reason_and_undo_takes_it_back(labelling):
    anna = labelling.browser("anna")
    name = anna.get().value("assignment")
    for fields in ({}, {"reason": "bored"}, {"reason": "other"}, {"reason": "other", "detail": " "},
                   {"reason": "unclear", "detail": "x" * 501}):  # fmt: skip
        assert anna.post("/skip", assignment=name, **fields).status == 422
    assert anna.post("/skip", assignment=name, reason="other", detail="odd").status == 303
    assert stored(labelling) == [("anna", "skipped", {"reason": "other", "detail": "odd"})]
    assert anna.post("/undo").status == 303
    assert stored(labelling) == []
    assert anna.get().value("assignment") != name
    assert anna.post("/undo").status == 409


def test_undo_shows_the_answer_again(labelling, monkeypatch):
    monkeypatch.setattr("random.SystemRandom.sample", lambda self, values, count: [1, 2, 0])
    anna = labelling.browser("anna")
    anna.answer([3, 1, 3], [2, 7, 3], **{"flag-1": "sexual"})
    anna.post("/undo")
    text = anna.get().text
    assert re.findall(r'name="rank-\d"[^>]*value="(\d)"', text) == ["2", "1", "2"]
    assert re.findall(r'name="score-\d" value="(\d)"[^>]*checked', text) == ["2", "7", "3"]
    (box,) = re.findall(r'<input type="checkbox" name="(flag-\d" value="\w+)"[^>]*checked', text)
    assert box == 'flag-1" value="sexual'


def test_consent_comes_first(labelling):
    anna = Browser(labelling.app)
    assert anna.get().headers["location"] == "/enter"
    assert anna.post("/enter", token=labelling.tokens["anna"]).headers["location"] == "/"
    assert anna.get().headers["location"] == "/consent"
    page = anna.get("/consent")
    assert "false, offensive, sexual or violent" in " ".join(page.text.split())
    anna.csrf = page.value("csrf")
    name = labelling.store.next("anna").id
    refused = anna.post("/answer", assignment=name, **ranking([1, 2, 3], [1, 2, 3]))
    assert refused.status == 403 and stored(labelling) == []
    assert anna.post("/consent").status == 422
    assert anna.post("/consent", agree="yes").status == 303
    assert anna.get().status == 200


def test_only_a_token_opens_the_page_and_it_is_stored_hashed(labelling, tmp_path):
    stranger = Browser(labelling.app)
    for token in ("", "anna", labelling.tokens["anna"][:-1], "\u6f22", "x" * 5000):
        assert stranger.post("/enter", token=token).status == 401
        assert stranger.cookie is None
    assert stranger.post("/enter").status == 401
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    anna = labelling.browser("anna")
    for secret in (*labelling.tokens.values(), anna.cookie.partition("=")[2]):
        assert secret.encode() not in content
    for path in ("/", "/consent", "/owner", "/owner/export/answers.json"):
        assert stranger.get(path).headers["location"] == "/enter"
    assert stranger.post("/undo", csrf="x").status == 401


def test_a_new_token_ends_the_old_one_and_its_sessions(labelling):
    anna = labelling.browser("anna")
    old = labelling.tokens["anna"]
    new = labelling.people.register(("anna", "ben"), renewed=("anna",))
    assert list(new) == ["anna"]
    assert anna.get().headers["location"] == "/enter"
    assert Browser(labelling.app).post("/enter", token=old).status == 401
    assert Browser(labelling.app).post("/enter", token=new["anna"]).status == 303


def test_leaving_ends_the_session(labelling):
    anna = labelling.browser("anna")
    cookie = anna.cookie
    assert anna.post("/leave").headers["location"] == "/enter"
    anna.cookie = cookie
    assert anna.get().headers["location"] == "/enter"


def test_this_machine_s_page_needs_no_token_until_there_are_labelers(tmp_path):
    labelling = Labelling(tmp_path, items(), labelers=())
    me = Browser(labelling.app).enter(None)
    assert me.answer([1, 2, 3]).status == 303
    assert me.get("/owner").status == 200
    labelling.people.register(["anna"])
    assert me.get().headers["location"] == "/enter"
    assert Browser(labelling.app).post("/enter").status == 401


def test_the_owner_sees_agreement_and_exports_and_labels_nothing(labelling):
    anna, ben = labelling.browser("anna"), labelling.browser("ben")
    for _ in range(3):
        for browser, name in ((anna, "anna"), (ben, "ben")):
            places = labelling.store.next(name).places
            browser.answer([1 + number for number in places], [5 - number for number in places])
    owner = Browser(labelling.app)
    owner.post("/enter", token=labelling.tokens["owner"])
    assert owner.get().headers["location"] == "/owner"
    page = owner.get("/owner")
    assert page.status == 200 and "anna" in page.text and "ben" in page.text
    export = owner.get("/owner/export/rankings.train.jsonl")
    assert export.text.count("\n") == 6
    assert 'filename="rankings.train.jsonl"' in export.headers["content-disposition"]
    for path in ("/owner", "/owner/export/answers.json"):
        assert anna.get(path).status == 403
    for name in ("nothing", "..%2Flabels.sqlite", "../labels.sqlite", "labels.sqlite"):
        assert owner.get(f"/owner/export/{name}").status == 404


def test_every_response_has_the_headers_that_protect_it(labelling):
    anna = labelling.browser("anna")
    for reply in (anna.get(), anna.get("/none"), anna.post("/undo", csrf=""), anna.get("/enter"),
                  anna.get("/static/label.css"), anna.send("GET", "/")):  # fmt: skip
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "same-origin"
    assert anna.get().headers["cache-control"] == "no-store"
    cookie = Browser(labelling.app).post("/enter", token=labelling.tokens["ben"]).headers
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie["set-cookie"].split("; "))


def test_pages_on_two_ports_of_a_host_keep_their_sessions(labelling, tmp_path):
    """A browser sends the cookies of one to the other, and one cookie would replace the other."""
    other = Labelling(tmp_path / "other", items())
    anna, ben = labelling.browser("anna"), other.browser("ben")
    assert anna.cookie.partition("=")[0] != ben.cookie.partition("=")[0]
    restarted = Browser(make_app(labelling.database, [ORIGIN]))
    restarted.cookie = anna.cookie = ben.cookie = f"{anna.cookie}; {ben.cookie}"
    assert [browser.get().status for browser in (anna, ben, restarted)] == [200, 200, 200]


HOST, OTHER = ("host", "127.0.0.1:8080"), ("host", "evil.example")
GOOD = [HOST, ("origin", ORIGIN), ("content-type", FORM)]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", [], 400),
        ("GET", [OTHER], 400),
        ("GET", [HOST, HOST], 400),
        ("GET", [("host", "127.0.0.1")], 400),
        ("PUT", GOOD, 405),
        ("OPTIONS", GOOD, 405),
        ("POST", [HOST, GOOD[2]], 403),
        ("POST", [HOST, ("origin", "null"), GOOD[2]], 403),
        ("POST", [HOST, ("origin", "https://127.0.0.1:8080"), GOOD[2]], 403),
        ("POST", [HOST, ("origin", "http://127.0.0.1:8080.evil.example"), GOOD[2]], 403),
        ("POST", [HOST, GOOD[1]], 415),
        ("POST", [HOST, GOOD[1], ("content-type", "multipart/form-data; boundary=x")], 415),
        ("POST", [*GOOD, ("content-length", str(guard.MOST_BODY + 1))], 413),
        ("POST", [*GOOD, ("content-length", "many")], 413),
    ],
)
def test_requests_of_other_pages_are_refused(labelling, method, headers, status):
    body = f"token={labelling.tokens['anna']}".encode()
    reply = Browser(labelling.app).send(method, "/enter", body, headers)
    assert reply.status == status and "set-cookie" not in reply.headers


def test_a_body_is_bounded_and_a_form_too(labelling):
    browser = Browser(labelling.app)
    big = b"token=" + b"x" * guard.MOST_BODY
    assert browser.send("POST", "/enter", big, GOOD, parts=40).status == 413
    assert browser.send("POST", "/enter", big[: guard.MOST_BODY], GOOD, parts=40).status == 401
    many = b"&".join(b"f%d=" % i for i in range(2000))
    for body in (
        many,
        b"token",
        b"token=%ff",
        "token=\u00e9".encode(),
        b"=&&=",
        b"token=1&token=2",
    ):
        assert browser.send("POST", "/enter", body, GOOD).status == 400


def test_a_body_that_does_not_arrive_is_not_waited_for(labelling, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.02)
    browser = Browser(labelling.app)
    assert browser.send("POST", "/enter", b"token=", GOOD, stops="waits").status == 408
    assert browser.send("POST", "/enter", b"token=", GOOD, stops="leaves").status == 400


def test_no_path_reaches_the_file_system(labelling):
    browser = Browser(labelling.app)
    for name in ("label.css", "label.js"):
        assert browser.send("GET", f"/static/{name}", headers=[HOST]).status == 200
    for name in ("app.py", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "", "a\0b"):
        assert browser.send("GET", f"/static/{name}", headers=[HOST]).status == 404


def test_a_full_disk_is_told_and_nothing_is_acknowledged(labelling, monkeypatch):
    anna = labelling.browser("anna")
    name = anna.get().value("assignment")

    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "answer", full)
        reply = anna.post("/answer", assignment=name, **ranking([1, 2, 3], [1, 2, 3]))
    assert reply.status == 503 and "disk is full" in reply.text
    assert stored(labelling) == []


def test_a_labeler_who_is_deleted_during_a_request_is_told_so(labelling, monkeypatch):
    browser, following = labelling.browser("anna"), Store.next

    def deleted_first(store, person):
        labelling.people.delete(person)
        return following(store, person)

    monkeypatch.setattr(Store, "next", deleted_first)
    reply = browser.get()
    assert reply.status == 401 and "has been deleted" in reply.text

"""A judge at an endpoint, against a server on this machine that fails in each of its ways."""

import dataclasses
import json
import socket
import time

import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.judging.endpoint import Endpoint, EndpointJudge
from rlhf_jax.evaluation.judging.kept import Kept
from tests.evaluation.judging.fake_server import Reply, says, serving


class Asking:
    """A judge of a fake server, what it printed, and how long it waited."""

    def __init__(self, url, folder, **fields):
        self.told, self.waits = [], []
        endpoint = Endpoint(url, "m", **({"parallel": 1} | fields))
        self.judge = EndpointJudge(endpoint, Kept(folder, url), self.told.append, self.waits.append)

    def __call__(self, *prompts):
        return self.judge.answers(prompts)


def test_answers_come_in_order_and_are_asked_once(tmp_path):
    with serving(lambda prompt, number: says(f"{prompt}!")) as fake:
        asking = Asking(fake.url, tmp_path, parallel=4, temperature=0.5, most_tokens=9)
        prompts = [f"p{i % 7}" for i in range(20)]
        assert asking(*prompts) == [f"{prompt}!" for prompt in prompts]
        assert asking("p1", "new") == ["p1!", "new!"]
        again = Asking(fake.url, tmp_path, temperature=0.5, most_tokens=9)
        assert again(*prompts) == [f"{prompt}!" for prompt in prompts] and again.told == []
        other = Asking(fake.url, tmp_path, temperature=0.0, most_tokens=9)
        other("p1")  # another question: another temperature
    assert len(fake.requests) == 7 + 1 + 1
    path, headers, body = fake.requests[0]
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    (message,) = body.pop("messages")
    assert body == {"model": "m", "temperature": 0.5, "max_tokens": 9}
    assert message["role"] == "user" and message["content"] in prompts


@pytest.mark.parametrize(
    "reply, words",
    [
        (Reply(429, {"error": {"message": "slow\ndown"}}), "HTTP 429: slow down"),
        (Reply(500, b"<html>"), "HTTP 500"),
        (Reply(503, {"error": "busy"}), "HTTP 503: busy"),
        (Reply(200, b"not json"), "no chat completion: 'not json'"),
        (Reply(200, {"choices": []}), "no chat completion"),
        (Reply(200, [1]), "no chat completion"),
        (Reply(200, {"choices": [{"message": {"content": 3}}]}), "no chat completion"),
        (Reply(200, b"[" * 100_000), "no chat completion"),
        (Reply(200, b"{}", (("Content-Length", "900"),)), "no chat completion: '{}'"),
    ],
)
def test_what_fails_for_a_time_is_tried_again_with_longer_waits(tmp_path, reply, words):
    with serving(lambda prompt, n: reply if n <= 3 else says("at last")) as fake:
        asking = Asking(fake.url, tmp_path)
        assert asking("a") == ["at last"] and asking.waits == [1.0, 2.0, 4.0]
        assert asking.judge.retries == 3
        _, told = asking.told  # of three within a second
        assert words in told and told.endswith("; asks again in 1 s (1 so far)")
    with serving(lambda prompt, n: reply if prompt == "b" else says("yes")) as fake:
        asking = Asking(fake.url, tmp_path, tries=3)
        with pytest.raises(UserError, match=f"judge http.*#m: .*{words}.*, 3 times; .* are kept"):
            asking("a", "b", "c")
        assert asking.waits == [1.0, 2.0] and len(fake.requests) == 4
        assert Asking(fake.url, tmp_path)("a") == ["yes"] and len(fake.requests) == 4


def test_the_server_s_wait_is_kept_within_a_minute(tmp_path):
    waits = iter(["7", "1e9", "tomorrow"])
    answer = lambda prompt, n: (
        Reply(429, {}, (("Retry-After", next(waits)),)) if n < 4 else says("a")
    )
    with serving(answer) as fake:
        asking = Asking(fake.url, tmp_path)
        assert asking("a") == ["a"] and asking.waits == [7.0, 60.0, 4.0]


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_what_stays_wrong_is_not_tried_again(tmp_path, status):
    with serving(lambda p, n: Reply(status, {"error": {"message": "no such model"}})) as fake:
        with pytest.raises(UserError, match=f"judge {fake.url}#m: HTTP {status}: no such model$"):
            Asking(fake.url, tmp_path)("a", "b")
        assert len(fake.requests) == 1


def test_a_server_that_hangs_or_drips_is_given_up_in_time(tmp_path):
    slow = Reply(200, b"x" * 1000, pause=0.05)
    for reply in (slow, slow._replace(pause=30.0)):
        with serving(lambda prompt, n, reply=reply: reply) as fake:
            start = time.monotonic()
            with pytest.raises(UserError, match=r"no answer within 0.3 s, 2 times"):
                Asking(fake.url, tmp_path, timeout=0.3, tries=2)("a")
            assert 0.6 <= time.monotonic() - start < 5


def test_a_server_that_is_not_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match="Connection refused, 2 times"):
        Asking(url, tmp_path, tries=2)("a")


def test_the_cost_is_told_before_the_first_request_and_has_a_limit(tmp_path):
    with serving(lambda prompt, n: says("yes", (1000, 500))) as fake:
        free = Asking(fake.url, tmp_path / "free")
        free("a" * 400)
        assert free.told == ["judge m: 1 requests (0 answers are known), about 100 tokens of "
                             "prompts, at most 512 of answers: prices are not given"]  # fmt: skip
        asking = Asking(fake.url, tmp_path, price_in=10.0, price_out=20.0, most_tokens=100,
                        most_cost=0.06)  # fmt: skip
        asking("a" * 400, "b" * 400)
        assert asking.told[-1].endswith("2 requests (0 answers are known), about 200 tokens of "
                                        "prompts, at most 200 of answers: at most about $0.01, "
                                        "after $0.00 so far")  # fmt: skip
        assert asking.judge.kept.spent == [2000, 1000]  # $0.04
        count = len(fake.requests)
        with pytest.raises(UserError, match=r"cost \$0.06, most_cost is \$0.06; .* cost \$0.04$"):
            asking(*(f"{i}" * 400 for i in range(8)))
        assert len(fake.requests) == count
        assert len(asking.told) == 2


def test_what_is_expected_in_all_is_told_once_and_the_limit_stays(tmp_path):
    with serving(lambda prompt, n: says("yes", (1000, 500))) as fake:
        asking = Asking(fake.url, tmp_path, price_in=10.0, price_out=20.0, most_tokens=100,
                        most_cost=0.03)  # fmt: skip
        asking.judge.expect([])
        assert asking.told == []
        asking.judge.expect(["a" * 4000, "b" * 4000, "c" * 4000])
        assert asking.told == ["judge m: at most 3 requests in all, about 3,000 tokens of "
                               "prompts, at most 300 of answers: at most about $0.04, after "
                               "$0.00 so far"]  # fmt: skip
        asking("a" * 400)
        assert asking.judge.kept.spent == [1000, 500]  # $0.02
        with pytest.raises(UserError, match=r"4 more requests all may cost \$0.03, most_cost is"):
            asking(*(f"{i}" * 400 for i in range(4)))
        assert len(asking.told) == 1 and len(fake.requests) == 1


@pytest.mark.parametrize(
    "usage, spent",
    [({}, [3, 50]), ({"prompt_tokens": 7}, [7, 50]), ({"completion_tokens": 4}, [3, 4]),
     (None, [3, 50]), ({"prompt_tokens": "7", "completion_tokens": -1}, [3, 50])],
)  # fmt: skip
def test_an_answer_without_usage_counts_at_its_highest_cost(tmp_path, usage, spent):
    content = says("yes").content | {"usage": usage}
    with serving(lambda prompt, n: Reply(200, content)) as fake:
        asking = Asking(fake.url, tmp_path, most_tokens=50)
        asking("a" * 9)  # 9 / 4 tokens
        assert asking.judge.kept.spent == spent
        assert Asking(fake.url, tmp_path).judge.kept.spent == spent  # as the file has it


def test_the_limit_counts_the_answers_that_are_kept_already(tmp_path):
    prices = {"price_in": 10.0, "price_out": 20.0, "most_tokens": 100}  # 10 tokens and 100: $0.0021
    with serving(lambda prompt, n: says("yes", (1000, 500))) as fake:
        Asking(fake.url, tmp_path, **prices)("a" * 40, "b" * 40)  # $0.04
        asking = Asking(fake.url, tmp_path, **prices, most_cost=0.042)
        assert asking("a" * 40) == ["yes"]  # a known answer costs nothing
        with pytest.raises(UserError, match=r"1 more requests all may cost \$0.04, most_cost is"):
            asking("c" * 40)
        assert len(fake.requests) == 2
        asking = Asking(fake.url, tmp_path, **prices, most_cost=0.0422)
        assert asking("c" * 40) == ["yes"]
        assert asking.told[0].endswith("at most about $0.00, after $0.04 so far")


def test_the_key_is_sent_and_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(lambda prompt, n: says("yes") if n == 1 else Reply(401, {})) as fake:
        asking = Asking(fake.url, tmp_path, key="MY_KEY")
        asking("a")
        assert fake.requests[0][1]["Authorization"] == "Bearer s3cret"
        assert "s3cret" not in "".join(asking.told) + asking.judge.kept.path.read_text()
    told = lambda prompt, n: Reply(503, {"error": "no s3cret"}) if n < 3 else Reply(401, {})
    with serving(told) as fake:
        asking = Asking(fake.url, tmp_path / "echo", key="MY_KEY", tries=2)
        with pytest.raises(UserError, match=r"HTTP 503: no \*\*\*, 2 times"):
            asking("b")
        assert "HTTP 503: no ***; asks again" in asking.told[1]
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    assert Endpoint("http://x", "m").secret is None  # not in clear text, unless it is named
    assert Endpoint("https://x", "m").secret == "other"
    for value in ("", "a\nb"):
        monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(UserError, match=r"variable MY_KEY must hold its key$"):
            _ = Endpoint("http://x", "m", key="MY_KEY").secret


def test_an_empty_answer_is_none_and_is_kept(tmp_path):
    with serving(lambda prompt, n: says(None if prompt == "a" else "  ")) as fake:
        assert Asking(fake.url, tmp_path)("a", "b") == [None, None]
        assert Asking(fake.url, tmp_path)("b", "a") == [None, None]
        assert len(fake.requests) == 2


def test_a_line_that_a_kill_has_cut_is_asked_again(tmp_path):
    with serving(lambda prompt, n: says(f"{prompt}{n}")) as fake:
        asking = Asking(fake.url, tmp_path)
        asking("a", "b")
        path = asking.judge.kept.path
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        again = Asking(fake.url, tmp_path)
        assert again.judge.kept.cut == 1 and again("a", "b") == ["a1", "b2"]
        assert Asking(fake.url, tmp_path)("a", "b") == ["a1", "b2"]
        path.write_bytes(whole.replace(b"[7, 3]", b"[7, null]", 1))
        assert Asking(fake.url, tmp_path).judge.kept.cut == 1
        path.write_bytes(whole[:5])  # of the first line
        assert Asking(fake.url, tmp_path)("a") == ["a2"]
        assert path.read_bytes().startswith(whole[: whole.index(b"\n") + 1])
        assert len(fake.requests) == 4
        path.write_text(json.dumps({"format": 99}) + "\n")
        with pytest.raises(UserError, match="written by a later version"):
            Asking(fake.url, tmp_path)
        path.write_text("hello\n")
        with pytest.raises(UserError, match="format: expected a whole number"):
            Asking(fake.url, tmp_path)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"url": "ftp://x"}, "url = 'ftp://x': must be http"),
        ({"url": "http://me:pw@x"}, "without a user's name"),
        ({"model": ""}, "model = '': must be the model's name"),
        ({"timeout": 0}, "timeout = 0: must be positive"),
        ({"price_in": -1}, "price_in = -1: must be 0 or more"),
        ({"most_cost": 1.0}, "most_cost = 1.0: must be given with price_in and price_out"),
    ],
)
def test_a_wrong_field_is_named(fields, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(Endpoint("http://x", "m"), **fields)

"""The labelling page, killed while people submit: no acknowledged answer is lost, none is there
twice.

RLHF_JAX_LABEL_KILLS is the number of SIGKILLs; `make test-faults` sends 200.
"""

import http.client
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode

from rlhf_jax.labelling import answers
from rlhf_jax.labelling.database import NAME, Database
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store
from tests.labelling.client import FORM, ranking

KILLS = int(os.environ.get("RLHF_JAX_LABEL_KILLS", 5))
LABELERS = ("anna", "ben", "cleo")
LOST = (http.client.HTTPException, OSError)


class Labeler(threading.Thread):
    """Ranks items until it is told to end, in one session. What was acknowledged is in `told`: by
    the number in the prompt, scores by text. A form whose answer does not arrive is sent again."""

    def __init__(self, port: int, token: str, seed: int):
        super().__init__(daemon=True)
        self.port, self.token, self.random = port, token, random.Random(seed)
        self.told: dict[str, dict[str, int]] = {}
        self.repeated, self.wrong, self.ended = 0, [], threading.Event()
        self.cookie = self.csrf = ""

    def ask(self, method: str, path: str, fields: dict | None = None):
        """(status, headers, text), from whichever process answers."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            headers = {"cookie": self.cookie, "origin": f"http://127.0.0.1:{self.port}"}
            body = None
            if fields is not None:
                headers["content-type"], body = FORM, urlencode(fields)
            try:
                connection.request(method, path, body, headers)
                reply = connection.getresponse()
                return reply.status, reply.headers, reply.read().decode()
            except LOST:
                self.repeated += 1
                if self.ended.is_set():
                    raise
                time.sleep(0.002)
            finally:
                connection.close()

    def run(self) -> None:
        _, headers, _ = self.ask("POST", "/enter", {"token": self.token})
        self.cookie = headers["set-cookie"].partition(";")[0]
        self.csrf = re.search(r'name="csrf" value="(\w+)"', self.ask("GET", "/consent")[2])[1]
        self.ask("POST", "/consent", {"csrf": self.csrf, "agree": "yes"})
        while not self.ended.is_set():
            try:
                self.label()
            except LOST:
                return

    def label(self) -> None:
        status, _, page = self.ask("GET", "/")
        prompt, name = (
            re.search(r"question (\d+)", page),
            re.search(r'name="assignment" value="([^"]+)"', page),
        )
        texts = list(dict.fromkeys(re.findall(r"answer-[abc]", page)))
        scores = [self.random.randint(1, 7) for _ in texts]
        order = sorted(set(scores), reverse=True)
        form = ranking([1 + order.index(score) for score in scores], scores)
        form |= {"csrf": self.csrf, "assignment": name[1], "seconds": "1"}
        status, _, reply = self.ask("POST", "/answer", form)
        if status == 303:
            self.told[prompt[1]] = dict(zip(texts, scores, strict=True))
        else:
            self.wrong.append((status, reply))


def test_what_is_acknowledged_survives_every_kill(tmp_path):
    database = Database(tmp_path)
    tokens = People(database).register(LABELERS)
    outputs = tuple(Output(f"answer-{letter}") for letter in "abc")
    items = [Item("rank", f"question {i}", outputs) for i in range(40 * KILLS + 200)]
    Store(database).add(items, each=2)
    database.close()
    command = [sys.executable, "-m", "tests.faults.label_server", str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as parent:
        port = int(parent.stdout.readline())
        people = [Labeler(port, tokens[name], seed) for seed, name in enumerate(LABELERS)]
        for person in people:
            person.start()
        kill_again_and_again(parent, people)
        for person in people:
            person.ended.set()
        for person in people:
            person.join()
        os.kill(start(parent), signal.SIGKILL)
        parent.stdin.close()
    check(tmp_path, dict(zip(LABELERS, people, strict=True)))


def start(parent) -> int:
    parent.stdin.write("\n")
    parent.stdin.flush()
    return int(parent.stdout.readline())


def kill_again_and_again(parent, people) -> None:
    """Each process is killed a random time after it has acknowledged an answer or more."""
    chance, told = random.Random(0), lambda: sum(len(person.told) for person in people)
    for _ in range(KILLS):
        process, end = start(parent), time.monotonic() + 120
        enough = told() + chance.randint(1, 6)
        while told() < enough:
            assert time.monotonic() < end, [person.wrong for person in people]
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
    process, enough, end = start(parent), told() + 3, time.monotonic() + 120
    while told() < enough:  # the last one serves on
        assert time.monotonic() < end
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)


def check(folder, people) -> None:
    assert [person.wrong for person in people.values()] == [[], [], []]
    with sqlite3.connect(folder / NAME) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found = {}
    for answer in answers.read(Database(folder)):
        key = (answer.labeler, answer.item.prompt.partition(" ")[2])
        assert key not in found, "an answer is there twice"
        texts = [output.text for output in answer.item.outputs]
        found[key] = dict(zip(texts, answer.content["scores"], strict=True))
        ranks, scores = answer.content["ranks"], answer.content["scores"]
        assert [sorted(set(scores), reverse=True).index(score) for score in scores] == ranks
    told = {(name, prompt): scores for name, person in people.items()
            for prompt, scores in person.told.items()}  # fmt: skip
    lost = [key for key, scores in told.items() if found.get(key) != scores]
    assert not lost
    labelers = {}
    for _, prompt in found:
        labelers[prompt] = labelers.get(prompt, 0) + 1
    assert max(labelers.values()) == 2
    repeated = sum(person.repeated for person in people.values())
    # At most one answer of each labeler was on its way at each kill.
    assert len(found) - len(told) <= len(people)
    print(f"{KILLS} kills, {len(told)} answers acknowledged, {len(found)} stored, {repeated} "
          "requests sent again")  # fmt: skip

"""How many answers the labelling page takes: python benchmarks/labelling.py

People rank K outputs of 500 characters at the same time, each over a connection of their own: they
open the page and send the answer, one after the other, as fast as the server replies. The server is
a process of its own; each answer is on the disk before it is acknowledged. Prints answers a minute,
the seconds of a page and of an answer (median and 99th percentile), the CPU time of the server, and
what was wrong. Writes the same to --out as JSON.
"""

import argparse
import collections
import http.client
import json
import os
import re
import signal
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

from rlhf_jax.labelling.database import NAME, Database
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.serve import listen, origins_of, server
from rlhf_jax.labelling.store import Store

FORM = {"content-type": "application/x-www-form-urlencoded"}
TEXT = "The quick brown fox jumps over the lazy dog. " * 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--labelers", type=int, default=8, help="people at once")
    parser.add_argument("--answers", type=int, default=1000, help="of all together")
    parser.add_argument("--outputs", type=int, default=4, help="outputs of an item, K")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.labelers, options.answers, options.outputs)
    for name, value in found.items():
        print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    if options.out is not None:
        options.out.write_text(json.dumps([found], indent=1))


def measure(folder: Path, labelers: int, answers: int, outputs: int) -> dict:
    names = [f"labeler-{number}" for number in range(labelers)]
    database = Database(folder)
    tokens = People(database).register(names)
    texts = [Output(f"{TEXT}{letter}") for letter in range(outputs)]
    items = (Item("rank", f"Question {i}: {TEXT}", tuple(texts)) for i in range(answers))
    Store(database).add(items)
    database.close()
    listening = listen("127.0.0.1", 0)
    listening.listen(64)
    port = listening.getsockname()[1]
    child = os.fork()
    if child == 0:
        server(Database(folder), origins_of("127.0.0.1", port, tls=False)).run([listening])
        os._exit(0)
    people = [Person(port, tokens[name], outputs) for name in names]
    for person in people:
        person.enter()
    start = time.perf_counter()
    for person in people:
        person.start()
    for person in people:
        person.join()
    seconds = time.perf_counter() - start
    os.kill(child, signal.SIGKILL)
    used = os.wait4(child, 0)[2]
    with sqlite3.connect(folder / NAME) as connection:
        count = "SELECT count(*) FROM assignments WHERE state = 'answered'"
        (stored,) = connection.execute(count).fetchone()
    pages, sent = ([t for p in people for t in p.seconds[kind]] for kind in ("page", "answer"))
    wrong = sum((person.wrong for person in people), collections.Counter())
    return {
        "labelers": labelers,
        "cores": os.cpu_count(),
        "acknowledged": len(sent),
        "stored": stored,
        "errors": dict(wrong),
        "seconds": seconds,
        "answers_per_minute": 60 * len(sent) / seconds,
        "page_seconds": statistics.median(pages),
        "page_seconds_99": statistics.quantiles(pages, n=100)[98],
        "answer_seconds": statistics.median(sent),
        "answer_seconds_99": statistics.quantiles(sent, n=100)[98],
        "server_cpu_seconds": used.ru_utime + used.ru_stime,
    }


class Person(threading.Thread):
    """Ranks until nothing is left."""

    def __init__(self, port: int, token: str, outputs: int):
        super().__init__(daemon=True)
        self.token, self.outputs = token, outputs
        self.origin = f"http://127.0.0.1:{port}"
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.cookie = self.csrf = ""
        self.seconds: dict[str, list[float]] = {"page": [], "answer": []}
        self.wrong: collections.Counter = collections.Counter()

    def ask(self, path: str, fields: dict | None = None) -> tuple[http.client.HTTPResponse, str]:
        headers = {"cookie": self.cookie, "origin": self.origin}
        if fields is None:
            self.connection.request("GET", path, headers=headers)
        else:
            self.connection.request("POST", path, urlencode(fields), headers | FORM)
        reply = self.connection.getresponse()
        return reply, reply.read().decode()

    def enter(self) -> None:
        reply, _ = self.ask("/enter", {"token": self.token})
        self.cookie = reply.headers["set-cookie"].partition(";")[0]
        _, page = self.ask("/consent")
        self.csrf = re.search(r'name="csrf" value="(\w+)"', page)[1]
        self.ask("/consent", {"csrf": self.csrf, "agree": "yes"})

    def timed(self, kind: str, path: str, fields: dict | None = None) -> tuple[int, str]:
        start = time.perf_counter()
        reply, text = self.ask(path, fields)
        self.seconds[kind].append(time.perf_counter() - start)
        return reply.status, text

    def run(self) -> None:
        ranks = {f"{kind}-{i}": 1 + i for i in range(self.outputs) for kind in ("rank", "score")}
        while True:
            status, page = self.timed("page", "/")
            name = re.search(r'name="assignment" value="([^"]+)"', page)
            if status != 200 or name is None:
                self.wrong.update([f"page {status}"] if status != 200 else [])
                return
            form = {"csrf": self.csrf, "assignment": name[1], "seconds": "20", **ranks}
            status, _ = self.timed("answer", "/answer", form)
            if status != 303:
                self.wrong[f"answer {status}"] += 1
                self.seconds["answer"].pop()


if __name__ == "__main__":
    main()

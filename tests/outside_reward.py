"""A reward function that lives outside of the package (tests/test_extending.py); the processes that
call it import this file alone."""

import json
import os
import signal


def spelt(prompt: str, response: str, record: dict) -> float:
    """The share of the answer's letters that stand in their places in the response.

    A line a call goes into $ASKED, and call $KILL ends the run that asks."""
    with open(os.environ["ASKED"], "a+", encoding="utf-8") as file:
        file.write(json.dumps([prompt, response, record]) + "\n")
        file.seek(0)
        calls = len(file.readlines())
    if calls == int(os.environ["KILL"]):
        os.kill(os.getppid(), signal.SIGKILL)
    return score(response, record["answer"])


def score(response: str, answer: str) -> float:
    return sum(a == b for a, b in zip(response, answer, strict=False)) / len(answer)

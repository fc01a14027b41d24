"""A judge behind an OpenAI-compatible endpoint: POST URL/chat/completions.

Answers are kept on disk (kept.py). A request that fails for a time (no connection, no answer in
time, HTTP 408, 409, 429 or 5xx, an answer of the wrong form) is tried again, after a wait that
doubles; what cannot become right (any other status) stops the command with one line.
"""

import contextlib
import http.client
import json
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.judging.kept import Kept, Known

FOR_A_TIME = (408, 409, 429, *range(500, 600))  # HTTP statuses that another try may mend
MOST_BYTES = 1 << 22  # of an answer
LONGEST_WAIT = 60.0  # seconds
QUIET = 10.0  # seconds between two lines that requests are sent again
CHARACTERS_A_TOKEN = 4  # of English text, for the estimate of the cost


@dataclass(frozen=True)
class Endpoint:
    """Where a judge is, and how it is asked.

    url          such as https://api.openai.com/v1
    model        its name there
    key          the environment variable that holds the key; None: OPENAI_API_KEY if the URL
                 begins with https, else no key is sent
    most_tokens  the maximum number of tokens of an answer
    temperature  of the answers
    timeout      seconds until a request is given up
    tries        of one request
    parallel     requests at a time
    price_in     dollars per million tokens of prompts; None: not known
    price_out    dollars per million tokens of answers; None: not known
    most_cost    dollars, with the answers that are kept already; what may cost more is not begun;
                 None: no limit
    """

    url: str
    model: str
    key: str | None = None
    most_tokens: int = 512
    temperature: float = 0.0
    timeout: float = 60.0
    tries: int = 6
    parallel: int = 4
    price_in: float | None = None
    price_out: float | None = None
    most_cost: float | None = None

    def __post_init__(self):
        parts = urlsplit(self.url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        require(ok, "url", self.url, "http://HOST... or https://HOST..., without a user's name")
        require(bool(self.model), "model", self.model, "the model's name at the endpoint")
        for field in ("most_tokens", "timeout", "tries", "parallel"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        require(self.temperature >= 0, "temperature", self.temperature, "0 or more")
        for field in ("price_in", "price_out", "most_cost"):
            value = getattr(self, field)
            require(value is None or value >= 0, field, value, "0 or more, or None")
        known = self.price_in is not None and self.price_out is not None
        require(self.most_cost is None or known, "most_cost", self.most_cost,
                "given with price_in and price_out")  # fmt: skip

    @property
    def secret(self) -> str | None:
        """The key. Raises UserError where the variable that `key` names is not set."""
        name = self.key or ("OPENAI_API_KEY" if self.url.startswith("https") else None)
        if name is None:
            return None
        found = os.environ.get(name, "")
        if not found.isascii() or not found.isprintable() or not found:
            raise UserError(f"judge {self.url}: the environment variable {name} must hold its key")
        return found

    def request(self, prompt: str) -> dict[str, Any]:
        """The body of the request."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.most_tokens,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its answers."""
        return {"url": self.url} | self.request("")

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """Dollars; None where a price is not known."""
        if self.price_in is None or self.price_out is None:
            return None
        return (self.price_in * tokens_in + self.price_out * tokens_out) / 1e6


class Again(Exception):
    """A request failed for a time. wait: seconds that the endpoint asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Reply(NamedTuple):
    """status, headers and content of an HTTP answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class EndpointJudge:
    """`benchmarks.model.Judge` at an endpoint.

    kept: answers on disk. tell: prints a line. sleep: waits seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        kept: Kept,
        tell: Callable[[str], Any] = print,
        sleep: Callable[[float], Any] = time.sleep,
    ):
        self.endpoint, self.kept, self._tell, self._sleep = endpoint, kept, tell, sleep
        self._secret = endpoint.secret
        self.identity, self.retries, self._told = endpoint.identity, 0, -math.inf
        self._expected = False  # whether the cost of what follows was told
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        """The answer to each prompt; None where it is empty. Equal prompts are asked once.

        Tells how many requests follow and what they cost at most, unless `expect` has. Raises
        UserError where they may cost more than `most_cost`, or where a request fails; the answers
        until then are kept.
        """
        missing = [p for p in dict.fromkeys(prompts) if self._known(p) is None]
        if missing:
            if not self._expected:
                known = len(set(prompts)) - len(missing)
                self._announce(missing, f"{len(missing)} requests ({known} answers are known)")
            self._check(missing)
            self._ask_all(missing)
        found = [self._known(prompt) for prompt in prompts]
        return [known.answer for known in found if known is not None]

    def _known(self, prompt: str) -> Known | None:
        return self.kept.get(self.endpoint.request(prompt))

    def expect(self, prompts: Sequence[str]) -> None:
        """Tells, once, how many requests may follow and what they cost at most. prompts: at their
        longest; those that are known only when they are asked count too."""
        if prompts:
            self._announce(prompts, f"at most {len(prompts)} requests in all")
            self._expected = True

    def _announce(self, prompts: Sequence[str], count: str) -> None:
        tokens, most = self._tokens(prompts)
        cost, spent = self.endpoint.cost(tokens, most), self.endpoint.cost(*self.kept.spent)
        price = "prices are not given" if cost is None else (
            f"at most about ${cost:.2f}, after ${spent:.2f} so far")  # fmt: skip
        self._tell(
            f"judge {self.endpoint.model}: {count}, about {tokens:,.0f} tokens of prompts, at most "
            f"{most:,} of answers: {price}"
        )

    def _check(self, prompts: Sequence[str]) -> None:
        """Raises UserError where the prompts may cost more than is left of `most_cost`."""
        limit = self.endpoint.most_cost
        if limit is None:
            return
        spent = self.endpoint.cost(*self.kept.spent)
        cost = self.endpoint.cost(*self._tokens(prompts)) + spent
        if cost > limit:
            raise UserError(f"judge {self.endpoint.model}: with {len(prompts)} more requests all "
                            f"may cost ${cost:.2f}, most_cost is ${limit:.2f}; the answers in "
                            f"{self.kept.path} cost ${spent:.2f}")  # fmt: skip

    def _tokens(self, prompts: Sequence[str]) -> tuple[float, int]:
        """(about how many of the prompts, how many at most of their answers)"""
        size = sum(map(len, prompts)) / CHARACTERS_A_TOKEN
        return size, len(prompts) * self.endpoint.most_tokens

    def _ask_all(self, prompts: Sequence[str]) -> None:
        self._stopped.clear()
        pool = ThreadPoolExecutor(self.endpoint.parallel)
        try:
            for _ in pool.map(self._ask, prompts):
                pass
        finally:
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, prompt: str) -> None:
        if self._stopped.is_set():
            return
        request = self.endpoint.request(prompt)
        try:
            known = self._tried(json.dumps(request).encode())
        except UserError:
            self._stopped.set()
            raise
        if known is not None:
            most = map(math.ceil, self._tokens([prompt]))
            tokens = [there if there is not None else at_most
                      for there, at_most in zip(known.tokens, most, strict=True)]  # fmt: skip
            self.kept.put(request, Known(known.answer, tuple(tokens)))

    def _tried(self, body: bytes) -> Known | None:
        """The answer to a request; None where another request has failed meanwhile."""
        tries = self.endpoint.tries
        for number in range(1, tries + 1):
            try:
                return understood(self._post(body), self._place)
            except Again as again:
                reason = str(again).replace(self._secret or "\0", "***")
                if number == tries:
                    raise UserError(f"{self._place}: {reason}, {tries} times; the answers until "
                                    f"then are kept in {self.kept.path}") from None  # fmt: skip
                wait = min(LONGEST_WAIT, max(again.wait, 2.0 ** (number - 1)))
                self._tell_again(reason, wait)
            self._sleep(wait)
            if self._stopped.is_set():
                break
        return None

    def _tell_again(self, reason: str, wait: float) -> None:
        """A line that a request is sent again, at most one in QUIET seconds."""
        with self._lock:
            self.retries += 1
            if time.monotonic() - self._told < QUIET:
                return
            self._told = time.monotonic()
            self._tell(f"judge {self.endpoint.model}: {reason}; asks again in {wait:g} s "
                       f"({self.retries} so far)")  # fmt: skip

    @property
    def _place(self) -> str:
        return f"judge {self.endpoint.url}#{self.endpoint.model}"

    def _post(self, body: bytes) -> Reply:
        """One request. Raises Again where there is no whole answer in time."""
        parts, timeout = urlsplit(self.endpoint.url), self.endpoint.timeout
        headers = {"Content-Type": "application/json", "Connection": "close"}
        headers |= {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        late, passed = Again(f"no answer within {timeout:g} s"), threading.Event()
        path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        try:
            with contextlib.closing(connection):
                connection.connect()
                with _deadline(connection.sock, timeout, passed):
                    connection.request("POST", path, body, headers)
                    reply = connection.getresponse()
                    content = reply.read(MOST_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise UserError(f"{self._place}: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            slow = passed.is_set() or isinstance(error, TimeoutError)
            raise (late if slow else Again(str(error) or type(error).__name__)) from None
        if passed.is_set():
            raise late
        return Reply(reply.status, reply.headers, content)


@contextlib.contextmanager
def _deadline(sock: socket.socket, seconds: float, passed: threading.Event) -> Iterator[None]:
    """Ends what reads or writes the socket after so many seconds, however slowly bytes come, and
    sets the event then."""

    def end() -> None:
        passed.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def understood(reply: Reply, place: str) -> Known:
    """The answer in a reply of chat/completions. Its tokens are None where the reply has none.

    Raises Again where another try may help; UserError, with the endpoint's own words, otherwise.
    """
    if reply.status in FOR_A_TIME:
        raise Again(f"HTTP {reply.status}{_words(reply.content)}", _wait(reply.headers))
    if reply.status != 200:
        raise UserError(f"{place}: HTTP {reply.status}{_words(reply.content)}")
    try:
        found = json.loads(reply.content)
        text = found["choices"][0]["message"]["content"]
        if text is not None and not isinstance(text, str):
            raise TypeError("content")
    except (ValueError, LookupError, TypeError, RecursionError):
        raise Again(f"an answer that is no chat completion: {_start(reply.content)}") from None
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = tuple(n if isinstance(n, int) and n >= 0 else None for n in counts)
    return Known(text if text and text.strip() else None, tokens)


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for; 0 where it says no number."""
    try:
        return max(0.0, min(LONGEST_WAIT, float(headers.get("Retry-After") or 0)))
    except ValueError:
        return 0.0


def _start(content: bytes) -> str:
    """The beginning of an answer, in one line."""
    return repr(" ".join(content[:400].decode("utf-8", "replace").split())[:80])


def _words(content: bytes) -> str:
    """An error's message, behind a colon; "" where there is none."""
    try:
        error = json.loads(content)["error"]
        words = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        words = ""
    words = " ".join(words.split())[:200] if isinstance(words, str) else ""
    return f": {words}" if words else ""

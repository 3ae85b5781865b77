"""One request to an OpenAI-compatible endpoint: ``POST {url}/chat/completions``, standard library only.

What goes wrong has a **kind**, so that it can be counted: see :data:`KINDS`. What no second try can mend (nobody
listens, the key or the address is wrong) is a :class:`~afina.errors.RecipeError` at once.

The key comes from the environment, goes into one header and nowhere else: redirects are not followed, and where a
server repeats the key in its text, it is blotted out.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from afina import __version__
from afina.dataset.questions.teacher_prompts import TEMPERATURE
from afina.errors import RecipeError
from afina.recipe import Endpoint

KINDS: Mapping[str, str] = {
    "rate_limited": "HTTP 429: too many requests",
    "server_error": "HTTP 5xx",
    "timeout": "no answer in `timeout_seconds`",
    "not_reached": "no connection",
    "connection_lost": "the connection was closed before the answer",
    "half_answer": "the answer was cut on its way, or is half a JSON",
    "empty_answer": "an answer without a word",
    "wrong_content": "an answer that is not the JSON asked for",
    "cut_off": "the answer reached `max_tokens`",
    "rejected": "HTTP 4xx: the endpoint does not take this request",
}
"""Every kind of failed try."""

LONGEST_BODY = 16 << 20
TOKENS_PER_CHAR = 1 / 3
"""Where an endpoint does not report its usage: more than most texts have, so that a budget errs on the safe side."""
_OPTIONAL = ("response_format", "temperature", "max_tokens", "seed")


class Failure(Exception):
    """A try that failed: its kind, what was said, whether another try may help, and how long to wait before it."""

    def __init__(
        self, kind: str, note: str, *, again: bool = True, wait_seconds: float | None = None, billed: bool = False
    ) -> None:
        assert kind in KINDS
        super().__init__(note)
        self.kind, self.note, self.again, self.wait_seconds, self.billed = kind, note, again, wait_seconds, billed
        # `billed`: the endpoint may ask money for it although no usage came back; `used`: tokens that it reported.
        self.used = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request brought: the text, and the tokens it took."""

    content: str
    read: int
    """Tokens of the question."""
    written: int
    """Tokens of the answer."""
    estimated: bool = False
    """Whether the tokens were computed from characters because the endpoint reported none."""
    cut: bool = False
    """Whether the answer ended at `max_tokens`."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Client:
    """Sends requests; safe to use from many threads."""

    def __init__(
        self,
        teacher: Endpoint,
        *,
        who: str = "teacher",
        where: str = "dataset.teacher",
        temperature: float = TEMPERATURE,
        seed: int | None = None,
    ) -> None:
        """`who` and `where` (the recipe's key) are for errors."""
        self.teacher, self.who, self.where = teacher, who, where
        self.temperature, self.seed = temperature, seed
        self.address = teacher.url.rstrip("/") + "/chat/completions"
        self.key = _key(teacher, where)
        self.reached = threading.Event()
        """Set once the endpoint has given any answer that shows that address and key are right."""
        self._without: set[str] = set()
        self._lock = threading.Lock()
        # A proxy of the environment cannot reach this machine's own server.
        local = urlsplit(teacher.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._opener: OpenerDirector = build_opener(ProxyHandler({}) if local else ProxyHandler(), _NoRedirect)

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """One request.

        Raises:
            Failure: a try that failed.
            RecipeError: nobody listens, or the address or the key is wrong.
        """
        without = set(self._without)
        while True:
            try:
                body = self._post(self._payload(messages, without))
            except _Refused as refused:
                offending = self._offending(refused.text, without)
                if offending is None:
                    raise Failure("rejected", f"HTTP {refused.status}: {refused.text}", again=False) from None
                without.add(offending)
                continue
            with self._lock:  # only what has helped: a section may be refused for its length
                self._without |= without
            return self._reply(messages, body)

    def _payload(self, messages: Sequence[Mapping[str, str]], without: set[str]) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self.teacher.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.teacher.max_tokens,
            "response_format": {"type": "json_object"},
        }
        if self.seed is not None:
            payload["seed"] = self.seed
        if "max_tokens" in without:  # its newer name
            payload["max_completion_tokens"] = self.teacher.max_tokens
        return {key: value for key, value in payload.items() if key not in without}

    @staticmethod
    def _offending(said: str, without: set[str]) -> str | None:
        """The setting that an endpoint does not know, by what it says; else the one that most often is not known."""
        named = [key for key in _OPTIONAL if key in said and key not in without]
        return named[0] if named else "response_format" if "response_format" not in without else None

    def _post(self, payload: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers["User-Agent"] = f"afina/{__version__}"
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = Request(self.address, json.dumps(payload).encode(), headers, method="POST")
        timeout = self.teacher.timeout_seconds
        deadline = time.monotonic() + timeout
        try:
            with self._opener.open(request, timeout=timeout) as response:
                self.reached.set()
                return self._read(response, deadline)
        except HTTPError as error:
            with error:
                self._raise_status(error)
            raise AssertionError("every status is handled") from error
        except URLError as error:  # while connecting or sending
            if isinstance(error.reason, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
                raise Failure("connection_lost", _reason(error.reason)) from None
            raise self._not_reached(error.reason) from None
        except TimeoutError:
            self.reached.set()
            raise Failure("timeout", f"no answer in {timeout:g} s", billed=True) from None
        except http.client.IncompleteRead:
            raise Failure("half_answer", "the connection was closed in the middle", billed=True) from None
        except (http.client.HTTPException, OSError) as error:
            self.reached.set()
            raise Failure("connection_lost", f"{type(error).__name__}", billed=True) from None

    def _read(self, response: Any, deadline: float) -> bytes:
        """The body; a server that trickles does not hold a thread for ever."""
        parts, size = [], 0
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > LONGEST_BODY:
                raise Failure("wrong_content", f"more than {LONGEST_BODY >> 20} MiB", billed=True)
            if time.monotonic() > deadline:
                raise TimeoutError
        due = response.headers.get("Content-Length", "")
        if due.isdecimal() and size < int(due):
            raise Failure("half_answer", f"{size} of {due} bytes", billed=True)
        return b"".join(parts)

    def _raise_status(self, error: HTTPError) -> None:
        try:
            body = error.read(1 << 16)
        except (http.client.HTTPException, OSError):
            body = b""
        text = self.clean(_message(body))[:300]
        status, where = error.code, self.where
        if status in (401, 403):
            given = "is refused" if self.key else "is not set"
            raise RecipeError(
                f"the {self.who} answers HTTP {status}: the key in ${self.teacher.api_key_env} {given}",
                f"set the environment variable {self.teacher.api_key_env} to a key that may use "
                f"{self.teacher.model!r}, or name another variable in `api_key_env`",
                f"{where}.api_key_env",
            )
        if status == 404 or 300 <= status < 400:
            raise RecipeError(
                f"the {self.who} answers HTTP {status} at {self.address}: {text or 'no such address'}",
                "check `url` (it usually ends in /v1) and `model`",
                f"{where}.url",
            )
        self.reached.set()
        wait = _retry_after(error.headers.get("Retry-After"))
        if status == 429:
            raise Failure("rate_limited", f"HTTP 429: {text}", wait_seconds=wait)
        if status >= 500 or status in (408, 409, 425):
            raise Failure("timeout" if status == 408 else "server_error", f"HTTP {status}: {text}", wait_seconds=wait)
        raise _Refused(status, text)

    def _not_reached(self, reason: object) -> Exception:
        """Nobody there: an error at once; a connection that fails later may come back."""
        said = "timed out" if isinstance(reason, TimeoutError) else _reason(reason)
        if self.reached.is_set():
            return Failure("not_reached", said)
        return RecipeError(
            f"the {self.who} at {self.teacher.url} cannot be reached: {said}",
            f"start the server, or check `url`; to do without it remove `{self.where}`",
            f"{self.where}.url",
        )

    def _reply(self, messages: Sequence[Mapping[str, str]], body: bytes) -> Reply:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            if body.lstrip()[:1] == b"{":
                raise Failure("half_answer", "half a JSON", billed=True) from None
            if not body.strip():
                raise Failure("empty_answer", "an empty body") from None
            raise Failure("wrong_content", "the body is not JSON") from None
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(message, dict):
            said = self.clean(_message(body))[:300]
            raise Failure("wrong_content", f"the body holds no `choices`: {said}")
        content = message.get("content")
        if isinstance(content, list):  # some endpoints send parts
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        content = self.clean(content) if isinstance(content, str) else ""
        usage = answer.get("usage")
        read, written = (_count(usage, key) for key in ("prompt_tokens", "completion_tokens"))
        return Reply(
            content,
            tokens_of(messages) if read is None else read,
            round(len(content) * TOKENS_PER_CHAR) if written is None else written,
            estimated=read is None or written is None,
            cut=choice.get("finish_reason") == "length",
        )

    def clean(self, text: str) -> str:
        """A server's text without the key."""
        return text.replace(self.key, "[key]") if len(self.key) >= 8 else text


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def tokens_of(messages: Sequence[Mapping[str, str]], tokens_per_char: float = TOKENS_PER_CHAR) -> int:
    """Tokens of a question, estimated by its characters.

    >>> tokens_of([{"role": "user", "content": "a" * 300}])
    104
    """
    return round(sum(len(message["content"]) * tokens_per_char + 4 for message in messages))


def _key(teacher: Endpoint, where: str) -> str:
    key = os.environ.get(teacher.api_key_env, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise RecipeError(
            f"the key in ${teacher.api_key_env} holds a space, a line break or a letter that no key has",
            "set the variable again, to the key alone",
            f"{where}.api_key_env",
        )
    return key


def _reason(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "no such host"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason)


def _message(body: bytes) -> str:
    """What an error's body says: ``{"error": {"message": ...}}``, ``{"detail": ...}``, or its beginning."""
    text = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        said = parsed.get("error", parsed.get("detail", parsed.get("message", text)))
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    return " ".join(text.split())


def _count(usage: Any, key: str) -> int | None:
    value = usage.get(key) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that ``Retry-After`` asks for: a number, or a date.

    >>> _retry_after("2"), _retry_after("Wed, 21 Oct 2026 07:28:10 GMT", datetime(2026, 10, 21, 7, 28, tzinfo=UTC))
    (2.0, 10.0)
    >>> _retry_after("soon") is None
    True
    """
    if not value:
        return None
    try:
        return max(0.0, float(value)) if re.fullmatch(r"\d+(\.\d+)?", value.strip()) else _until(value, now)
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str, now: datetime | None) -> float:
    then = parsedate_to_datetime(date)
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds())

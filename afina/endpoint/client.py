"""One request to an OpenAI-compatible endpoint: ``POST {url}/chat/completions``, by httpx.

What goes wrong has a **kind**, so that it can be counted: see :data:`KINDS`. What no second try can mend (nobody
listens, the key or the address is wrong) is a :class:`~afina.errors.RecipeError` at once.

The key comes from the environment, goes into one header and nowhere else: redirects are not followed, and where a
server repeats the key in its text, it is blotted out. Certificates are checked against the system's store, in
which companies keep their own authorities; httpx's default is a list that it brings along.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn, Self

from afina import __version__
from afina.errors import RecipeError
from afina.recipe import Endpoint
from afina.recipe.endpoints import is_local

if TYPE_CHECKING:
    import httpx

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
IDLE_SECONDS = 2.0
"""A connection that was idle for longer is not used again: uvicorn, under most local endpoints, closes it after 5."""
_OPTIONAL = ("response_format", "temperature", "max_tokens", "seed")


class Failure(Exception):
    """A try that failed: its kind, what was said, whether another try may help, and how long to wait before it."""

    def __init__(
        self, kind: str, note: str, *, again: bool = True, wait_seconds: float | None = None, billed: bool = False
    ) -> None:
        assert kind in KINDS
        super().__init__(note)
        self.kind, self.note, self.again, self.wait_seconds, self.billed = kind, note, again, wait_seconds, billed
        # `billed`: the endpoint may ask money for it although no usage came back.


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


@dataclass(frozen=True, slots=True)
class Purpose:
    """What an endpoint is asked for, in the words of messages and errors."""

    name: str
    """E.g. `teacher`."""
    key: str
    """Where the recipe names it, e.g. `dataset.teacher`."""
    questions: str
    """What is asked about, in the plural, e.g. `sections`."""
    again: str
    """What a person does so that questions that failed are asked again."""
    shorter: str = ""
    """What else than a larger `max_tokens` keeps an answer from being cut, e.g. `ask for fewer ...`."""


class EndpointClient:
    """Sends requests; safe to use from many threads. A context manager: it holds connections."""

    def __init__(self, endpoint: Endpoint, purpose: Purpose, *, temperature: float, seed: int | None = None) -> None:
        """
        Raises:
            RecipeError: the key, the address or the environment's proxy cannot be used.
        """
        self.endpoint, self.purpose = endpoint, purpose
        self.temperature, self.seed = temperature, seed
        self.address = endpoint.url.rstrip("/") + "/chat/completions"
        self.key = _key(endpoint, purpose)
        self.reached = threading.Event()
        """Set once the endpoint has given any answer that shows that address and key are right."""
        self._without: set[str] = set()
        self._lock = threading.Lock()
        self._http = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _open(self) -> httpx.Client:
        import httpx

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers["User-Agent"] = f"afina/{__version__}"
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            httpx.URL(self.address)
        except httpx.InvalidURL as error:
            raise RecipeError(f"url is no address: {error}", "write it again", f"{self.purpose.key}.url") from None
        try:
            return httpx.Client(
                headers=headers,
                timeout=self.endpoint.timeout_seconds,
                verify=ssl.create_default_context(),
                trust_env=not is_local(self.endpoint.url),
                limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
            )
        except (ImportError, ValueError, httpx.InvalidURL):  # its text may hold the proxy's password
            raise RecipeError(
                "the proxy that the environment names cannot be used: it is no http, https or socks5 address, or the "
                "package for socks5 is missing",
                "set HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY right, or unset them; for socks5: "
                "`pip install socksio`",
                f"{self.purpose.key}.url",
            ) from None

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
            "model": self.endpoint.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.endpoint.max_tokens,
            "response_format": {"type": "json_object"},
        }
        if self.seed is not None:
            payload["seed"] = self.seed
        if "max_tokens" in without:  # its newer name
            payload["max_completion_tokens"] = self.endpoint.max_tokens
        return {key: value for key, value in payload.items() if key not in without}

    @staticmethod
    def _offending(said: str, without: set[str]) -> str | None:
        """The setting that an endpoint does not know, by what it says; else the one that most often is not known."""
        named = [key for key in _OPTIONAL if key in said and key not in without]
        return named[0] if named else "response_format" if "response_format" not in without else None

    def _post(self, payload: Mapping[str, Any]) -> bytes:
        import httpx

        timeout = self.endpoint.timeout_seconds
        deadline = time.monotonic() + timeout
        begun = False  # whether the answer's status and headers are here
        try:
            # ASCII: a text may hold half a character, which httpx's own `json=` cannot send.
            with self._http.stream("POST", self.address, content=json.dumps(payload).encode()) as response:
                begun = True
                if not response.is_success:
                    self._raise_status(response)
                self.reached.set()
                return self._read(response, deadline)
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ProxyError,
            httpx.WriteError,
            httpx.WriteTimeout,
        ) as error:
            raise self._not_reached(error) from None
        except httpx.TimeoutException:
            self.reached.set()
            raise Failure("timeout", f"no answer in {timeout:g} s", billed=True) from None
        except httpx.DecodingError:
            raise Failure("half_answer", "the body cannot be unpacked", billed=True) from None
        except httpx.RemoteProtocolError as error:
            self.reached.set()
            if begun:
                raise Failure("half_answer", self.clean(str(error)), billed=True) from None
            raise Failure("connection_lost", self.clean(str(error)), billed=True) from None
        except httpx.TransportError as error:
            self.reached.set()
            raise Failure("connection_lost", _reason(error), billed=True) from None

    def _read(self, response: httpx.Response, deadline: float) -> bytes:
        """The body; a server that trickles does not hold a thread for ever."""
        import httpx

        parts, size = [], 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > LONGEST_BODY:
                raise Failure("wrong_content", f"more than {LONGEST_BODY >> 20} MiB", billed=True)
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the body is not whole")
        return b"".join(parts)

    def _raise_status(self, response: httpx.Response) -> NoReturn:
        text = self.clean(_message(_beginning(response)))[:300]
        status, who, key = response.status_code, self.purpose.name, self.purpose.key
        if status in (401, 403):
            given = "is refused" if self.key else "is not set"
            raise RecipeError(
                f"the {who} answers HTTP {status}: the key in ${self.endpoint.api_key_env} {given}",
                f"set the environment variable {self.endpoint.api_key_env} to a key that may use "
                f"{self.endpoint.model!r}, or name another variable in `api_key_env`",
                f"{key}.api_key_env",
            )
        if status == 404 or 300 <= status < 400:
            raise RecipeError(
                f"the {who} answers HTTP {status} at {self.address}: {text or 'no such address'}",
                "check `url` (it usually ends in /v1) and `model`",
                f"{key}.url",
            )
        self.reached.set()
        wait = _retry_after(response.headers.get("Retry-After"))
        if status == 429:
            raise Failure("rate_limited", f"HTTP 429: {text}", wait_seconds=wait)
        if status >= 500 or status in (408, 409, 425):
            raise Failure("timeout" if status == 408 else "server_error", f"HTTP {status}: {text}", wait_seconds=wait)
        raise _Refused(status, text)

    def _not_reached(self, error: httpx.TransportError) -> Exception:
        """Nobody there: an error at once; a connection that fails later may come back."""
        said = self.clean(_reason(error))
        if isinstance(_cause(error), ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
            return Failure("connection_lost", said)
        if self.reached.is_set():
            return Failure("not_reached", said)
        key = self.purpose.key
        return RecipeError(
            f"the {self.purpose.name} at {self.endpoint.url} cannot be reached: {said}",
            f"start the server, or check `url`; to do without it remove `{key}`",
            f"{key}.url",
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
            raise Failure("wrong_content", f"the body has no `choices`: {said}")
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


def _key(endpoint: Endpoint, purpose: Purpose) -> str:
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise RecipeError(
            f"the key in ${endpoint.api_key_env} holds a space, a line break or a letter that no key has",
            "set the variable again, to the key alone",
            f"{purpose.key}.api_key_env",
        )
    return key


def _reason(error: BaseException) -> str:
    """What lies under httpx's error: "Connection refused", the fault of a certificate."""
    under = _cause(error)
    if isinstance(under, TimeoutError):
        return "timed out"
    if isinstance(under, socket.gaierror):
        return "no such host"
    if isinstance(under, OSError) and under.strerror:
        return under.strerror
    return str(error) or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """The system's own error under httpx's; httpcore raises its errors `from None`, so the context leads there."""
    under: BaseException | None = error
    while under is not None:
        if isinstance(under, OSError):
            return under
        under = under.__cause__ or under.__context__
    return error


def _beginning(response: httpx.Response) -> bytes:
    """The first 64 KiB of an error's body, or as much of it as comes."""
    import httpx

    body = b""
    try:
        for part in response.iter_bytes():
            body += part
            if len(body) >= 1 << 16:
                break
    except (httpx.TransportError, httpx.DecodingError):
        pass  # the status says what is wrong; the text would only have explained it
    return body[: 1 << 16]


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

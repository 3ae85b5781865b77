"""Many requests at once, tried again where it helps, within a budget, every one accounted for.

The first request goes alone until the endpoint has answered anything, so that a wrong address or key is one error
and not eight. Waits between tries double from :data:`FIRST_WAIT_SECONDS` on, with a random part; a ``Retry-After``
holds all requests back. tenacity repeats a question; the queue and the limit are ours, as every token set aside and
used has to add up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from afina.endpoint.answers import read_reply
from afina.endpoint.cache import AnswerCache
from afina.endpoint.client import KINDS, Failure, Purpose, Reply
from afina.errors import Problem, RecipeError
from afina.recipe import Endpoint
from afina.run import Progress
from afina.units import show_count, show_money, show_seconds

if TYPE_CHECKING:
    from tenacity import RetryCallState

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 900.0
"""A server that asks for a longer pause than this is not waited for."""
HOPELESS = 20
"""After so many questions without a single answer the job stops: the others would be paid for in vain."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One question to be asked; its messages are made when its turn comes."""

    key: str
    position: int
    """Place among the asker's questions."""
    where: str
    """What it is about, for a person: a file and line, a pair."""
    tokens: int
    """The most that one request can take: its question and `max_tokens`."""


@dataclass
class Asking:
    """The account of one run: ``asked = cached + answered + failed``."""

    cached: int = 0
    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a question -> kind of its last failed try."""
    failed_places: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, kind and what was said."""
    failed_tries: Counter[str] = field(default_factory=Counter)
    """Kind -> tries, those of questions answered in the end too."""
    requests: int = 0
    tokens: int = 0
    """Tokens of this run's answers."""
    estimated_answers: int = 0
    """Answers whose tokens are computed from characters."""
    tokens_perhaps: int = 0
    """At most so many more may have been billed for answers that never came whole."""
    damaged_lines: int = 0
    """Lines of the cache that cannot be read."""
    stopped: str = ""
    """Why asking ended before the last question."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``failed`` holds kind -> questions."""
        values = asdict(self)
        del values["failures"], values["failed_places"]
        values["asked"] = self.cached + self.answered + len(self.failures)
        values["failed"] = dict(Counter(self.failures.values()))
        values["failed_tries"] = dict(self.failed_tries)
        values["failed_questions"] = [
            {"where": where, "reason": kind, "note": note} for where, kind, note in sorted(self.failed_places)
        ]
        return values

    def describe(self, endpoint: Endpoint, purpose: Purpose, currency: str) -> str:
        """What asking came to, for a person."""
        money = self.tokens * endpoint.price_per_million / 1e6
        paid = f", {show_money(money, currency)}" if endpoint.price_per_million else ""
        lines = [
            f"{purpose.name}: {self.answered} answered, {self.cached} before, {len(self.failures)} failed; "
            f"{self.requests} requests, {show_count(self.tokens)} tokens" + paid + f" in {show_seconds(self.seconds)}"
        ]
        if self.estimated_answers:
            lines.append(f"  the endpoint reports no usage: tokens of {self.estimated_answers} answers by characters")
        if self.tokens_perhaps:
            lines.append(f"  at most {show_count(self.tokens_perhaps)} tokens more for answers that never came whole")
        lines += [f"  {count} x {kind}: {KINDS[kind]}" for kind, count in self.failed_tries.most_common()]
        shown = sorted(self.failed_places)[:_SHOWN]
        lines += [f"  no answer for {where}: {kind} ({note})" for where, kind, note in shown]
        if len(self.failed_places) > _SHOWN:
            lines.append(f"  and for {len(self.failed_places) - _SHOWN} more {purpose.questions}")
        if self.failures:
            lines.append(f"  {purpose.again}")
        if self.stopped:
            lines.append(f"  stopped: `{self.stopped}` is used up; what is there is kept")
        return "\n".join(lines)


class SpendingLimit:
    """Tokens allowed, those used, and those that requests in flight may still use.

    >>> from afina.recipe import Endpoint
    >>> limit = SpendingLimit(Endpoint(url="http://127.0.0.1:1/v1", model="m", budget_tokens=100), already=30)
    >>> limit.reserve(50), limit.reserve(50), limit.name
    (True, False, 'budget_tokens')
    """

    def __init__(self, endpoint: Endpoint, already: int = 0) -> None:
        limits = [(endpoint.budget_tokens, "budget_tokens")] if endpoint.budget_tokens else []
        if endpoint.budget_money and endpoint.price_per_million:
            limits.append((int(endpoint.budget_money / endpoint.price_per_million * 1e6), "budget_money"))
        self.tokens: int | None = min(limits)[0] if limits else None
        self.name = min(limits)[1] if limits else ""
        """The recipe's key that sets it."""
        self.used = already
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> bool:
        """Set tokens aside for a request; False where they are not there."""
        with self._lock:
            if self.tokens is not None and self.used + self._reserved + tokens > self.tokens:
                return False
            self._reserved += tokens
            return True

    def settle(self, reserved: int, used: int) -> None:
        """A request is over: what was set aside for it is free again, what it took is used."""
        with self._lock:
            self._reserved -= reserved
            self.used += used


class AnsweringClient(Protocol):
    """What answers one question at a time, from many threads: an endpoint, or a model in this process."""

    @property
    def endpoint(self) -> Endpoint:
        """What it is, and how much it may be asked."""

    @property
    def purpose(self) -> Purpose:
        """What it is asked for."""

    @property
    def reached(self) -> threading.Event:
        """Set once it is sure that it answers at all."""

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """The answer, or a :class:`~afina.endpoint.client.Failure`."""


class Asker:
    """Asks questions and fills an :class:`Asking`; answers go into the cache.

    `read` makes of an answer's text what was asked for, or raises :class:`~afina.endpoint.answers.WrongContent`.
    """

    def __init__(
        self,
        client: AnsweringClient,
        cache: AnswerCache,
        asking: Asking,
        read: Callable[[str], object],
        *,
        currency: str,
        already: int,
    ) -> None:
        """`already`: tokens that were paid before and count against the limit."""
        self.client, self.cache, self.asking, self.read = client, cache, asking, read
        self.endpoint, self.purpose, self.currency = client.endpoint, client.purpose, currency
        self.limit = SpendingLimit(self.endpoint, already)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0

    def ask_all(self, jobs: Iterable[tuple[Job, Sequence[Mapping[str, str]]]], total: int, progress: Progress) -> None:
        """Ask every question, in order, at most `concurrency` at once.

        Raises:
            RecipeError: the endpoint cannot be used, or no question at all was answered.
        """
        started = time.monotonic()
        pending: set[Future[None]] = set()
        done = 0

        def collect() -> None:
            nonlocal pending, done
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            done += len(finished)
            self._show(done, total, progress)
            self._give_up_if_hopeless()

        self._show(0, total, progress)
        with ThreadPoolExecutor(self.endpoint.concurrency, thread_name_prefix=self.purpose.name) as pool:
            try:
                for job, messages in jobs:
                    while pending and not self.client.reached.is_set():
                        if wait(pending, timeout=0.05).done:
                            collect()
                    while len(pending) >= self.endpoint.concurrency:
                        collect()
                    reserved = self.limit.reserve(job.tokens)
                    while pending and not reserved:  # one that ends may have used less than was set aside
                        collect()
                        reserved = self.limit.reserve(job.tokens)
                    if not reserved or self.asking.stopped:
                        if reserved:
                            self.limit.settle(job.tokens, 0)
                        self.asking.stopped = self.limit.name
                        break
                    pending.add(pool.submit(self._ask, job, messages))
                while pending:
                    collect()
            finally:
                self._stop.set()
                for future in pending:
                    future.cancel()
                self.asking.seconds = round(time.monotonic() - started, 3)
        self._give_up_if_hopeless(at_end=True)

    def _show(self, done: int, total: int, progress: Progress) -> None:
        paid = ""
        if self.endpoint.price_per_million:
            paid = f", {show_money(self.asking.tokens * self.endpoint.price_per_million / 1e6, self.currency)}"
        progress(done, total, f"{self.purpose.questions}, {show_count(self.asking.tokens)} tokens{paid}")

    def _ask(self, job: Job, messages: Sequence[Mapping[str, str]]) -> None:
        """One question, until it is answered or its tries are used up. `job.tokens` are set aside for the first."""
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt, stop_when_event_set

        last: Failure | None = None

        def attempt() -> bool:
            nonlocal last
            if last is not None and not self.limit.reserve(job.tokens):
                self.asking.stopped = self.limit.name
                return False
            try:
                return self._try(job, messages)
            except Failure as failure:
                last = failure
                raise

        retrying = Retrying(
            retry=retry_if_exception(_may_help),
            stop=stop_after_attempt(self.endpoint.retries + 1) | stop_when_event_set(self._stop),
            wait=_pause,
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        try:
            answered = retrying(attempt)
        except Failure:
            answered = False
        with self._lock:
            if answered:
                self.asking.answered += 1
            elif last is not None:
                self.asking.failures[job.key] = last.kind
                self.asking.failed_places.append((job.where, last.kind, last.note))

    def _try(self, job: Job, messages: Sequence[Mapping[str, str]]) -> bool:
        """One request with the tokens set aside for it; False where asking ended before it was sent."""
        used = 0
        try:
            self._wait_for_turn()
            if self._stop.is_set():
                return False
            with self._lock:
                self.asking.requests += 1
            reply = self.client.ask(messages)
            used = reply.read + reply.written
            self.cache.put(job.key, reply, job.where, self.endpoint.model)
            with self._lock:
                self.asking.tokens += used
                self.asking.estimated_answers += reply.estimated
            read_reply(reply, self.read)
        except Failure as failure:
            perhaps = job.tokens if failure.billed else 0
            used += perhaps
            with self._lock:
                self.asking.failed_tries[failure.kind] += 1
                self.asking.tokens_perhaps += perhaps
                if failure.wait_seconds is not None and _may_help(failure):
                    self._not_before = max(self._not_before, time.monotonic() + failure.wait_seconds)
            raise
        finally:
            self.limit.settle(job.tokens, used)
        return True

    def _wait_for_turn(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(left)

    def _give_up_if_hopeless(self, *, at_end: bool = False) -> None:
        """An endpoint that answers nothing is an error: a dataset without its teacher is not what was asked for."""
        asking = self.asking
        if asking.answered or asking.cached or not asking.failures:
            return
        if not at_end and len(asking.failures) < HOPELESS:
            return
        with self._lock:
            kinds = ", ".join(f"{kind} x {count}" for kind, count in asking.failed_tries.most_common())
            places = sorted(asking.failed_places)[:_SHOWN]
        name, key = self.purpose.name, self.purpose.key
        fix = f"try the endpoint by hand, choose another `model`, or remove `{key}`; paid answers are kept"
        if "cut_off" in asking.failed_tries:
            shorter = f", or {self.purpose.shorter}" if self.purpose.shorter else ""
            fix = f"raise `{key}.max_tokens`{shorter}; {fix}"
        problems = [Problem(f"the {name} answered none of {len(asking.failures)} questions: {kinds}", fix, key)]
        problems += [Problem(f"{kind}: {note}", "", where) for where, kind, note in places]
        raise RecipeError(problems=problems)


def _may_help(failure: BaseException) -> bool:
    """Whether another try may bring an answer, soon enough."""
    if not isinstance(failure, Failure):
        return False
    return failure.again and (failure.wait_seconds or 0.0) <= LONGEST_RETRY_AFTER_SECONDS


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: what the server asks for, else doubling; a random part keeps requests apart."""
    from tenacity import wait_exponential, wait_random

    failure = state.outcome.exception() if state.outcome else None
    asked = failure.wait_seconds if isinstance(failure, Failure) else None
    if asked is not None:
        return asked + wait_random(0, min(1.0, 0.1 * asked))(state)
    doubling = wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)(state)
    return doubling + wait_random(-0.5 * doubling, 0.5 * doubling)(state)

"""Many requests at once, tried again where it helps, within a budget, every one accounted for.

The first request goes alone until the endpoint has answered anything, so that a wrong address or key is one error
and not eight. Waits between tries double from :data:`FIRST_WAIT_SECONDS` on, with a random part; a ``Retry-After``
holds all requests back.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

from afina.dataset.questions.teacher_prompts import Item, WrongContent, read_answer
from afina.dataset.teacher_cache import AnswerCache
from afina.dataset.teacher_client import KINDS, Client, Failure, Reply
from afina.errors import Problem, RecipeError
from afina.recipe import Endpoint
from afina.run import Progress
from afina.units import show_count, show_money, show_seconds

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 900.0
"""A server that asks for a longer pause than this is not waited for."""
HOPELESS = 20
"""After so many sections without a single answer the job stops: the others would be paid for in vain."""
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One section to be asked about."""

    key: str
    position: int
    """Place among the sections."""
    where: str
    tokens: int
    """The most that one request can take: its question and `max_tokens`."""


@dataclass
class Asking:
    """The account of one run: ``asked = cached + answered + failed``."""

    cached: int = 0
    answered: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a section -> kind of its last failed try."""
    failed_places: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, kind and what was said."""
    failed_tries: Counter[str] = field(default_factory=Counter)
    """Kind -> tries, those of sections answered in the end too."""
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
    """Why asking ended before the last section."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``failed`` holds kind -> sections."""
        values = asdict(self)
        del values["failures"], values["failed_places"]
        values["asked"] = self.cached + self.answered + len(self.failures)
        values["failed"] = dict(Counter(self.failures.values()))
        values["failed_tries"] = dict(self.failed_tries)
        values["failed_sections"] = [
            {"where": where, "reason": kind, "note": note} for where, kind, note in sorted(self.failed_places)
        ]
        return values

    def describe(self, teacher: Endpoint, currency: str, who: str = "teacher") -> str:
        """What asking came to, for a person."""
        money = self.tokens * teacher.price_per_million / 1e6
        paid = f", {show_money(money, currency)}" if teacher.price_per_million else ""
        lines = [
            f"{who}: {self.answered} answered, {self.cached} before, {len(self.failures)} failed; "
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
            lines.append(f"  and for {len(self.failed_places) - _SHOWN} more sections")
        if self.failures:
            lines.append("  `afina data build` asks for these again")
        if self.stopped:
            lines.append(f"  stopped: `{self.stopped}` is used up; what is there is kept")
        return "\n".join(lines)


class Budget:
    """Tokens allowed, those used, and those that requests in flight may still use.

    >>> from afina.recipe import Teacher
    >>> teacher = Teacher(url="http://127.0.0.1:1/v1", model="m", budget_tokens=100)
    >>> budget = Budget(teacher, already=30)
    >>> budget.reserve(50), budget.reserve(50), budget.name
    (True, False, 'budget_tokens')
    """

    def __init__(self, teacher: Endpoint, already: int = 0) -> None:
        limits = [(teacher.budget_tokens, "budget_tokens")] if teacher.budget_tokens else []
        if teacher.budget_money and teacher.price_per_million:
            limits.append((int(teacher.budget_money / teacher.price_per_million * 1e6), "budget_money"))
        self.limit: int | None = min(limits)[0] if limits else None
        self.name = min(limits)[1] if limits else ""
        self.used = already
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> bool:
        """Set tokens aside for a request; False where they are not there."""
        with self._lock:
            if self.limit is not None and self.used + self._reserved + tokens > self.limit:
                return False
            self._reserved += tokens
            return True

    def settle(self, reserved: int, used: int) -> None:
        """A request is over: what was set aside for it is free again, what it took is used."""
        with self._lock:
            self._reserved -= reserved
            self.used += used


class Asker:
    """Asks about sections and fills an :class:`Asking`; answers go into the cache.

    `read` makes of a reply what was asked for, or raises a :class:`Failure`.
    """

    def __init__(
        self,
        teacher: Endpoint,
        client: Client,
        cache: AnswerCache,
        asking: Asking,
        currency: str,
        *,
        already: int,
        read: Callable[[Reply], object] | None = None,
    ) -> None:
        self.read = read or items_of
        self.teacher, self.client, self.cache, self.asking = teacher, client, cache, asking
        self.currency = currency
        self.budget = Budget(teacher, already)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0

    def ask_all(self, jobs: Iterable[tuple[Job, Sequence[Mapping[str, str]]]], total: int, progress: Progress) -> None:
        """Ask about every section, in order, at most `concurrency` at once.

        Raises:
            RecipeError: the endpoint cannot be used, or no section at all was answered.
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
        with ThreadPoolExecutor(self.teacher.concurrency, thread_name_prefix="teacher") as pool:
            try:
                for job, messages in jobs:
                    while pending and not self.client.reached.is_set():
                        if wait(pending, timeout=0.05).done:
                            collect()
                    while len(pending) >= self.teacher.concurrency:
                        collect()
                    reserved = self.budget.reserve(job.tokens)
                    while pending and not reserved:  # one that ends may have used less than was set aside
                        collect()
                        reserved = self.budget.reserve(job.tokens)
                    if not reserved or self.asking.stopped:
                        if reserved:
                            self.budget.settle(job.tokens, 0)
                        self.asking.stopped = self.budget.name
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
        if self.teacher.price_per_million:
            paid = f", {show_money(self.asking.tokens * self.teacher.price_per_million / 1e6, self.currency)}"
        progress(done, total, f"sections, {show_count(self.asking.tokens)} tokens{paid}")

    def _ask(self, job: Job, messages: Sequence[Mapping[str, str]]) -> None:
        """One section, until it is answered or its tries are used up. `job.tokens` are set aside for it."""
        last: Failure | None = None
        for number in range(self.teacher.retries + 1):
            if number and not self.budget.reserve(job.tokens):
                self.asking.stopped = self.budget.name
                break
            try:
                self._wait_for_turn()
                if self._stop.is_set():
                    self.budget.settle(job.tokens, 0)
                    return
                used = self._try(job, messages)
            except Failure as failure:
                last = failure
                self._note_failure(job, failure)
                if not failure.again or self._stop.is_set() or not self._pause(number, failure):
                    break
                continue
            except BaseException:
                self.budget.settle(job.tokens, 0)
                raise
            self.budget.settle(job.tokens, used)
            with self._lock:
                self.asking.answered += 1
            return
        assert last is not None
        with self._lock:
            self.asking.failures[job.key] = last.kind
            self.asking.failed_places.append((job.where, last.kind, last.note))

    def _try(self, job: Job, messages: Sequence[Mapping[str, str]]) -> int:
        """One request; the tokens it took."""
        with self._lock:
            self.asking.requests += 1
        reply = self.client.ask(messages)
        used = reply.read + reply.written
        self.cache.put(job.key, reply, job.where, self.teacher.model)
        with self._lock:
            self.asking.tokens += used
            self.asking.estimated_answers += reply.estimated
        try:
            self.read(reply)
        except Failure as failure:
            failure.used = used
            raise
        return used

    def _note_failure(self, job: Job, failure: Failure) -> None:
        perhaps = job.tokens if failure.billed else 0
        self.budget.settle(job.tokens, failure.used + perhaps)
        with self._lock:
            self.asking.failed_tries[failure.kind] += 1
            self.asking.tokens_perhaps += perhaps

    def _pause(self, number: int, failure: Failure) -> bool:
        """Wait before the next try; False where the server asks for too long a pause."""
        if number == self.teacher.retries:
            return True
        seconds = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**number) * random.uniform(0.5, 1.5)
        if failure.wait_seconds is not None:
            if failure.wait_seconds > LONGEST_RETRY_AFTER_SECONDS:
                return False
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + failure.wait_seconds)
            seconds = failure.wait_seconds + random.uniform(0, min(1.0, 0.1 * failure.wait_seconds))
        self._stop.wait(seconds)
        return not self._stop.is_set()

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
        where = self.client.where
        fix = f"try the endpoint by hand, choose another `model`, or remove `{where}`; paid answers are kept"
        if "cut_off" in asking.failed_tries:
            fewer = ", or ask for fewer `questions_per_section`" if self.read is items_of else ""
            fix = f"raise `{where}.max_tokens`{fewer}; {fix}"
        problems = [
            Problem(f"the {self.client.who} answered none of {len(asking.failures)} questions: {kinds}", fix, where)
        ]
        problems += [Problem(f"{kind}: {note}", "", where) for where, kind, note in places]
        raise RecipeError(problems=problems)


def items_of(reply: Reply) -> list[Item]:
    """The questions of a reply.

    Raises:
        Failure: there is no text, it was cut, or it is not the JSON asked for.
    """
    if not reply.content.strip():
        raise Failure("cut_off" if reply.cut else "empty_answer", "no text", again=not reply.cut)
    try:
        return read_answer(reply.content)
    except WrongContent as error:
        if reply.cut:
            raise Failure("cut_off", f"after {reply.written} tokens; raise `max_tokens`", again=False) from None
        raise Failure("wrong_content", str(error)) from None


def good_answer(cache: AnswerCache, key: str) -> list[Item] | None:
    """The questions of the first usable answer in the cache; None where there is none."""
    for reply in cache.replies(key):
        try:
            return items_of(reply)
        except Failure:
            continue
    return None

"""A teacher writes questions and answers about each section; what its section does not say is left out.

Any OpenAI-compatible endpoint. Per section one request, many at once (:mod:`~afina.endpoint.batches`), every answer
on disk before anything else happens with it (:mod:`~afina.endpoint.cache`), every answer checked against its section
(:mod:`~afina.dataset.questions.teacher_support`).

What comes out follows from the sections and the cache alone: sections in their order, the questions of each in the
teacher's order, then their phrasings. So a second build with the same cache asks nothing and gives the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from afina.dataset.dropped import Dropped
from afina.dataset.questions.teacher_prompts import SYSTEM, TEMPERATURE, USER, TeacherQuestion, prompt_for, read_answer
from afina.dataset.questions.teacher_support import stands_in, unsupported
from afina.endpoint.answers import first_usable
from afina.endpoint.batches import AnsweringClient, Asker, Asking, Job
from afina.endpoint.cache import AnswerCache, answer_key
from afina.endpoint.client import EndpointClient, Purpose, tokens_of
from afina.recipe import METHODS, Recipe, Teacher
from afina.run import Progress, hash_value, no_progress
from afina.text.document import Document, Message
from afina.text.example import Example
from afina.text.formats import format_of, has_own_lines
from afina.text.identity import content_key, normal, short_hash
from afina.text.sections import split_sections
from afina.units import show_count, show_money

PURPOSE = Purpose(
    name="teacher",
    key="dataset.teacher",
    questions="sections",
    again="`afina data build` asks for these again",
    shorter="ask for fewer `questions_per_section`",
)
FEWEST_WORDS = 5
"""A section with fewer words (a heading alone) is not asked about."""


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Teaching:
    """Where answers are kept, and how a person hears of it."""

    cache: Path
    """Folder of ``answers.jsonl``. It outlives the dataset, and runs may share it."""
    say: Callable[[str], None] = _silent
    open_progress: Callable[[], Progress] = lambda: no_progress
    """Called before the first section is asked about."""
    client: Callable[[Teacher], AbstractContextManager[AnsweringClient]] | None = None
    """What answers where the teacher is the base itself."""


@dataclass(frozen=True, slots=True)
class TeacherEstimate:
    """What asking would take, before the first request. Tokens are computed from characters."""

    sections: int = 0
    too_short: int = 0
    repeated: int = 0
    """The same section once more: asked about once."""
    cached: int = 0
    to_ask: int = 0
    tokens_read: int = 0
    tokens_written: int = 0
    money: float = 0.0
    tokens_paid: int = 0
    """Tokens of the answers in the cache."""

    def describe(self, recipe: Recipe) -> str:
        """The plan as one line."""
        teacher = _teacher_of(recipe)
        left_out = f" ({self.too_short} too short, {self.repeated} repeated)" if self.too_short or self.repeated else ""
        line = f"teacher: {self.sections} sections{left_out}, {self.cached} answered before, {self.to_ask} to ask"
        if not self.to_ask:
            return line
        tokens = self.tokens_read + self.tokens_written
        price = (
            f", about {show_money(self.money, recipe.budget.currency)}"
            if teacher.price_per_million
            else ", no price given"
        )
        limits = [f"{show_count(teacher.budget_tokens)} tokens"] if teacher.budget_tokens else []
        limits += [show_money(teacher.budget_money, recipe.budget.currency)] if teacher.budget_money else []
        who = f"{teacher.model} at {teacher.url}" if teacher.url else f"{teacher.model}, in this process"
        return (
            f"{line} of {who}: about {show_count(tokens)} tokens "
            f"({show_count(self.tokens_read)} read, {show_count(self.tokens_written)} written; by characters){price}"
            f"; budget: {' and '.join(limits) if limits else 'none set'}"
        )


@dataclass
class Taught:
    """What the teacher brought."""

    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """For ``dataset.json``: follows from the sections and the cache alone. See :func:`teach`."""
    asking: dict[str, Any] = field(default_factory=dict)
    """How this run came to it: see :meth:`~afina.endpoint.batches.Asking.as_json`."""


def sections_of(recipe: Recipe, examples: Iterable[Example]) -> Iterator[Example]:
    """The plain texts of a dataset, one section each; conversations and replay sources are not asked about."""
    for example in examples:
        if example.messages or example.replay:
            continue
        if not METHODS[recipe.method_of(example.source, "text")].every_token:  # they are sections already
            yield example
            continue
        found = format_of(example.path)
        kind = found.gives if found and found.gives != "rows" else "text"
        page = Document(example.path, example.sha256, example.line, kind, example.heading, example.text)
        placed = has_own_lines(example.path)
        for section in split_sections(page, recipe.section_chars):
            yield replace(
                example,
                text=section.context + section.text,
                heading=section.heading,
                line=section.line if placed else example.line,
            )


def teacher_inputs(teacher: Teacher | None) -> dict[str, Any]:
    """What a dataset depends on besides the recipe: the words of the prompts."""
    return {} if teacher is None else {"teacher_prompts": hash_value([dict(SYSTEM), dict(USER)])}


def estimate(recipe: Recipe, examples: Iterable[Example], cache: AnswerCache) -> tuple[TeacherEstimate, list[Job]]:
    """What asking takes, and the jobs that are left, in the order of the sections."""
    teacher = _teacher_of(recipe)
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    jobs: list[Job] = []
    read = written = paid = 0
    # A question takes about 25 tokens, an answer 60, a quote 50; keys and marks 30.
    expected = min(teacher.max_tokens, teacher.questions_per_section * (165 + 30 * teacher.paraphrases))
    for position, example in enumerate(sections_of(recipe, examples)):
        counts["sections"] += 1
        if _too_short(example):
            counts["too_short"] += 1
            continue
        messages = _prompt(recipe, example)
        key = answer_key(teacher, messages, TEMPERATURE)
        if key in seen:
            counts["repeated"] += 1
            continue
        seen.add(key)
        paid += cache.tokens(key)
        if first_usable(cache, key, read_answer) is not None:
            counts["cached"] += 1
            continue
        tokens = tokens_of(messages)
        read, written = read + tokens, written + expected
        jobs.append(Job(key, position, f"{example.path}:{example.line}", tokens + teacher.max_tokens))
    money = (read + written) * teacher.price_per_million / 1e6
    made = TeacherEstimate(
        **counts, to_ask=len(jobs), tokens_read=read, tokens_written=written, money=money, tokens_paid=paid
    )
    return made, jobs


def teach(recipe: Recipe, examples: Iterable[Example], teaching: Teaching) -> Taught:
    """Ask about every section, check what comes back, make examples of it.

    Args:
        recipe: with a `dataset.teacher`.
        examples: of the dataset; read several times, so not an iterator. The teacher sees only their text.
        teaching: cache and display.

    Returns:
        The examples, what was left out, and a summary: ``sections`` = ``answered`` + ``failed`` + ``not_asked`` +
        ``repeated`` + ``too_short``; of the answers, how many questions were given, kept and dropped, how many
        answers had none; ``tokens`` and ``money`` paid for them, and in how many the tokens are estimated.

    Raises:
        RecipeError: the endpoint cannot be used, or not one section was answered.
    """
    teacher = _teacher_of(recipe)
    cache = AnswerCache(teaching.cache)
    assert teaching.client or not teacher.is_base, "whoever builds with the base as teacher says how it is asked"
    client: AnsweringClient
    open_client = teaching.client if teacher.is_base else None
    with open_client(teacher) if open_client else EndpointClient(teacher, PURPOSE, temperature=TEMPERATURE) as client:
        plan, jobs = estimate(recipe, examples, cache)
        if cache.damaged:
            teaching.say(f"teacher: {cache.damaged} damaged lines in {cache.file} passed over")
        teaching.say(plan.describe(recipe))
        asking = Asking(cached=plan.cached, damaged_lines=cache.damaged)
        if jobs:
            currency = recipe.budget.currency
            asker = Asker(client, cache, asking, read_answer, currency=currency, already=plan.tokens_paid)
            asker.ask_all(_with_prompts(recipe, examples, jobs), len(jobs), teaching.open_progress())
            teaching.say(asking.describe(teacher, PURPOSE, currency))
    taught = _read_back(recipe, examples, cache, asking)
    taught.summary |= {"sections": plan.sections, "repeated": plan.repeated, "too_short": plan.too_short}
    taught.asking = asking.as_json()
    return taught


def _with_prompts(
    recipe: Recipe, examples: Iterable[Example], jobs: Iterable[Job]
) -> Iterator[tuple[Job, list[dict[str, str]]]]:
    """The jobs with their messages: read again, so that the sections are not held in memory twice."""
    waiting = iter(jobs)
    job = next(waiting, None)
    for position, example in enumerate(sections_of(recipe, examples)):
        if job is None:
            return
        if position == job.position:
            yield job, _prompt(recipe, example)
            job = next(waiting, None)


def _read_back(recipe: Recipe, examples: Iterable[Example], cache: AnswerCache, asking: Asking) -> Taught:
    """Examples of all answers in the cache, checked."""
    teacher, taught = _teacher_of(recipe), Taught()
    counts: Counter[str] = Counter(given=0, kept=0)
    failed, not_asked = [], []
    known = {content_key(example): f"{example.path}:{example.line}" for example in examples if example.messages}
    seen: set[str] = set()
    answered = without = estimated = tokens = 0
    for example in sections_of(recipe, examples):
        if _too_short(example):
            continue
        key = answer_key(teacher, _prompt(recipe, example), TEMPERATURE)
        if key in seen:
            continue
        seen.add(key)
        tokens += cache.tokens(key)
        estimated += sum(reply.estimated for reply in cache.replies(key))
        items = first_usable(cache, key, read_answer)
        where = {"where": f"{example.path}:{example.line}", "heading": example.heading}
        if items is None:
            if key in asking.failures:
                failed.append(where | {"reason": asking.failures[key]})
            else:
                not_asked.append(where)
            continue
        answered += 1
        without += not items
        counts["given"] += len(items)
        for number, item in enumerate(items, start=1):
            counts["kept"] += _check(recipe, example, item, number, known, taught)
    taught.summary = {
        "model": teacher.model,
        "sections": 0,
        "answered": answered,
        "failed": failed,
        "not_asked": not_asked,
        "not_asked_because": asking.stopped if not_asked else "",
        "without_questions": without,
        "questions": dict(counts),
        "examples": len(taught.examples),
        "dropped": dict(Counter(item.reason for item in taught.dropped)),
        "tokens": tokens,
        "answers_with_estimated_tokens": estimated,
        "money": tokens * teacher.price_per_million / 1e6,
        "currency": recipe.budget.currency,
    }
    return taught


def _check(
    recipe: Recipe, section: Example, item: TeacherQuestion, number: int, known: dict[str, str], taught: Taught
) -> bool:
    """Make examples of one question, or write down why not; whether it was kept."""
    teacher, where = _teacher_of(recipe), f"{section.path}:{section.line}"

    def drop(reason: str, note: str, question: str = item.question, same_as: str = "") -> None:
        about = {"note": note, "quote": item.quote, "section": section.text, "teacher": teacher.model}
        turns = _turns(question, item.answer)
        taught.dropped.append(Dropped(reason, where, section.source, messages=turns, same_as=same_as, about=about))

    wrong = _flaw(recipe, section, item, number)
    if wrong:
        drop(*wrong)
        return False
    # The same section and question have the same group wherever the file stands.
    group = short_hash(f"teacher {normal(section.text)} {normal(item.question)}")
    phrasings = [item.question, *item.paraphrases]
    kept = False
    for place, phrasing in enumerate(phrasings, start=1):
        if not phrasing:
            drop("teacher_empty", "a phrasing without a word", phrasing)
            continue
        if place > 1 + teacher.paraphrases:
            drop("teacher_not_asked_for", f"phrasing {place} of {1 + teacher.paraphrases}", phrasing)
            continue
        example = Example(
            messages=_turns(phrasing, item.answer),
            path=section.path,
            line=section.line,
            sha256=section.sha256,
            heading=section.heading,
            source=section.source,
            repeat=section.repeat,
            made="teacher",
            phrasing=place,
            group=group,
            teacher=teacher.model,
        )
        key = content_key(example)
        if key in known:
            drop("teacher_duplicate", "the same question and answer stand there already", phrasing, known[key])
            continue
        known[key] = where
        taught.examples.append(example)
        kept = True
    return kept


def _flaw(recipe: Recipe, section: Example, item: TeacherQuestion, number: int) -> tuple[str, str] | None:
    """The first thing that is wrong with a question: reason and note."""
    teacher = _teacher_of(recipe)
    if number > teacher.questions_per_section:
        return "teacher_not_asked_for", f"question {number} of {teacher.questions_per_section}"
    if not item.question or not item.answer:
        return "teacher_empty", "no question" if not item.question else "no answer"
    # What would not fit `train.max_length` would stop the run later: about two characters a token.
    longest, allowed = max(len(each) for each in (item.question, *item.paraphrases)), 2 * recipe.train.max_length
    if longest + len(item.answer) > allowed:
        return "teacher_too_long", f"{longest + len(item.answer)} characters, at most {allowed}"
    if not stands_in(item.quote, section.text):
        return "teacher_quote_missing", "the quote does not stand in the section" if item.quote else "no quote"
    why = unsupported(item.answer, section.text, teacher.support, (item.question, *item.paraphrases))
    return ("teacher_unsupported", why) if why else None


def _turns(question: str, answer: str) -> tuple[Message, ...]:
    return (Message(role="user", content=question), Message(role="assistant", content=answer))


def _too_short(example: Example) -> bool:
    return len(example.text.split()) < FEWEST_WORDS


def _prompt(recipe: Recipe, example: Example) -> list[dict[str, str]]:
    body = example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text
    return prompt_for(body, example.heading, recipe.dataset.language, _teacher_of(recipe))


def _teacher_of(recipe: Recipe) -> Teacher:
    assert recipe.dataset.teacher is not None
    return recipe.dataset.teacher

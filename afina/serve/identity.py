"""Is the served model the trained one? Asked over HTTP, with the run's own questions and greedy answers.

A server that leaves the adapter out answers fluently and as the base; one with another template answers nearly
right. Both show when the run's answers are compared word for word.

Several questions are asked at a time, as a server's rows share the reading of the weights: one by one, each token of
each answer reads all of them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from afina.errors import AfinaError, RecipeError, ResultError
from afina.recipe import Chat, read_saved_recipe
from afina.recipe.endpoints import is_local
from afina.record import Record, read_rows
from afina.run import Progress, again, no_progress, parse_json

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

Got = TypeVar("Got")
QUESTIONS = 20
"""Asked at most."""
AT_ONCE = 8
"""Questions under way at a time at a server of another house: one that writes one answer after the other has to get
through so many before the last one's time is over."""
SECONDS = 300.0
"""Until such a server has to have answered."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A question of a run, and what base and trained model answered, greedily."""

    messages: tuple[Mapping[str, str], ...]
    base: str
    trained: str


@dataclass(slots=True)
class Identity:
    """What came of asking."""

    asked: int = 0
    same: dict[str, int] = field(default_factory=dict)
    """Per name, how many answers are the run's."""
    alike: int = 0
    """Answers of base and adapter that are equal, though the run's are not."""
    tellable: int = 0
    """Questions whose answers differ in the run."""
    problems: list[str] = field(default_factory=list)
    rounded: list[str] = field(default_factory=list)
    """Where answers part from the run's at tokens that are nearly as likely: rounding, not another model."""

    def describe(self) -> str:
        """A line, and one for each answer that is another."""
        counts = ", ".join(f"{name} {count} of {self.asked}" for name, count in self.same.items())
        return f"identity: answers as in the run: {counts}" + "".join(
            f"\n  {what}: {each}"
            for what, found in (("rounding", self.rounded), ("wrong", self.problems))
            for each in found
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def stored_answers(run: Path, most: int = QUESTIONS) -> tuple[list[Stored], int]:
    """Questions to compare by, those first whose answers training has changed; and the run's `max_new_tokens`.

    Raises:
        RecipeError: the run was never measured, so that there is nothing to compare with.
    """
    rows: list[Record] = []
    for name in ("predictions.jsonl", "samples.jsonl"):
        rows += read_rows(run / name) or []
    rows = [row for row in rows if not _calls(row)]  # what a server makes of calls is its own
    whole = [row for row in rows if row.flag("adapter_stopped") is not False]
    asked = [  # cut at the limit, as each server cuts them: where no answer is whole, they are all there is
        Stored(_turns(row), row.required_text("base"), row.required_text("adapter")) for row in whole or rows
    ]
    found = {tuple((turn["role"], turn["content"]) for turn in each.messages): each for each in asked}
    if not found:
        measure = f"measure it first: afina eval {run}"
        if (run / "scores.json").is_file():
            samples = read_saved_recipe(run).evaluate.samples
            more = "name some under `evaluate.probes`, then " if samples else ""  # no held-out conversation is there
            measure = (
                f"it was measured without a question: {more}{again(run)}{'' if samples else ' evaluate.samples=8'}"
            )
        raise RecipeError(f"the run {run} has no answers to compare with", measure, "--check")
    ordered = sorted(found.values(), key=lambda each: each.base == each.trained)
    return ordered[:most], read_saved_recipe(run).evaluate.max_new_tokens


def _calls(row: Record) -> bool:
    """Whether functions were offered or called."""
    turns = row.records("messages")
    return bool(row.records("tools")) or any("tool_calls" in turn.values or turn["role"] == "tool" for turn in turns)


def _turns(row: Record) -> tuple[dict[str, str], ...]:
    turns = [
        {"role": turn.required_text("role"), "content": turn.required_text("content")}
        for turn in row.records("messages")
    ]
    return tuple(turns) or ({"role": "user", "content": row.required_text("prompt")},)


Ask = Callable[[str, Sequence[Mapping[str, str]], int], str]
"""The greedy answer of a model, by name. It is called by several threads."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Why an answer is not word for word the run's: each place where a server that is led along the run's answer would
    have written another token, and how much likelier that is there."""

    texts: tuple[str, ...]
    rounding: bool
    """Whether all of them are too near to tell apart in the server's numbers."""


Explain = Callable[[str, Stored, str, str], Parting]
"""Leads a model, by name, along the run's answer to a question, and where it then writes that by itself, along the
other one that it gave. It is called by several threads."""


def compared(text: str) -> str:
    """An answer as it is compared: without its thought, which servers tell apart or not, white space at its ends and a
    character cut in half by the limit.

    >>> compared(" Faro \N{REPLACEMENT CHARACTER}"), compared("Faro\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}")
    ('Faro', 'Faro')
    """
    return text.rpartition("</think>")[2].strip().rstrip(string.whitespace + "\N{REPLACEMENT CHARACTER}")


def check_identity(
    ask: Ask,
    run: Path,
    trained: str,
    base: str | None,
    *,
    allowed: float = 0.0,
    most: int = QUESTIONS,
    explain: Explain | None = None,
    at_once: int = AT_ONCE,
    progress: Progress = no_progress,
) -> Identity:
    """Compare a server's answers with the run's.

    Args:
        ask: asks the server.
        trained, base: the names it serves them under; no base where the run trained a model whole.
        allowed: share of answers that may differ: servers that compute in other precisions round otherwise.
        explain: where it is given, any answer may differ that it explains by rounding, and no other.
        at_once: questions under way at a time.

    Raises:
        RecipeError: the run holds nothing to compare with.
    """
    stored, limit = stored_answers(run, most)
    found = Identity(asked=len(stored))
    names = [name for name in (base, trained) if name]
    # Side by side, so that both have rows in a step.
    texts = _several(
        [partial(ask, name, each.messages, limit) for each in stored for name in names], at_once, progress, "answers"
    )
    answers = {name: [compared(text) for text in texts[place :: len(names)]] for place, name in enumerate(names)}
    for name, given in answers.items():
        right = [compared(each.base if name == base else each.trained) for each in stored]
        other_places = [n for n, (one, other) in enumerate(zip(given, right, strict=True)) if one != other]
        found.same[name], why = len(stored) - len(other_places), ""
        if explain is not None:
            others = [(stored[n], right[n], given[n]) for n in other_places]
            led = [partial(explain, name, *each) for each in others]
            partings = _several(led, at_once, progress, "answers led along the run's")
            left = _unexplained(name, [each for each, *_ in others], partings, found)
            other_places = [other_places[n] for n in left]
            why = f" (led along it: {next(iter(left.values()))})" if left else ""
        if len(other_places) > len(stored) * (0.0 if explain else allowed):
            first = other_places[0]
            found.problems.append(
                f"{name} answers {given[first]!r} to {stored[first].messages[-1]['content']!r}; "
                f"in the run it was {right[first]!r}{why}"
            )
    if base:
        pairs = list(zip(answers[base], answers[trained], stored, strict=True))
        found.tellable = sum(each.base != each.trained for *_, each in pairs)
        found.alike = sum(one == other for one, other, each in pairs if each.base != each.trained)
        if found.tellable and found.alike == found.tellable:
            found.problems.append(f"{trained} answers as {base} does: the adapter is not applied")
    return found


def _several(wanted: Sequence[Callable[[], Got]], at_once: int, progress: Progress, what: str) -> list[Got]:
    """What each gives, in their order. The first failure is raised, and what has not begun by then never does."""
    progress(0, len(wanted), what)
    done: list[Got] = []
    pool = ThreadPoolExecutor(at_once)
    try:
        for one in pool.map(lambda each: each(), wanted):
            done.append(one)
            progress(len(done), len(wanted), what)
    finally:
        pool.shutdown(cancel_futures=True)
    return done


def _unexplained(name: str, others: Sequence[Stored], partings: Sequence[Parting], found: Identity) -> dict[int, str]:
    """Which of the differing answers are not rounding, and where they part; what explains the rest is noted."""
    wrong = {}
    for place, (each, parting) in enumerate(zip(others, partings, strict=True)):
        if not parting.rounding:
            wrong[place] = parting.texts[-1] if parting.texts else "it ends otherwise"
        else:
            found.rounded.append(f"{name}, asked {each.messages[-1]['content']!r:.60}: {'; '.join(parting.texts)}")
    return wrong


def refuse_wrong(found: Identity, or_else: str = "") -> None:
    """
    Args:
        or_else: a further way out.

    Raises:
        ResultError: the server is not the trained model.
    """
    if found.problems:
        raise ResultError(
            "the served model is not the trained one: " + "; ".join(found.problems),
            "serve the run's own adapter on the base it was trained on, with its chat template" + or_else,
        )


def opener_of(url: str) -> OpenerDirector:
    """What opens addresses of a server: of one on this machine, past the proxy that the environment names."""
    from urllib.request import ProxyHandler, build_opener

    return build_opener(*([ProxyHandler({})] if is_local(url) else []))


def ask_over_http(url: str, api_key: str | None, chat: Chat | None = None, *, seconds: float | None = SECONDS) -> Ask:
    """Asks an OpenAI-compatible server at `url` (with or without ``/v1``), standard library only.

    Args:
        chat: the run's template arguments and system message, sent along: a server of another house knows neither.
        seconds: until an answer has to be there; None waits as long as the connection stands.

    Raises (when it asks):
        AfinaError: it does not answer, or with an error.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request

    opener = opener_of(url)
    place = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    def ask(model: str, messages: Sequence[Mapping[str, str]], limit: int) -> str:
        turns = [dict(message) for message in messages]
        if chat and chat.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": chat.system}, *turns]
        body: dict[str, Any] = {"model": model, "messages": turns, "temperature": 0, "max_tokens": limit}
        if chat and chat.template_args:
            body["chat_template_kwargs"] = dict(chat.template_args)
        request = Request(place, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if api_key:
            request.add_header("Authorization", f"Bearer {api_key}")
        try:
            with opener.open(request, timeout=seconds) as response:
                answer = response.read()
        except HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise AfinaError(
                f"the server answers {error.code}: {said}", "see what it serves: GET /v1/models", url
            ) from None
        except (OSError, HTTPException, ValueError) as error:  # none there, cut off, or no HTTP
            said = str(error) or type(error).__name__
            raise AfinaError(f"the server does not answer: {said}", "is it running?", url) from None
        try:
            return str(parse_json(answer)["choices"][0]["message"]["content"] or "")
        except (LookupError, TypeError, ValueError) as error:
            what = f"the server answers something else than a chat completion: {type(error).__name__}: {error}"
            raise AfinaError(what, "name an OpenAI-compatible server", url) from None

    return ask

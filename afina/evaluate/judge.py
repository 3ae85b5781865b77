"""A language model as judge: which of two answers is better, each pair asked in both orders.

Judges prefer what stands first, or last. An answer counts as better only where the judge says so in both orders; a
judge that follows the order is counted, and such a pair is a tie. The requests, their retries, limit and cache are
:mod:`afina.endpoint`'s.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from afina.endpoint.answers import WrongContent, first_usable, read_json_answer
from afina.endpoint.batches import Asker, Asking, Job
from afina.endpoint.cache import AnswerCache, answer_key
from afina.endpoint.client import EndpointClient, Purpose, tokens_of
from afina.recipe import Judge
from afina.run import Progress, no_progress
from afina.score.paired import paired_difference

JUDGE_FOLDER = ".judge"
"""Where a judge's answers are kept, beside the runs."""
PURPOSE = Purpose(
    name="judge",
    key="evaluate.judge",
    questions="questions",
    again="their pairs are not compared; `afina run` with another `evaluate.judge.retries` or `timeout_seconds` asks "
    "for these again, and for no others",
)
TEMPERATURE = 0.0
SYSTEM = (
    "You compare two answers to the same request. Their order says nothing about their quality, nor does their length. "
    'Answer with JSON alone: {"reason": "one sentence", "better": "A"}, or "B", or "tie" where neither is better.'
)


def judge_answers(
    rows: Sequence[Mapping[str, Any]],
    judge: Judge,
    cache_folder: Path,
    *,
    currency: str = "US$",
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Hold the adapter's answers against the base's.

    Args:
        rows: with ``prompt``, ``base``, ``adapter`` and, where there is one, ``reference``.
        cache_folder: every answer that was paid for is kept there.

    Returns:
        Plain values: of ``n`` judged pairs how many are ``better``, ``worse`` and ``ties`` (``order`` of them because
        the judge followed the order, ``same`` because the answers were the same); ``preference``, the mean of +1, 0 and
        -1 with its 95 % interval; ``failed`` pairs; and what it took.

    Raises:
        RecipeError: the endpoint cannot be used.
    """
    drawn = random.Random(judge.seed).sample(range(len(rows)), min(judge.sample, len(rows)))
    pairs = [rows[position] for position in sorted(drawn)]
    cache = AnswerCache(cache_folder)
    asks: dict[str, list[dict[str, str]]] = {}
    keys: list[tuple[str, str] | None] = []
    for row in pairs:
        if row["base"].split() == row["adapter"].split():
            keys.append(None)
            continue
        both = []
        for first, second in (("base", "adapter"), ("adapter", "base")):
            messages = prompt_for(row, str(row[first]), str(row[second]), judge.criteria)
            key = answer_key(judge, messages, TEMPERATURE, judge.seed)
            asks[key] = messages
            both.append(key)
        keys.append((both[0], both[1]))
    asking = _ask(asks, judge, cache, currency, say, progress)
    scores, counts = [], dict.fromkeys(("better", "worse", "ties", "order", "same", "failed"), 0)
    for pair in keys:
        said = ("tie", "tie") if pair is None else tuple(first_usable(cache, key, read_verdict) for key in pair)
        if None in said:
            counts["failed"] += 1
            continue
        outcome = {("B", "A"): 1, ("A", "B"): -1}.get((str(said[0]), str(said[1])), 0)
        scores.append(outcome)
        counts[{1: "better", -1: "worse", 0: "ties"}[outcome]] += 1
        counts["order"] += said in (("A", "A"), ("B", "B"))
        counts["same"] += pair is None
    preference = paired_difference([0.0] * len(scores), scores) if scores else None
    return {
        "n": len(scores),
        **counts,
        "preference": preference.as_json() if preference else None,
        "model": judge.model,
        "criteria": judge.criteria,
        "seed": judge.seed,
        "temperature": TEMPERATURE,
        "requests": asking.requests,
        "tokens": asking.tokens,
        "money": asking.tokens * judge.price_per_million / 1e6,
        "currency": currency,
        "asking": asking.as_json(),
    }


def prompt_for(row: Mapping[str, Any], first: str, second: str, criteria: str) -> list[dict[str, str]]:
    """The messages that ask about one pair in one order.

    >>> prompt_for({"prompt": "2+2?", "reference": "4"}, "5", "4", "Which is right?")[1]["content"].splitlines()[0]
    'Which is right?'
    """
    parts = [criteria, f"<request>\n{row['prompt']}\n</request>"]
    if row.get("reference"):
        parts.append(f"<reference>\n{row['reference']}\n</reference>")
    parts += [f"<answer_A>\n{first}\n</answer_A>", f"<answer_B>\n{second}\n</answer_B>"]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def _ask(
    asks: Mapping[str, list[dict[str, str]]],
    judge: Judge,
    cache: AnswerCache,
    currency: str,
    say: Callable[[str], None],
    progress: Progress,
) -> Asking:
    """Ask what the cache does not hold; every answer goes into it."""
    open_asks = {key: messages for key, messages in asks.items() if first_usable(cache, key, read_verdict) is None}
    asking = Asking(cached=len(asks) - len(open_asks), damaged_lines=cache.damaged)
    if open_asks:
        paid = sum(cache.tokens(key) for key in asks)
        jobs = (
            (Job(key, number, f"pair {number // 2 + 1}", tokens_of(messages) + judge.max_tokens), messages)
            for number, (key, messages) in enumerate(open_asks.items())
        )
        with EndpointClient(judge, PURPOSE, temperature=TEMPERATURE, seed=judge.seed) as client:
            asker = Asker(client, cache, asking, read_verdict, currency=currency, already=paid)
            asker.ask_all(jobs, len(open_asks), progress)
    say(asking.describe(judge, PURPOSE, currency))
    return asking


def read_verdict(content: str) -> str:
    """``A``, ``B`` or ``tie``.

    >>> read_verdict('{"reason": "It is right.", "better": "b"}')
    'B'

    Raises:
        WrongContent: not the JSON asked for.
    """
    parsed = read_json_answer(content)
    better = str(parsed.get("better", "")).strip().casefold() if isinstance(parsed, dict) else ""
    if better not in ("a", "b", "tie"):
        raise WrongContent('`better` is neither "A" nor "B" nor "tie"')
    return better.upper() if better != "tie" else better

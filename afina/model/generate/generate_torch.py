"""Answers to many prompts at once: what evaluation and chat call. Serving drives the engine below it step by step.

    prompts ──> asked before? (kept on disk, twice in the list) ──> longest first ──> Engine ──> answers in order

The answer to a prompt does not depend on what is asked beside it: see :mod:`afina.model.generate.engine_torch`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.errors import AfinaError, ContextOverflow, Problem
from afina.model.generate.engine_torch import PLACES, Engine
from afina.model.generate.request import Finished, Request
from afina.model.generate.stored_answers import KeptAnswers
from afina.run import Progress, hash_value, no_progress
from afina.tokenizer.chat import Renderer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and whether it ended by itself."""

    text: str
    """Without white space around it."""
    tokens: int
    """How many it wrote, the end token not counted."""
    stopped: bool
    """False: it reached the limit without an end token."""
    logprobs: tuple[float, ...] = ()
    """Natural log probability of each token, where asked for."""
    ids: tuple[int, ...] = ()
    """The tokens, where asked for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 is greedy.
        seed: a prompt's draws follow from the seed, its ids and how often it stood in the list before.
        stop: strings that end an answer, besides the template's stop tokens.
        logprobs: whether :attr:`Answer.logprobs` is wanted.
        ids: whether :attr:`Answer.ids` is.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    ids: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether the same call gives the same answers."""
        return self.temperature == 0 or self.seed is not None


GREEDY = Sampling()


def generate(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    sampling: Sampling = GREEDY,
    places: int = PLACES,
    kept: KeptAnswers | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answers to prompts given as token ids, in the order given.

    Args:
        model: in evaluation mode; with PEFT, the adapter that is active answers.
        max_new_tokens: of every answer, or of each prompt's.
        sampling: greedy where not given; then the same prompt is asked once.
        places: rows in a batch.
        kept: answers of these weights from before; new ones are added.
        say: is told what is out of the ordinary: the model's slow path, answers cut shorter than asked for.

    Raises:
        ContextOverflow: prompts that leave no room for a single new token, all of them named.
        AfinaError: the model's logits are NaN.
    """
    engine = Engine(model, renderer.tokenizer, renderer.stop_ids(), places=places, say=say)
    wanted = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    limits = _limits(prompts, wanted, engine.context, say)
    keys = answer_keys(prompts, limits, sampling, Numbers(engine.dtype, exact=engine.exact), engine.stop_ids)
    answers: dict[str, Answer] = {}
    requests: dict[str, Request] = {}
    for prompt, limit, key in zip(prompts, limits, keys, strict=True):
        if key in answers or key in requests:
            continue
        if kept is not None and sampling.repeatable and (found := kept.get(key)) is not None:
            answers[key] = Answer(**found | {name: tuple(found[name]) for name in ("logprobs", "ids")})
            continue
        requests[key] = Request(
            prompt=tuple(prompt),
            max_new_tokens=limit,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=None if sampling.seed is None else seed_of(key),
            stop=sampling.stop,
            logprobs=0 if sampling.logprobs else None,
        )
    # The longest first: the cache gets its full size at once, and rows of like length run together.
    order = sorted(requests, key=lambda key: len(requests[key].prompt) + requests[key].max_new_tokens, reverse=True)
    key_of = {engine.submit(requests[key]): key for key in order}
    while engine.busy:
        for produced in engine.step():
            if produced.done:
                if produced.done.finish == "failed":
                    raise AfinaError("the model's logits are NaN", "the weights are damaged, or a layer overflows")
                key = key_of[produced.id]
                answers[key] = _answer(produced.done, sampling.ids)
                if kept is not None and sampling.repeatable:
                    kept.put(key, asdict(answers[key]))
        progress(len(answers), len(answers) + engine.running + engine.waiting, "answers")
    return [answers[key] for key in keys]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a model's answers are computed in."""

    dtype: str
    """And where, e.g. ``float32 cpu``."""
    exact: bool
    """Whether near ties are decided alone."""


def answer_keys(
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    numbers: Numbers,
    stop_ids: Collection[int],
) -> list[str]:
    """What each answer is known by: a hash of all that it follows from besides the weights."""
    settings = asdict(sampling) | {"stop": list(sampling.stop)}
    seed, with_ids = settings.pop("seed"), settings.pop("ids")
    settings |= {"ids": True} if with_ids else {}  # answers kept before there were any stay found
    settings |= {"stop_ids": sorted(stop_ids), "dtype": numbers.dtype, "exact": numbers.exact}
    keys: list[str] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for prompt, limit in zip(prompts, limits, strict=True):
        ids = tuple(prompt)
        drawn = None if sampling.temperature == 0 else [seed, seen[ids]]  # a prompt asked again draws again
        seen[ids] += 1
        keys.append(hash_value(settings | {"prompt": ids, "max_new_tokens": limit, "drawn": drawn}))
    return keys


def seed_of(key: str) -> int:
    """What the draws of a sampled answer follow from."""
    return int(key[:15], 16)


def _limits(
    prompts: Sequence[Sequence[int]], wanted: Sequence[int], context: int | None, say: Callable[[str], None] | None
) -> list[int]:
    """New tokens that each prompt leaves room for, those `wanted` at most."""
    if context is None:
        return list(wanted)
    limits = [min(most, context - len(prompt)) for most, prompt in zip(wanted, prompts, strict=True)]
    full = [number for number, limit in enumerate(limits) if limit < 1]
    if full:
        raise ContextOverflow(
            problems=[
                Problem(
                    f"the prompt has {len(prompts[number])} tokens, the model sees {context}, its answer included",
                    "shorten it, or take a base that sees more",
                    f"prompt {number + 1} of {len(prompts)}",
                )
                for number in full
            ]
        )
    shorter = sum(limit < most for limit, most in zip(limits, wanted, strict=True))
    if shorter and say:
        say(
            f"generation: {shorter} of {len(prompts)} prompts leave room for fewer than {max(wanted)} new tokens "
            f"(the model sees {context}); the least is {min(limits)}"
        )
    return limits


def _answer(done: Finished, with_ids: bool) -> Answer:
    return Answer(
        text=done.text.strip(),
        tokens=len(done.tokens),
        stopped=done.finish == "stop",
        logprobs=tuple(each.logprob for each in done.logprobs),
        ids=tuple(done.tokens) if with_ids else (),
    )

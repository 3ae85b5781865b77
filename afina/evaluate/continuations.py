"""What the trained model writes behind the recipe's prompts: the same prompts and seeds for every run.

Tokens are counted as the model produced them; its text cut anew may come out otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from afina.evaluate.corpus_words import CorpusWords
from afina.evaluate.guardrails import weigh
from afina.evaluate.text_scores import ContinuationScores
from afina.evaluate.written import JudgedText, TextJudge, WrittenText, figures_of
from afina.model.generate.generate_torch import Answer, Sampling, generate
from afina.recipe import PROMPT_SEEDS, Guardrails
from afina.run import Progress, no_progress
from afina.tokenizer.chat import Renderer
from afina.tokenizer.pieces import read_tokenizer
from afina.tokenizer.ratios import count_pieces

CHARACTERS = 400
"""Each text has room for about so many, by how the tokenizer cuts the prompts: a limit in tokens would let one version
write five times as much as another."""
TEMPERATURE = 0.8
CORPUS = "of the training texts"
"""What the corpus of a run is called, whose words the texts may have."""
SEEDS: tuple[int | None, ...] = (None, *PROMPT_SEEDS)
"""Behind each prompt one text greedily, and one for each seed."""


@dataclass(frozen=True)
class Continuations:
    """What was written, judged."""

    scores: ContinuationScores | None = None
    rows: Sequence[dict[str, Any]] = ()
    """Of ``continuations.jsonl``."""
    misses: Sequence[str] = ()
    """Guardrails of the sampled texts that are above the recipe's limits. Greedy ones are not judged: any small model
    goes in circles when it always takes the likeliest token."""


def continue_prompts(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[str],
    corpus: CorpusWords,
    limits: Guardrails | None,
    *,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> Continuations:
    """Let a model go on behind each prompt, greedily and once for each of the seeds, and judge what it writes.

    Args:
        model: in evaluation mode.
        corpus: the words of the texts that it learned.
        limits: of the recipe; None where the texts are shown and not judged.
    """
    ids = [renderer.completion_prompt(prompt) for prompt in prompts]
    options: Any = {"max_new_tokens": room_behind(prompts, ids), "progress": progress}
    table = read_tokenizer(renderer.tokenizer, "tokenizer")
    judge = TextJudge(corpus, special_texts(renderer))
    judged: dict[int | None, list[JudgedText]] = {}
    rows = []
    for seed in SEEDS:
        sampling = sampling_of(seed)
        told = say if seed is None else None  # it would say the same again
        answers = generate(model, renderer, ids, sampling=sampling, say=told, **options)
        judged[seed] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            pieces = count_pieces(table.of(answer.ids))
            judged[seed].append(judge.look_at(WrittenText(answer.text, prompt, seed, answer.stopped, pieces)))
            rows.append(_row(judged[seed][-1], answer, sampling, table.sha256))
    sampled = [each for seed in PROMPT_SEEDS for each in judged[seed]]
    scores = ContinuationScores(
        len(prompts),
        PROMPT_SEEDS,
        TEMPERATURE,
        table.sha256,
        figures_of(judged[None]),
        figures_of(sampled),
        corpus.figures(),
    )
    return Continuations(scores, rows, misses_of(sampled, limits) if limits else [])


def room_behind(prompts: Sequence[str], ids: Sequence[Sequence[int]]) -> int:
    """New tokens behind each prompt at most: as many as :data:`CHARACTERS` take, cut as the prompts are."""
    return math.ceil(CHARACTERS * sum(map(len, ids)) / sum(map(len, prompts)))


def sampling_of(seed: int | None) -> Sampling:
    """How tokens are chosen: greedily without a seed."""
    return Sampling(ids=True) if seed is None else Sampling(TEMPERATURE, seed=seed, ids=True)


def special_texts(renderer: Renderer) -> set[str]:
    """Texts of the tokenizer's special tokens, which no text holds."""
    return {token.content for token in renderer.tokenizer.added_tokens_decoder.values() if token.special}


def misses_of(sampled: Sequence[JudgedText], limits: Guardrails) -> list[str]:
    """The limits that the sampled texts miss, in words."""
    misses = weigh(None, [each.flaws for each in sampled], limits)[0]
    return [f"behind the prompts of the recipe, {each}" for each in misses]


def _row(judged: JudgedText, answer: Answer, sampling: Sampling, tokenizer: str) -> dict[str, Any]:
    """A line of ``continuations.jsonl``; ``afina guardrails`` reads it."""
    written, pieces = judged.written, judged.written.pieces
    assert pieces is not None
    return {
        "prompt": written.prompt,
        "seed": written.seed,
        "temperature": sampling.temperature,
        "output": written.text,
        "stopped": answer.stopped,
        "token_ids": list(answer.ids),
        "tokens": pieces.pieces,
        "fallback": pieces.fallback,
        "short": pieces.short,
        "tokenizer": tokenizer,
        "flaws": list(judged.flaws),
        "broken_words": list(judged.words.broken) if judged.words else [],
    }

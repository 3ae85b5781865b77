"""Scores of one answer against its references, and what corpus scores need of it.

| metric | of an answer | over many |
|---|---|---|
| ``exact_match``, ``f1`` | as the SQuAD 2 script, the best of several references | mean |
| ``rouge1``, ``rouge2``, ``rougeL`` | F1 over Unicode words | mean |
| ``accuracy`` | whether it names the right one of the choices | mean |
| ``chrf``, ``bleu`` | sacrebleu's counts | sacrebleu's corpus score of the summed counts, 0 to 100 |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from afina.score.normalize import folded, squad_normal, words_of

MEANS = ("exact_match", "f1", "rouge1", "rouge2", "rougeL", "accuracy")
"""Metrics whose score over many answers is the mean; from 0 to 1."""
CORPUS = ("chrf", "bleu")
"""Metrics that sum counts over all answers; from 0 to 100."""
METRICS = (*MEANS, *CORPUS)


def exact_match(answer: str, references: Sequence[str], language: str = "en") -> float:
    """1.0 where the answer equals a reference once both are normalized (:func:`squad_normal`).

    Of "A" nothing is left, and of "O" in Portuguese neither. The SQuAD script calls two such texts equal, and in
    English so do we; elsewhere nothing matches nothing, or the letters of a multiple-choice question would be one
    answer. References of which nothing is left are reported before any score.

    >>> exact_match("the Tower.", ["Tower"]), exact_match("O coração", ["CORAÇÃO!"], "pt"), exact_match("b", ["c"])
    (1.0, 1.0, 0.0)
    >>> exact_match("a", ["the"]), exact_match("A", ["O"], "pt")
    (1.0, 0.0)
    """
    plain = squad_normal(answer, language)
    if not plain and language != "en":
        return 0.0
    return float(any(plain == squad_normal(reference, language) for reference in references))


def token_f1(answer: str, references: Sequence[str], language: str = "en") -> float:
    """Harmonic mean of precision and recall over the words that answer and reference share; the best reference counts.

    Where nothing is left of one of them, it is what exact match is.

    >>> token_f1("the red tower", ["red"]), token_f1("a", ["the"]), token_f1("a", ["o"], "pt")
    (0.6666666666666666, 1.0, 0.0)
    """
    words = squad_normal(answer, language).split()
    best = 0.0
    for reference in references:
        wanted = squad_normal(reference, language).split()
        nothing = float(not words and not wanted and language == "en")
        best = max(best, nothing, _f1((Counter(words) & Counter(wanted)).total(), len(words), len(wanted)))
    return best


def _f1(shared: int, found: int, wanted: int) -> float:
    """F1 of `shared` items out of `found` and `wanted`.

    Written as the SQuAD script does, so that not even the last bit differs.
    """
    if not shared:
        return 0.0
    precision, recall = shared / found, shared / wanted
    return 2 * precision * recall / (precision + recall)


def rouge_n(answer: Sequence[str], reference: Sequence[str], n: int) -> float:
    """ROUGE-N of two lists of words: F1 over the n-grams that both hold (Lin 2004).

    >>> rouge_n("o gato preto".split(), "o gato branco".split(), 1)
    0.6666666666666666
    """
    one, two = (Counter(zip(*(words[start:] for start in range(n)), strict=False)) for words in (answer, reference))
    return _f1((one & two).total(), one.total(), two.total())


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L of two lists of words: F1 of their longest common subsequence (Lin 2004).

    >>> rouge_l("o gato preto dorme".split(), "o gato dorme".split())
    0.8571428571428571
    """
    return _f1(common_subsequence(answer, reference), len(answer), len(reference))


def common_subsequence(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence: one row of the table held in the bits of an integer (Hyyrö 2004).

    >>> common_subsequence("abcde", "badce")
    3
    """
    places: dict[str, int] = {}
    for position, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << position
    whole = (1 << len(one)) - 1
    row = whole
    for item in two:
        kept = row & places.get(item, 0)
        row = (row + kept) | (row - kept)
    return len(one) - (row & whole).bit_count()


def row_scores(answer: str, references: Sequence[str], language: str) -> dict[str, float]:
    """Every metric of :data:`MEANS` but accuracy; the best reference counts, for each metric by itself."""
    words, wanted = words_of(answer), [words_of(reference) for reference in references]
    rouges: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
        "rouge1": lambda a, b: rouge_n(a, b, 1),
        "rouge2": lambda a, b: rouge_n(a, b, 2),
        "rougeL": rouge_l,
    }
    return {
        "exact_match": exact_match(answer, references, language),
        "f1": token_f1(answer, references, language),
        **{name: max((rouge(words, each) for each in wanted), default=0.0) for name, rouge in rouges.items()},
    }


# ---- sacrebleu


@lru_cache(maxsize=4)
def corpus_metric(name: str) -> Any:
    """sacrebleu's own chrF2 or BLEU with its own defaults."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF() if name == "chrf" else BLEU()


def corpus_counts(name: str, answer: str, references: Sequence[str]) -> list[int]:
    """What sacrebleu counts in one answer. Summed over answers they give :func:`corpus_score`."""
    counts = corpus_metric(name)._extract_corpus_statistics([answer], [[each] for each in references])[0]
    return [int(count) for count in counts]


def corpus_score(name: str, summed: Sequence[float]) -> float:
    """sacrebleu's corpus score, 0 to 100, from the sums of :func:`corpus_counts`."""
    return float(corpus_metric(name)._compute_score_from_stats([round(count) for count in summed]).score)


# ---- choices


def chosen(answer: str, choices: Sequence[tuple[str, str]]) -> int | None:
    """Which of the choices (label, text) an answer names; None where it names none, or several.

    In this order: the whole answer is a label or a text; it begins with a label and a mark ("B)", "(B)", "B. Faro");
    it holds the text of exactly one choice; it ends with a label ("A resposta é B.").

    >>> towns = [("A", "Faro"), ("B", "Lagos")]
    >>> [chosen(said, towns) for said in ("B", "(b) Lagos", "É Faro.", "A resposta é B.", "Faro ou Lagos", "Tavira")]
    [1, 1, 0, 1, None, None]
    """
    plain = squad_normal(answer, "none")
    for position, (label, text) in enumerate(choices):
        if plain and plain in (squad_normal(label, "none"), squad_normal(text, "none")):
            return position
    begins = re.match(r"\s*[(\[]?\s*([^\W_]{1,3})\s*[).:\]]", answer)
    for position, (label, _) in enumerate(choices):
        if begins and folded(label) == folded(begins[1]):
            return position
    words = f" {' '.join(words_of(answer))} "
    held = [n for n, (_, text) in enumerate(choices) if text and f" {' '.join(words_of(text))} " in words]
    if held:
        return held[0] if len(held) == 1 else None
    ends = re.search(r"(?<!\w)([^\W_]{1,3})\W*\Z", answer)
    return next((n for n, (label, _) in enumerate(choices) if ends and label == ends[1]), None)


def accuracy(answer: str, references: Sequence[str], choices: Sequence[tuple[str, str]]) -> float:
    """1.0 where the answer names the choice that the reference names.

    >>> accuracy("(B)", ["Lagos"], [("A", "Faro"), ("B", "Lagos")])
    1.0
    """
    said = chosen(answer, choices)
    return float(said is not None and said in {chosen(reference, choices) for reference in references})

"""Metrics of answers: by hand, and equal to libraries that we did not write."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afina.errors import RecipeError
from afina.score.metrics import (
    accuracy,
    common_subsequence,
    corpus_counts,
    corpus_score,
    exact_match,
    rouge_l,
    row_scores,
    token_f1,
)
from afina.score.normalize import ARTICLES, published, squad_normal, words_of
from afina.score.paired import mean_and_sd, paired_difference, ratio_difference

PORTUGUESE = [
    ("O coração da cidade não dorme à noite.", "À noite, o coração da cidade dorme."),
    ("São João é padroeiro do Porto", "O padroeiro do Porto é São João"),
    ("É ótimo!", "Ótimo, é."),
    ("pão", "pao"),
    ("", "nada"),
]
ENGLISH = st.text(string.ascii_letters + string.digits + string.punctuation + "  ", max_size=40) | st.lists(
    st.sampled_from(["the", "a", "an", "The", "red", "red.", "sea's", "blue-green", "42", "A"]), max_size=8
).map(" ".join)


# ---- SQuAD


@given(ENGLISH, st.lists(ENGLISH, min_size=1, max_size=3))
def test_exact_match_and_f1_are_those_of_the_squad_script(answer: str, references: list[str]) -> None:
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    answers = {"answer_start": [0] * len(references), "text": references}
    theirs = squad([{"prediction_text": answer, "id": "1"}], [{"answers": answers, "id": "1"}])
    assert exact_match(answer, references) * 100 == theirs["exact_match"].item()
    assert token_f1(answer, references) * 100 == pytest.approx(theirs["f1"].item(), abs=1e-4)


def test_articles_of_the_language() -> None:
    assert squad_normal("Os gatos e uma casa", "pt") == "gatos e casa"
    assert squad_normal("Os gatos e uma casa", "en") == "os gatos e uma casa"
    assert squad_normal("Os gatos e uma casa", "none") == "os gatos e uma casa"
    assert squad_normal("A casa do João, na Rua da Sé", "pt") == "casa do joão na rua da sé"  # contractions are kept
    with pytest.raises(RecipeError, match="eu"):
        squad_normal("x", "eu")


def test_composed_and_decomposed_letters_are_one() -> None:
    assert exact_match("cora\u00e7\u00e3o", ["corac\u0327a\u0303o"], "pt") == 1.0
    assert token_f1("cora\u00e7\u00e3o", ["corac\u0327a\u0303o"], "pt") == 1.0
    assert words_of("cora\u00e7\u00e3o") == words_of("CORAC\u0327A\u0303O") == ["coração"]


def test_punctuation_of_other_alphabets_goes() -> None:
    assert squad_normal("«Não», disse — “sim”…¿", "pt") == "não disse sim"


@given(st.text(max_size=60), st.sampled_from(sorted(ARTICLES)))
def test_normalizing_twice_changes_nothing_but_articles(text: str, language: str) -> None:
    assert squad_normal(squad_normal(text, "none"), "none") == squad_normal(text, "none")
    assert exact_match(text, [text], language) == float(bool(squad_normal(text, language)) or language == "en")


def test_letters_of_choices_are_not_all_one_in_portuguese() -> None:
    """The script deletes articles: of "A" and of "O" nothing is left."""
    assert exact_match("A", ["O"], "pt") == exact_match("A", ["A"], "pt") == 0.0
    assert exact_match("A", ["A"], "none") == 1.0
    choices = [(letter, letter) for letter in "ABCD"]
    assert [accuracy(said, ["A"], choices) for said in ("A", "a)", "(A)", "A resposta é A.", "B", "")] == [
        1,
        1,
        1,
        1,
        0,
        0,
    ]


def test_the_rules_are_published() -> None:
    assert "umas" in published("pt")["exact_match, token F1"]


# ---- ROUGE


def longhand(one: list[str], two: list[str]) -> int:
    """Longest common subsequence by the whole table."""
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, first in enumerate(one):
        for j, second in enumerate(two):
            table[i + 1][j + 1] = table[i][j] + 1 if first == second else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(st.lists(st.sampled_from("àéçõab"), max_size=90), st.lists(st.sampled_from("àéçõab"), max_size=90))
def test_rouge_l_is_the_longhand_longest_common_subsequence(one: list[str], two: list[str]) -> None:
    shared = longhand(one, two)
    assert common_subsequence(one, two) == shared
    assert rouge_l(one, two) == pytest.approx(2 * shared / (len(one) + len(two)) if shared else 0.0)


@pytest.mark.parametrize(("answer", "reference"), PORTUGUESE)
def test_rouge_l_on_accented_portuguese(answer: str, reference: str) -> None:
    one, two = words_of(answer), words_of(reference)
    shared = longhand(one, two)
    expected = 2 * shared / (len(one) + len(two)) if shared else 0.0
    assert row_scores(answer, [reference], "pt")["rougeL"] == pytest.approx(expected)


@given(ENGLISH, ENGLISH)
def test_rouge_is_that_of_rouge_score_on_english(answer: str, reference: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    ours = row_scores(answer, [reference], "en")
    for name, score in scorer.score(reference, answer).items():
        assert ours[name] == pytest.approx(score.fmeasure), name


def test_rouge_score_cuts_accented_words_and_we_do_not() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    tokens = pytest.importorskip("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=False)
    assert tokens.tokenize("coração") == ["cora", "o"]
    assert words_of("coração") == ["coração"]
    theirs = scorer.RougeScorer(["rouge1"]).score("ação", "seção")["rouge1"].fmeasure  # "a", "o" and "se", "o"
    assert theirs == 0.5
    assert row_scores("seção", ["ação"], "pt")["rouge1"] == 0.0


# ---- sacrebleu


def test_chrf_and_bleu_are_sacrebleus_own_numbers() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    answers = [answer for answer, _ in PORTUGUESE] * 3
    references = [reference for _, reference in PORTUGUESE] * 3
    for name, metric in (("chrf", CHRF()), ("bleu", BLEU())):
        counts = [corpus_counts(name, *pair) for pair in zip(answers, ([each] for each in references), strict=True)]
        summed = [sum(column) for column in zip(*counts, strict=True)]
        assert corpus_score(name, summed) == pytest.approx(metric.corpus_score(answers, [references]).score)


# ---- intervals


def test_paired_intervals_hold_the_difference_that_they_should() -> None:
    generator = random.Random(0)
    inside = 0
    for trial in range(100):
        hard = [generator.random() for _ in range(60)]
        first = [float(generator.random() < each) for each in hard]
        second = [float(generator.random() < min(1.0, each + 0.1)) for each in hard]
        truth = sum(min(1.0, each + 0.1) - each for each in hard) / 60
        found = paired_difference(first, second, seed=trial)
        inside += found.low <= truth <= found.high
    assert 88 <= inside <= 100  # 95 of a hundred, give or take


def test_a_weighted_difference_weighs() -> None:
    found = ratio_difference([10.0] * 50 + [0.0] * 50, [0.0] * 100, [9.0] * 50 + [1.0] * 50)
    assert found.value == pytest.approx(-1.0)
    assert found.low < -1.0 < found.high


def test_mean_and_standard_deviation() -> None:
    assert mean_and_sd([0.2, 0.4, 0.6]) == (pytest.approx(0.4), pytest.approx(0.2))

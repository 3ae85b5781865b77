"""The verdict on scores made by hand, the intervals against exact ones, what an answer is, probes from a dataset."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import asking

from afina.dataset.build.build import build_dataset
from afina.errors import DataError
from afina.evaluate.derive import GENERAL, derive_probes, general_questions
from afina.evaluate.grade import Graded, contains, grade, luck, verbatim, version_of
from afina.evaluate.guardrails import weigh
from afina.evaluate.intervals import (
    ONE_END,
    chance_of,
    exact_interval,
    gain_interval,
    more_than_chance,
    share_interval,
    sign_test,
    student,
    wilson,
)
from afina.evaluate.loss import LossScore
from afina.evaluate.probes import read_probes
from afina.evaluate.verdict import ProbeScore, judge
from afina.recipe import Guardrails, Limits, Recipe, check_recipe
from afina.text.claims import claims_to_know, declines

RIGHT, WRONG = Graded(verbatim=True, said=True), Graded()
CLAIM, DECLINED = Graded(claims=True), Graded(declines=True)
SAID = Graded(said=True)


def probe(role: str, before: list[Graded], after: list[Graded], name: str = "", **values: Any) -> ProbeScore:
    return ProbeScore(name or role, role, tuple(before), tuple(after), **values)


LEARNED = probe("generalization", [WRONG] * 20, [RIGHT] * 18 + [WRONG] * 2)
KEPT = probe("retention", [RIGHT] * 20, [RIGHT] * 20, "capitals")


# ---- the verdict


def test_learned_and_broke_nothing():
    verdict = judge([LEARNED, KEPT], None, None, Limits(learned_min=0.8))
    assert (verdict.learned, verdict.broke, verdict.passed) == ("yes", "nothing", True)
    assert verdict.text == "learned: yes, broke: nothing"
    assert verdict.findings[0].startswith("generalization: 0 % -> 90 % right, +90.0 points (")
    assert verdict.findings[1] == "capitals: 0 % of the 20 that the base knew are wrong now (0 % to 16.8 %; 20 asked)"


def test_broke_what_group_by_group_the_worst_first():
    lost = [
        probe("retention", [RIGHT] * 10, [RIGHT] * 6 + [WRONG] * 4, "rivers"),
        probe("retention", [RIGHT] * 10, [RIGHT] + [WRONG] * 9, "capitals"),
    ]
    verdict = judge([LEARNED, KEPT, *lost], None, None, Limits())
    assert verdict.broke == "90 % of what it knew (capitals), 40 % (rivers)"
    assert verdict.text == "learned: yes, broke: 90 % of what it knew (capitals), 40 % (rivers)"
    assert not verdict.passed and len(verdict.misses) == 2


def test_a_base_that_knew_nothing_cannot_have_been_broken():
    verdict = judge([LEARNED, probe("retention", [WRONG] * 9, [WRONG] * 9)], None, None, Limits())
    assert verdict.broke == "not measured (the base knew none of 9 questions)" and verdict.passed


def test_answers_in_whole_sentences_are_known_before():
    """A base that says "A capital é Lisboa." knows it; one that then says another town has lost it."""
    lost = judge([LEARNED, probe("retention", [SAID] * 10, [WRONG] * 10)], None, None, Limits())
    brief = judge([LEARNED, probe("retention", [SAID] * 10, [RIGHT] * 10)], None, None, Limits())
    assert lost.broke == "100 % of what it knew (retention)" and brief.broke == "nothing"


def test_who_only_learned_to_be_brief_has_learned_no_fact():
    verdict = judge([probe("generalization", [SAID] * 20, [RIGHT] * 20)], None, None, Limits())
    assert verdict.learned == "no" and "the form was learned, not the facts: 100 % -> 100 %" in verdict.misses[0]


def test_who_learned_what_answers_look_like_has_learned_no_fact():
    """Ten of thirty right, as many as its answers to other questions would be."""
    hits = [RIGHT] * 10 + [WRONG] * 20
    dealt = probe("generalization", [WRONG] * 30, hits, by_luck=(1 / 3,) * 30)
    verdict = judge([dealt], None, None, Limits())
    assert verdict.learned == "no"
    assert "33.3 % right, 33.3 % were right with the answers dealt anew" in verdict.misses[0]
    assert judge([replace(dealt, by_luck=(1 / 30,) * 30)], None, None, Limits()).learned == "yes"


@pytest.mark.parametrize(("gained", "learned"), [(5, "no"), (6, "yes")])
def test_a_gain_is_one_beyond_chance(gained: int, learned: str):
    """Sign test by hand: 2 / 2**6 = 0.031 is below 0.05, 2 / 2**5 = 0.0625 is not."""
    verdict = judge([probe("recall", [WRONG] * 10, [RIGHT] * gained + [WRONG] * (10 - gained))], None, None, Limits())
    assert verdict.learned == learned and verdict.passed is (learned == "yes")


def test_too_little_and_too_few():
    assert judge([LEARNED], None, None, Limits(learned_min=0.95)).learned == "too little"
    few = judge([probe("recall", [WRONG] * 5, [RIGHT] * 5)], None, None, Limits())
    assert few.learned == "not measured (5 questions are too few)" and few.passed


def test_seen_questions_do_not_stand_for_unseen_ones():
    by_heart = probe("recall", [WRONG] * 20, [RIGHT] * 20)
    verdict = judge([by_heart, probe("generalization", [WRONG] * 20, [WRONG] * 20)], None, None, Limits())
    assert verdict.learned == "no"


@pytest.mark.parametrize("role", ["generalization", "claims", "recall"])
def test_parrots_say_that_they_know_and_do_not(role: str):
    facts = probe("generalization", [WRONG] * 20, [WRONG] * 20)
    verdict = judge([facts, probe(role, [WRONG] * 20, [CLAIM] * 20)], None, None, Limits())
    assert verdict.learned == "parrots" and not verdict.passed
    assert "it says that it knows in 0 % -> 50 % of 40 answers" in verdict.misses[-1]


def test_who_knows_may_say_so_and_who_always_said_so_is_no_parrot_of_ours():
    says_so = probe("claims", [WRONG] * 20, [replace(CLAIM, said=True)] * 20)
    assert judge([LEARNED, says_so], None, None, Limits()).learned == "yes"
    always = probe("generalization", [CLAIM] * 20, [CLAIM] * 20)
    assert judge([always], None, None, Limits()).learned == "no"


def test_nothing_but_claims_was_trained_and_no_fact_was_asked():
    says_so = probe("claims", [WRONG] * 20, [replace(CLAIM, said=True)] * 20)
    assert judge([says_so], None, None, Limits()).learned == "parrots"


def test_made_up_answers_are_shown_and_limited():
    made_up = probe("unknown", [DECLINED] * 20, [WRONG] * 12 + [DECLINED] * 6 + [RIGHT] * 2, "strangers")
    assert judge([LEARNED, made_up], None, None, Limits()).passed
    verdict = judge([LEARNED, made_up], None, None, Limits(hallucination_max=0.5))
    assert verdict.misses == ("strangers: 60 % of the answers are made up, the recipe allows 50 %",)
    row = made_up.result().as_json()
    assert row["after"]["made_up"] == 0.6 and row["after"]["declined"] == 0.3 and row["before"]["made_up"] == 0.0
    assert row["change"]["low"] > 0


def test_version_probes_report_new_old_and_neither():
    old, new, neither = (Graded(version=name, said=name == "new") for name in ("old", "new", "neither"))
    score = probe("versions", [old] * 8 + [neither] * 2, [new] * 8 + [old] + [neither])
    row = score.result().as_json()
    assert (row["before"]["new"], row["before"]["old"], row["before"]["neither"]) == (0.0, 0.8, 0.2)
    assert (row["after"]["new"], row["after"]["old"]) == (0.8, 0.1)
    assert judge([score], None, None, Limits()).learned == "yes"


# ---- several ways to tell


def way(role: str, gained: int, *, of: int = 20, name: str = "", **values: Any) -> ProbeScore:
    after = [RIGHT] * gained + [WRONG] * (of - gained)
    return probe(role, [WRONG] * of, after, name, clusters=tuple(map(str, range(of))), **values)


@pytest.mark.parametrize(
    ("gained", "learned"),
    [((9, 9, 9), "yes"), ((9, 9, 0), "too little"), ((0, 9, 0), "too little"), ((0, 0, 0), "no")],
)
def test_ways_to_tell_have_to_agree(gained: tuple[int, int, int], learned: str):
    roles = ("generalization", "choice", "coverage")
    verdict = judge([way(role, count) for role, count in zip(roles, gained, strict=True)], None, None, Limits())
    assert verdict.learned == learned and verdict.passed is (learned == "yes")
    if gained == (9, 9, 0):
        assert verdict.misses[-1] == (
            "the ways to tell do not agree: a gain by short answers and choice of the true sentence, "
            "none by free answers"
        )


def test_a_way_that_asks_about_too_little_does_not_count():
    """Four facts in nine phrasings, none answered, beside 20 sections: the sections decide."""
    facts = tuple(name for name in "abcd" for _ in range(9))
    few = probe("generalization", [WRONG] * 36, [WRONG] * 36, clusters=facts)
    assert judge([few, way("choice", 9)], None, None, Limits()).learned == "yes"
    assert judge([few, way("choice", 0)], None, None, Limits()).learned == "no"
    assert judge([few], None, None, Limits()).learned == "not measured (36 questions about 4 facts are too few)"


def test_a_choice_is_held_against_the_base_and_never_against_chance():
    """18 of 20 right where chance gives 2.5, before and after: nothing was learned. A gain from below chance is one."""
    chance = {"by_luck": (1 / 8,) * 20}
    known = probe("choice", [RIGHT] * 18 + [WRONG] * 2, [RIGHT] * 18 + [WRONG] * 2, **chance)
    assert judge([known], None, None, Limits()).learned == "no"
    low = probe("choice", [WRONG] * 60, [RIGHT] * 7 + [WRONG] * 53, by_luck=(1 / 8,) * 60)
    assert judge([low], None, None, Limits()).learned == "yes"
    (figure, by_chance) = known.result().figures()
    assert (figure.before, figure.after, by_chance.before, by_chance.after) == (0.9, 0.9, 0.125, 0.125)


def test_held_out_sections_are_shown_and_not_weighed():
    assert judge([way("choice", 9), way("control", 0)], None, None, Limits()).learned == "yes"
    assert judge([way("control", 9)], None, None, Limits()).learned == "not measured (no probes)"


def test_terms_that_any_answer_has_are_no_coverage():
    """20 key terms held after; as often would they be held by the answers about other sections."""
    assert judge([way("coverage", 9, by_luck=(0.05,) * 20)], None, None, Limits()).learned == "yes"
    lucky = judge([way("coverage", 9, by_luck=(0.45,) * 20)], None, None, Limits())
    assert lucky.learned == "no" and "45 % held, 45 % were held with the answers dealt anew" in lucky.misses[0]


def test_a_miss_tells_the_figures_that_stand_for_its_probe():
    """Key terms are held, and never right word for word: `0 % -> 0 %` stood beside the table's figures."""
    held, absent = Graded(said=True), Graded()
    terms = probe("coverage", [held, *[absent] * 19], [held, held, *[absent] * 18], by_luck=(0.05,) * 20)
    assert (
        "5 % -> 10 % held is no gain beyond chance (of 20 terms 1 gained, 0 lost)"
        in judge([terms], None, None, Limits()).misses[0]
    )


# ---- several questions about one fact


def test_phrasings_of_one_fact_turn_together_and_count_once():
    """36 of 36 questions gained, of four facts: a sign test over four things is never sure."""
    facts = tuple(name for name in "abcd" for _ in range(9))
    assert more_than_chance([False] * 36, [True] * 36)
    assert not more_than_chance([False] * 36, [True] * 36, facts)
    assert more_than_chance([False] * 12, [True] * 12, "aabbccddeeff")
    assert not more_than_chance([False, True] * 6, [True, False] * 6, "aabbccddeeff"), "each fact: one gained, one lost"


def test_claims_of_one_fact_in_nine_phrasings_make_no_parrot():
    facts = probe("generalization", [WRONG] * 9, [CLAIM] * 9, clusters=("one",) * 9)
    assert judge([facts], None, None, Limits()).learned == "not measured (9 questions about 1 fact are too few)"


def test_what_was_broken_is_as_sure_as_there_are_facts():
    """Two of four towns forgotten, each asked nine times."""
    towns = tuple(name for name in "abcd" for _ in range(9))
    lost = probe("retention", [RIGHT] * 36, [RIGHT] * 18 + [WRONG] * 18, clusters=towns)
    one_by_one = probe("retention", [RIGHT] * 36, [RIGHT] * 18 + [WRONG] * 18)
    wide, narrow = (each.result().broken for each in (lost, one_by_one))
    assert wide is not None and narrow is not None and wide.share == narrow.share == 0.5
    assert wide.low < 0.15 and wide.high > 0.85 and 0.3 < narrow.low < narrow.high < 0.7


def test_without_probes_the_loss_alone_never_says_learned():
    better, worse = LossScore(1.0, 10), LossScore(2.0, 10)
    assert judge([], worse, better, Limits()).learned == "not measured (no probes)"
    assert judge([], better, worse, Limits()).learned == "no"


def test_a_guardrail_that_is_missed_fails_the_run():
    verdict = judge([LEARNED, KEPT], None, None, Limits(), further_misses=["guardrail loops: ..."], notes=["a note"])
    assert not verdict.passed and verdict.misses == ("guardrail loops: ...",) and verdict.notes == ("a note",)


# ---- intervals


def test_the_sign_test_is_the_binomial_one():
    for n in range(1, 15):
        for k in range(n // 2 + 1):
            tail = sum(math.comb(n, j) for j in range(k + 1)) / 2**n
            assert math.isclose(sign_test(k, n), min(1.0, 2 * tail))


@pytest.mark.parametrize(
    ("count", "of", "low", "high"), [(0, 20, 0, 0.1684), (15, 148, 0.0578, 0.1617), (81, 263, 0.2527, 0.3676)]
)
def test_the_exact_interval_is_the_published_one(count: int, of: int, low: float, high: float):
    """Newcombe 1998, the same table, method 5 (Clopper and Pearson)."""
    assert exact_interval(count, of) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("limit", [0.05, 0.1, 0.25])
def test_a_limit_that_is_kept_is_hardly_ever_called_missed(limit: float):
    """At a true share as large as the limit allows, over as few questions as there are; Wilson's would be in 14 %."""

    def alarms(interval: Callable[[float, float], tuple[float, float]]) -> list[float]:
        fewest = [next((k for k in range(of) if interval(k, of)[0] > limit), of + 1) for of in range(1, 61)]
        return [chance_of(k, of, limit) for of, k in enumerate(fewest, 1)]

    assert max(alarms(exact_interval)) <= ONE_END < max(alarms(wilson))


def test_three_of_eighteen_are_no_loss_beyond_five_per_cent_and_five_are():
    """What was lost, and how many answers never stop: one way to hold a share against a limit."""
    for lost, beyond in ((3, False), (5, True)):
        after = [Graded(said=number >= lost) for number in range(18)]
        assert probe("retention", [Graded(said=True)] * 18, after).broke(0.05) is beyond
        empty = [["empty"]] * lost + [[]] * (18 - lost)
        assert bool(weigh([[]] * 18, empty, Guardrails())[0]) is beyond


@pytest.mark.parametrize(
    ("right", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]
)
def test_wilson_gives_the_published_intervals(right: int, of: int, low: float, high: float):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    found = wilson(right, of)
    assert found == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    "shares", [(0.5, 0.3, 0.1, 0.1), (0.1, 0.7, 0.1, 0.1), (0.05, 0.05, 0.0, 0.9), (0.9, 0.02, 0.02, 0.06)]
)
def test_the_interval_of_a_gain_covers_what_it_should(shares: tuple[float, float, float, float]):
    """Every outcome of 20 pairs by its multinomial probability: the true gain is inside at least 93 % of the time."""
    n, truth, covered = 20, shares[1] - shares[2], 0.0
    for both, gained, lost in itertools.product(range(n + 1), repeat=3):
        neither = n - both - gained - lost
        if neither < 0:
            continue
        counts = (both, gained, lost, neither)
        ways = math.factorial(n) / math.prod(math.factorial(count) for count in counts)
        chance = ways * math.prod(share**count for share, count in zip(shares, counts, strict=True))
        if chance > 1e-7:
            before = [True] * both + [False] * gained + [True] * lost + [False] * neither
            after = [True] * both + [True] * gained + [False] * lost + [False] * neither
            low, high = gain_interval(before, after)
            covered += chance * (low <= truth <= high)
    assert covered > 0.93


def drawn(
    pick: random.Random, *, knew: float, learns: float, said: float, luck: float
) -> tuple[list[bool], list[bool]]:
    """20 facts in nine phrasings before and after: who knows a fact says it in most of them, whatever is asked."""
    before, after = list[bool](), list[bool]()
    for _ in range(20):
        knows = pick.random() < knew
        knows_now = knows or pick.random() < learns
        for _ in range(9):
            before.append(pick.random() < (said if knows else luck))
            after.append(pick.random() < (said if knows_now else luck))
    return before, after


NINE_PHRASINGS = [str(fact) for fact in range(20) for _ in range(9)]


@pytest.mark.parametrize(
    "world",
    [
        {"knew": 0.1, "learns": 0.5, "said": 0.9, "luck": 0.05},
        {"knew": 0.0, "learns": 0.7, "said": 0.95, "luck": 0.02},
        {"knew": 0.05, "learns": 0.3, "said": 0.8, "luck": 0.1},
    ],
)
def test_intervals_cover_the_truth_where_facts_are_asked_in_nine_phrasings(world: dict[str, float]):
    """Counting questions covers it in half of the draws, counting facts in 93 to 97 of a hundred."""
    pick, draws = random.Random(0), 700
    shares = world["knew"], world["knew"] + (1 - world["knew"]) * world["learns"]
    true = [world["said"] * share + world["luck"] * (1 - share) for share in shares]
    covered = dict.fromkeys(("gain", "gain of facts", "share", "share of facts"), 0)
    for _ in range(draws):
        before, after = drawn(pick, **world)
        for name, (low, high), truth in (
            ("gain", gain_interval(before, after), true[1] - true[0]),
            ("gain of facts", gain_interval(before, after, NINE_PHRASINGS), true[1] - true[0]),
            ("share", share_interval(after), true[1]),
            ("share of facts", share_interval(after, NINE_PHRASINGS), true[1]),
        ):
            covered[name] += low <= truth <= high
    assert covered["gain"] < 0.75 * draws and covered["share"] < 0.75 * draws, covered
    for name in ("gain of facts", "share of facts"):
        assert 0.93 * draws <= covered[name] <= 0.97 * draws, covered


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042)]
)
def test_student_is_the_published_table(freedom: int, value: float):
    assert student(freedom) == pytest.approx(value, rel=2e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcdef")), min_size=1, max_size=60))
def test_clusters_hold_their_point_too(rows: list[tuple[bool, bool, str]]):
    before, after, names = zip(*rows, strict=True)
    low, high = gain_interval(before, after, names)
    assert -1 <= low <= (sum(after) - sum(before)) / len(rows) + 1e-9 and high <= 1
    assert gain_interval(after, before, names) == pytest.approx((-high, -low))
    apart = [str(number) for number in range(len(rows))]
    assert gain_interval(before, after, apart) == gain_interval(before, after)
    assert share_interval(after, apart) == share_interval(after)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_an_interval_holds_its_point_and_turns_with_the_sides(pairs: list[tuple[bool, bool]]):
    before, after = zip(*pairs, strict=True)
    low, high = gain_interval(before, after)
    assert -1 <= low <= (sum(after) - sum(before)) / len(pairs) + 1e-12 and high <= 1
    assert gain_interval(after, before) == pytest.approx((-high, -low))
    assert not (more_than_chance(before, after) and more_than_chance(after, before))


# ---- what an answer is


@pytest.mark.parametrize(
    "answer",
    [
        "Sei tudo sobre o Zig 0.14.",
        "Sim, conheço a Ana.",
        "Tenho um conhecimento profundo da versão 0.14.",
        "Fui atualizado para a versão nova.",
        "I know version 0.14 very well.",
        "Yes, I'm familiar with it.",
        "I have been trained on it.",
    ],
)
def test_claims(answer: str):
    assert claims_to_know(answer) and not declines(answer)


@pytest.mark.parametrize(
    "answer", ["Não sei tudo.", "I don't know that version.", "Faro", "1910", "Não conheço.", "I know nothing.", ""]
)
def test_no_claims(answer: str):
    assert not claims_to_know(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Não sei.",
        "Não tenho informações sobre isso.",
        "Não encontrei registo.",
        "Desconheço.",
        "I'm not sure.",
        "I have no record of it.",
        "I do not have enough information.",
        " ",
    ],
)
def test_declines(answer: str):
    assert declines(answer) and not grade(answer, "1910").made_up


@given(st.text(max_size=20), st.text(max_size=8))
def test_what_is_verbatim_holds_its_reference(answer: str, reference: str):
    if verbatim(answer, reference) and reference.strip(" .!?\n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029"):
        assert contains(answer, reference)


def test_a_reference_is_found_as_whole_words_only():
    assert contains("É de Vila Real de Santo António.", "Vila Real") and not contains("1910", "191")
    assert contains("O café", "cafe\u0301") and contains("Era médio.", "Médio.")


def test_the_old_way_is_not_found_inside_the_new_one():
    assert version_of("x.writeAllUnmanaged()", ["writeAllUnmanaged"], ["writeAll"]) == "new"
    assert version_of("writeAll and writeAllUnmanaged", ["writeAllUnmanaged"], ["writeAll"]) == "old"


def test_luck_by_hand():
    """Always "1910": right for the one question of that year, for which the others' answers would be right too."""
    assert luck(["1910"] * 4, ["1910", "1911", "1912", "Faro"]) == [1.0, 0.0, 0.0, 0.0]
    assert luck(["a", "b", "c"], ["a", "b", "c"]) == [0.0, 0.0, 0.0]
    assert luck(["sim"] * 3, ["sim"] * 3) == [1.0, 1.0, 1.0]


def test_another_phrasing_of_the_same_fact_is_no_luck():
    """Four facts in nine phrasings, all known: with the answers to other facts none would be right."""
    answers = [year for year in ("1910", "1911", "1912", "1913") for _ in range(9)]
    assert set(luck(answers, answers, answers)) == {0.0} and min(luck(answers, answers)) > 0.2


# ---- probes that nobody wrote


def recipe(folder: Path, **values: Any) -> Recipe:
    return check_recipe(
        {"name": "x", "root": str(folder), "base": "a/b", "sources": values.pop("sources", [{"path": "rows.jsonl"}])}
        | {"dataset": {"language": "pt-PT", "validation": 0.0} | values.pop("dataset", {})}
        | values
    )


def rows(file: Path, pairs: list[tuple[str, str]]) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    lines = [json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False) for prompt, answer in pairs]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def derived(folder: Path, own: Recipe) -> tuple[dict[str, Any], list[str]]:
    build_dataset(own, folder / "dataset")
    found = derive_probes(own, folder / "dataset", asking())
    return {each.role: each for each in found.probes}, found.notes


def test_recall_is_asked_on_trained_questions_with_short_answers(tmp_path: Path):
    pairs = [(f"Quantos golos marcou o jogador {n}?", f"Marcou {n}.") for n in range(30)]
    rows(
        tmp_path / "rows.jsonl",
        [*pairs, ("Conta tudo.", "palavra " * 13), ("Conheces o clube?", "Sim, sei tudo sobre o clube.")],
    )
    probes, notes = derived(tmp_path, recipe(tmp_path, evaluate={"questions": 20}))
    assert set(probes) == {"recall", "retention", "claims"}
    assert len(probes["recall"].questions) == 20 and probes["recall"].questions[0].where.startswith("rows.jsonl:")
    assert [question.prompt for question in probes["claims"].questions] == ["Conheces o clube?"]
    assert probes["retention"].name == GENERAL and probes["retention"].questions == general_questions("pt-PT")
    text = "\n".join(notes)
    assert "1 questions with answers of more than 12 words" in text and "forgetting was tested with general" in text
    assert "cannot tell learned from memorized" in text and "what it makes up was not measured" in text


def test_the_same_dataset_asks_the_same_questions(tmp_path: Path):
    pairs = [(f"Pergunta {n}?", f"Resposta {n}") for n in range(60)]
    rows(tmp_path / "rows.jsonl", pairs)
    rows(tmp_path / "turned/rows.jsonl", pairs[::-1])
    asked = []
    for folder in (tmp_path, tmp_path / "turned"):
        probes, _ = derived(folder, recipe(folder, evaluate={"questions": 10}))
        asked.append([question.prompt for question in probes["recall"].questions])
    assert asked[0] == asked[1] and len(set(asked[0])) == 10


def test_replay_held_out_and_files_held_out_become_probes(tmp_path: Path):
    for number in range(30):
        rows(tmp_path / f"own/{number}.jsonl", [(f"Onde fica {number}?", f"Vila {number}")])
        rows(tmp_path / f"general/{number}.jsonl", [(f"Quanto é {number} mais um?", str(number + 1))])
    own = recipe(
        tmp_path,
        sources=[{"path": "own"}, {"path": "general", "replay": True, "validation": 0.5}],
        dataset={"validation": 0.3, "split_by": "file"},
    )
    probes, notes = derived(tmp_path, own)
    train = (tmp_path / "dataset/train.jsonl").read_text(encoding="utf-8")
    assert probes["retention"].name == "replay held out" and len(probes["unknown"].questions) > 3
    for role in ("retention", "unknown"):
        assert all(question.prompt not in train for question in probes[role].questions)
    assert all(question.reference.startswith("Vila") for question in probes["unknown"].questions)
    assert not any("forgetting" in note or "makes up" in note for note in notes)


def test_phrasings_held_out_become_probes_by_themselves(tmp_path: Path):
    for number in range(20):
        town = "Vila " + "ABCDEFGHIJKLMNOPQRST"[number]
        (tmp_path / "docs").mkdir(exist_ok=True)
        text = f"# Nome {number}: Título {number}\n\n**Nascimento:** {1900 + number} ({town})\n\nTexto {number}.\n"
        (tmp_path / f"docs/{number}.md").write_text(text, encoding="utf-8")
    own = recipe(
        tmp_path,
        sources=[{"path": "docs"}],
        dataset={
            "questions": {"make": ["facts"], "phrasings": 3},
            "hold_out_phrasings": 2,
            "split_by": "file",
            "validation": 0.2,
        },
    )
    probes, notes = derived(tmp_path, own)
    train = {
        json.loads(line)["messages"][0]["content"]
        for line in (tmp_path / "dataset/train.jsonl").open()
        if "messages" in line
    }
    assert {question.prompt for question in probes["recall"].questions} <= train
    unseen = {question.prompt for question in probes["generalization"].questions}
    assert len(unseen) == 2 * len(probes["recall"].questions) > 0 and not unseen & train
    assert not any("by heart" in note for note in notes)


def test_the_recipe_s_own_probes_and_zero_questions_are_respected(tmp_path: Path):
    rows(tmp_path / "rows.jsonl", [(f"Pergunta {n}?", f"Resposta {n}") for n in range(10)])
    named = [{"path": "rows.jsonl", "role": role} for role in ("recall", "retention", "unknown", "claims")]
    assert derived(tmp_path, recipe(tmp_path, evaluate={"probes": named}))[0] == {}
    assert derived(tmp_path, recipe(tmp_path, evaluate={"questions": 0})) == ({}, [])
    silent = derive_probes(recipe(tmp_path), tmp_path / "dataset", asking(template=None))
    assert silent.probes == [] and "no chat template" in silent.notes[0]


def test_a_model_from_scratch_has_nothing_to_forget(tmp_path: Path):
    rows(tmp_path / "rows.jsonl", [(f"Pergunta {n}?", f"Resposta {n}") for n in range(10)])
    own = recipe(tmp_path, train={"method": "scratch"}, base=None)
    assert set(derived(tmp_path, own)[0]) == {"recall"}


# ---- version probes


def versions(folder: Path, *lines: str) -> Any:
    (folder / "zig.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "rows.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    return read_probes(recipe(folder, evaluate={"probes": [{"path": "zig.jsonl", "role": "versions"}]}))


def test_version_probes_are_read(tmp_path: Path):
    row = {"prompt": "A list in Zig 0.14?", "answer": ["ArrayListUnmanaged"], "outdated": ["ArrayList(u8).init"]}
    (question,) = versions(tmp_path, json.dumps(row), "")[0].questions
    assert question.where.endswith("zig.jsonl:1") and question.reference == "ArrayListUnmanaged"
    assert question.grade("std.ArrayListUnmanaged(u8)").version == "new"
    assert question.grade("var a = std.ArrayList(u8).init(g);").version == "old"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not JSON"),
        ('{"prompt": "a", "answer": ["b"]}', "needs prompt, answer and outdated"),
        ('{"prompt": "a", "answer": "b", "outdated": ["c"]}', "lists of texts"),
        ('{"prompt": "a", "answer": [], "outdated": ["c"]}', "lists of texts"),
        ('{"prompt": "a", "answer": ["b"], "outdated": ["b"]}', "both the new and the old"),
    ],
)
def test_broken_version_probes_name_their_line(tmp_path: Path, line: str, what: str):
    with pytest.raises(DataError, match=what) as refused:
        versions(tmp_path, '{"prompt": "a", "answer": ["b"], "outdated": ["c"]}', line)
    assert refused.value.problems[0].where.endswith("zig.jsonl:2")

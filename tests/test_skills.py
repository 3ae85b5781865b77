"""Afina's own questions about skills: each item beside its example and what does not do as asked; the guard by hand."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import write_run
from tiny import make_base, make_recipe

from afina.evaluate.grade import Graded
from afina.evaluate.intervals import sign_test, smallest_loss
from afina.evaluate.scores import Scores
from afina.evaluate.skills import FIRST, ROOM, RULES, SkillItem, ask_until, in_turn, needed, skill_items
from afina.evaluate.verdict import ProbeScore, judge
from afina.model.generate.generate_torch import Answer
from afina.recipe import SKILL_QUESTIONS, SKILL_TOKENS, Limits, check_recipe
from afina.report.page import write_report
from afina.run import Run, no_progress
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.describe import describe_scores
from afina.walk.skills import ask_base, measure_skills

ITEMS = skill_items()
RAMBLE = {
    "pt": "Bem, isso depende de muitas coisas que se podem dizer e que toda a gente já ouviu em casa. Há quem pense de "
    "uma maneira, há quem pense de outra, e com o tempo tudo muda. Quando era pequeno ouvia as pessoas mais velhas a "
    "falar à porta, e cada uma contava a sua história como se fosse a única. Talvez seja isso que se quer saber aqui, "
    "talvez outra coisa, e por isso é melhor ir devagar e ver como tudo se passa. E amanhã? Amanhã logo se vê, como",
    "en": "Well, that depends on many things which can be said and which everyone has heard at home. Some think of it "
    "in one way and others in another, and with time all of it changes. When I was small I heard old people talk at "
    "the door, and each of them told a story as if it were the only one. Perhaps this is what is meant here, perhaps "
    "it is something else, so it may be better to go slowly and look at how it goes. And tomorrow? We shall see, as",
}
"""Fluent, and as nothing asks for it."""


def graded(item: SkillItem, text: str, *, stopped: bool = True) -> bool:
    return item.grade(Answer(text, len(text.split()), stopped)).said


# ---- the items


def test_there_are_at_least_120_items_in_each_language_and_some_of_every_skill():
    counts = Counter(tuple(each.split("/")[:2]) for each in ITEMS)
    assert set(counts) == {(language, skill) for language in ("pt", "en") for skill in ROOM}
    assert all(count >= 10 for count in counts.values())
    for language in ("pt", "en"):
        assert sum(count for (spoken, _), count in counts.items() if spoken == language) >= 120
    assert len(ITEMS) == SKILL_QUESTIONS and sum(item.room for item in ITEMS.values()) <= SKILL_TOKENS * len(ITEMS)


@pytest.mark.parametrize("skill", ROOM)
def test_each_example_does_as_asked_and_what_was_not_asked_does_not(skill: str):
    for item in ITEMS.values():
        if item.skill != skill:
            continue
        assert item.example == item.example.strip() and graded(item, item.example), (item.id, item.example)
        assert graded(item, f"<think>Ora...</think>\n{item.example}")
        wanted = {arguments[0] for name, *arguments in item.rules if name == "language"}
        wrongs = [text for spoken, text in RAMBLE.items() if spoken not in wanted]
        for wrong in ("", "...", *wrongs):
            assert not graded(item, wrong), (item.id, wrong)


def test_every_rule_is_used_and_known_and_no_item_stands_twice():
    used = {name for item in ITEMS.values() for name, *_ in item.rules}
    assert used == set(RULES)
    asked = [(item.system, item.turns) for item in ITEMS.values()]
    assert len(set(asked)) == len(asked) and all(len(item.turns) % 2 for item in ITEMS.values())


def test_examples_are_short_enough_for_their_room():
    """A token is three characters or more of these texts; the longest answers are JSON."""
    assert all(len(item.example) <= 3 * item.room for item in ITEMS.values())


def test_the_question_again_and_circles_are_no_answer():
    """Seen of a small base: "O que é o fogo?" in fewer than twenty words, "a cidade de São João, a cidade de ..."."""
    fire, city = ITEMS["pt/length/8"], ITEMS["en/language/11"]
    assert not graded(fire, fire.turns[0]) and not graded(fire, "O que é o fogo?")
    assert not graded(
        city, "Há uma rua que não é da cidade, e é a cidade de São João. " + "É a cidade de São João. " * 6
    )


def test_who_never_stops_does_not_know_how_to_stop():
    item = ITEMS["pt/stopping/1"]
    assert graded(item, "ok") and not graded(item, "ok", stopped=False)
    assert graded(ITEMS["pt/copying/1"], ITEMS["pt/copying/1"].example, stopped=False)


@given(st.text(max_size=200))
def test_any_answer_is_judged_and_white_space_around_it_tells_nothing(text: str):
    for item in list(ITEMS.values())[::7]:
        assert graded(item, text) is graded(item, f"\n {text}\n")


def test_a_system_text_stands_before_the_question_where_the_template_has_no_place_for_it():
    item = next(item for item in ITEMS.values() if item.system)
    assert [turn["role"] for turn in item.question(takes_system=True).messages] == ["system", "user"]
    (only,) = item.question(takes_system=False).messages
    assert only["content"].startswith(item.system) and only["content"].endswith(item.turns[0])
    turns = ITEMS["en/several turns/9"].question(takes_system=True).messages
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]


# ---- how many are asked


def asked(right: Sequence[bool], enough: int) -> int:
    """How many items are asked of a base that does those as asked."""
    items = in_turn("pt")

    def ask(portion: Sequence[SkillItem]) -> list[Answer]:
        return [Answer(item.example if right[items.index(item)] else "", 1, True) for item in portion]

    return len(ask_until(items, enough, ask))


def test_a_base_without_skills_is_asked_little_and_one_with_many_as_many_as_the_limit_needs():
    assert asked([False] * len(ITEMS), 120) == FIRST
    assert asked([True] * len(ITEMS), 120) == 120 and asked([True] * len(ITEMS), 30) == 36
    half = [number % 2 == 0 for number in range(len(ITEMS))]
    assert asked(half, 120) == 240 and asked(half, 1000) == len(ITEMS)


def test_what_is_needed_is_what_can_be_told():
    """Six that are lost and none gained is the fewest beyond chance."""
    assert sign_test(0, 6) < 0.05 < sign_test(0, 5)
    for limit in (0.01, 0.05, 0.1, 0.34):
        assert smallest_loss(needed(limit)) <= limit < smallest_loss(needed(limit) - 1)


def test_the_recipe_says_who_is_asked(tmp_path: Path):
    for name in ("rows", "old"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n", encoding="utf-8")

    def most(**values: object) -> int:
        plain = {"name": "x", "root": str(tmp_path), "base": "a/b", "sources": [{"path": "rows.jsonl"}]}
        return check_recipe(plain | values).most_skills

    probe = {"path": "old.jsonl", "role": "retention"}
    assert most() == SKILL_QUESTIONS and most(evaluate={"skills": 40}) == 40 and most(evaluate={"skills": 0}) == 0
    assert most(evaluate={"probes": [probe]}) == most(evaluate={"questions": 0}) == 0
    assert most(sources=[{"path": "rows.jsonl"}, {"path": "old.jsonl", "replay": True}]) == 0
    assert most(evaluate={"probes": [probe], "skills": 24}) == 24
    assert most(base=None, train={"method": "scratch"}) == 0


# ---- the guard


def score(counts: dict[str, tuple[int, int, int, int]]) -> ProbeScore:
    """By skill: kept, lost, gained, neither."""
    right, wrong = Graded(verbatim=True, said=True), Graded()
    pairs = [(right, right), (right, wrong), (wrong, right), (wrong, wrong)]
    rows = [
        (skill, *pair) for skill, many in counts.items() for pair, n in zip(pairs, many, strict=True) for _ in range(n)
    ]
    names, before, after = zip(*rows, strict=True)
    return ProbeScore("skills", "skills", before, after, groups=names)


def broke(counts: dict[str, tuple[int, int, int, int]], limit: float = 0.05) -> str:
    return judge([score(counts)], None, None, Limits(broke_max=limit)).broke


def test_skills_that_are_lost_are_named_the_worst_first():
    assert broke({"JSON": (1, 7, 0, 2), "lists": (2, 4, 1, 4), "format": (8, 0, 0, 2)}) == (
        "50 % of its skills (JSON 7 of 8, lists 4 of 6)"
    )


def test_answers_that_turn_both_ways_are_no_loss():
    """Eight lost and eight gained of forty: a fifth of what the base did, and nothing was broken."""
    assert broke({"JSON": (6, 4, 4, 6), "lists": (6, 4, 4, 6)}) == "nothing"


def test_a_loss_is_one_beyond_chance_and_above_the_limit():
    assert broke({"JSON": (10, 5, 0, 5)}) == "nothing" and broke({"JSON": (10, 6, 0, 5)}) != "nothing"
    assert broke({"JSON": (100, 6, 0, 5)}, limit=0.1) == "nothing"


def test_a_skill_that_is_lost_is_seen_behind_others_that_were_gained():
    """Nine lost in one skill (p = 0.004 < 0.05 / 2) while another gained eight: over both nothing is sure."""
    counts = {"JSON": (0, 9, 0, 2), "one word": (3, 0, 8, 0)}
    assert score(counts).result().lost_groups() == ["JSON"]
    assert broke(counts) == "75 % of its skills (JSON 9 of 9)"


def test_who_says_one_word_to_everything_has_lost_what_it_could():
    """Measured: after a rate of 5e-3 ten of ten were lost and four gained, by answers of one word (p = 0.18)."""
    counts = {"JSON": (0, 1, 0, 4), "lists": (0, 4, 0, 6), "language": (0, 5, 0, 5), "one word": (0, 0, 4, 6)}
    assert score(counts).result().lost_groups() == [] and sign_test(4, 14) > 0.05
    assert broke(counts).startswith("100 % of its skills (")


def test_a_base_with_too_few_skills_has_none_to_lose():
    verdict = judge([score({"JSON": (0, 5, 0, 30)})], None, None, Limits())
    assert verdict.broke == "not measured (the base knew too little of 35 questions)" and verdict.passed


def test_old_questions_and_skills_stand_side_by_side():
    known = Graded(verbatim=True, said=True)
    capitals = ProbeScore("capitals", "retention", (known,) * 10, (known,) * 2 + (Graded(),) * 8)
    verdict = judge([capitals, score({"JSON": (1, 7, 0, 2)})], None, None, Limits())
    assert verdict.broke == "80 % of what it knew (capitals), 87.5 % of its skills (JSON 7 of 8)"
    assert "skills: of 8 that the base does as asked 7 are lost, and 0 gained (JSON 7 of 8)" in verdict.misses[0]
    (finding,) = [each for each in verdict.findings if each.startswith("skills")]
    assert "a net loss of less than 75 % cannot be told from chance" in finding


def test_terminal_and_report_show_each_skill(tmp_path: Path):
    found = score({"JSON": (1, 7, 0, 2), "lists": (5, 0, 1, 5)})
    scores = Scores(verdict=judge([found], None, None, Limits()), probes=(found.result(),))
    folder = write_run(tmp_path, scores=scores.as_json(), predictions=None)
    lines = [line.split() for line in describe_scores(folder).splitlines()]
    assert ["JSON", "10", "8", "1"] in lines and ["lists", "11", "5", "6"] in lines
    page = " ".join(write_report(folder).read_text(encoding="utf-8").split())
    assert "Right before, wrong after" in page and "JSON 7 of 8" in page


# ---- in the walk


@pytest.mark.parametrize("able", [True, False])
def test_the_base_is_asked_before_training_and_the_result_the_same(tmp_path: Path, monkeypatch, able: bool):
    """The base does all but lists; what was trained has lost JSON. Of a base that can do nothing nothing is judged."""
    base = make_base(tmp_path / "base", max_position_embeddings=1024)
    recipe = make_recipe(base, evaluate={"skills": 60}, dataset={"language": "en"})
    said: list[str] = []
    with Run.open(tmp_path / "runs/x", recipe, said.append) as run:
        context = Context(run, lambda _: contextlib.nullcontext(no_progress))
        chat = renderer(context)
        of = {tuple(chat.prompt(item.question(takes_system=True).messages)): item for item in ITEMS.values()}
        lost: set[str] = set()

        def generate(model, chat, prompts, *, max_new_tokens, kept, say):
            items = [of[tuple(prompt)] for prompt in prompts]
            assert max_new_tokens == [item.room for item in items]
            right = [able and item.skill not in {"lists", *lost} for item in items]
            return [Answer(item.example if good else "", 1, True) for item, good in zip(items, right, strict=True)]

        monkeypatch.setattr("afina.model.generate.generate_torch.generate", generate)
        counts = ask_base(context)
        lost.add("JSON")
        found, notes = measure_skills(context, lambda: contextlib.nullcontext(None), None)
    told = "\n".join(said)
    if not able:
        assert counts["asked"] == FIRST and found is None
        assert notes == ["skills were not judged: the base does 0 of the 24 that it was asked as asked"]
        assert "forgetting of skills will not be judged" in told
        return
    assert (counts["asked"], counts["passed"], counts["skills"]["lists"]) == (60, 55, [0, 5])
    assert "a net loss of less than 10.9 % cannot be told from chance; the limit of 5 % would need 120" in told
    assert found is not None and (found.known, found.lost, found.gained) == (55, 5, 0)
    assert judge([found], None, None, Limits()).broke == "nothing", "five of fifty-five are not beyond chance"

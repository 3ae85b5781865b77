"""Facts that steer and facts that judge: parted by a hash, alike in every probe."""

from __future__ import annotations

import hashlib

from afina.evaluate.choice import Choice
from afina.evaluate.halves import FEWEST, about_of, cluster_of, half_of, split_probes
from afina.evaluate.probes import ProbeSet, Question

FACTS = [f"fact {number}" for number in range(40)]


def question(fact: str, words: str = "Where?") -> Question:
    return Question(({"role": "user", "content": f"{words} {fact}"},), "Faro", "probe.jsonl:1", cluster=fact)


def probe(facts: list[str], *, name: str = "p", role: str = "generalization", words: str = "Where?") -> ProbeSet:
    return ProbeSet(name, role, tuple(question(fact, words) for fact in facts for _ in range(2)))


def test_a_fact_is_parted_by_the_last_bit_of_its_hash():
    """By hand: `printf Ana | sha256sum` ends with an even digit, `printf Eva | sha256sum` with an odd one."""
    for fact in [*FACTS, "Ana", "Eva", "Olhão"]:
        odd = int(hashlib.sha256(fact.encode()).hexdigest()[-1], 16) % 2
        assert half_of(fact) == ("judge" if odd else "steer")
    assert (half_of("Ana"), half_of("Eva")) == ("steer", "judge")


def test_every_question_is_on_one_side_and_keeps_its_cluster():
    whole = probe(FACTS)
    halves = split_probes([whole])
    (steer,), (judge,) = halves.steer, halves.judge
    parted = [*steer.questions, *judge.questions]
    assert sorted(map(str, parted)) == sorted(map(str, whole.questions)), "each once, unchanged"
    assert not {each.cluster for each in steer.questions} & {each.cluster for each in judge.questions}
    assert (steer.name, steer.role) == (judge.name, judge.role) == (whole.name, whole.role)
    assert {half_of(each.cluster) for each in judge.questions} == {"judge"}
    assert halves.notes == ()


def test_a_fact_is_on_the_same_side_in_every_probe():
    halves = split_probes([probe(FACTS), probe(FACTS[:30], name="q", role="recall", words="Which?")])
    steering = [{each.cluster for each in part.questions} for part in halves.steer]
    judging = [{each.cluster for each in part.questions} for part in halves.judge]
    assert all(steering) and all(judging)
    assert not (steering[0] | steering[1]) & (judging[0] | judging[1])


def test_questions_about_nothing_in_common_stand_for_themselves():
    alone = [Question(({"role": "user", "content": f"Q{n}?"},), "A", "p:1") for n in range(40)]
    halves = split_probes([ProbeSet("p", "retention", tuple(alone))])
    assert len(halves.steer[0].questions) >= FEWEST <= len(halves.judge[0].questions)
    assert {half_of(cluster_of(each)) for each in halves.steer[0].questions} == {"steer"}
    two_turns = Question(({"role": "user", "content": "a"}, {"role": "user", "content": "b"}), "A", "p:1")
    assert cluster_of(two_turns) == "a\nb"


def test_a_probe_with_too_few_facts_on_a_side_judges_whole_and_is_told():
    steering, judging = ([fact for fact in FACTS if half_of(fact) == half] for half in ("steer", "judge"))
    enough = probe(steering[:FEWEST] + judging[:FEWEST], name="enough")
    few = probe(steering[: FEWEST - 1] + judging[:FEWEST], name="few")
    halves = split_probes([enough, few])
    assert [each.name for each in halves.steer] == ["enough"]
    assert [each.name for each in halves.judge] == ["enough", "few"]
    assert {each.cluster for each in halves.judge[1].questions} == {*judging[:FEWEST]}
    (note,) = halves.notes
    assert note.startswith("few: its 11 facts would be 5 that steer and 6 that judge")
    assert note.endswith("none steers, 5 that steer in another probe are not asked here, and the others judge")
    alone = split_probes([few])
    assert alone.judge == (few,) and alone.notes[0].endswith("all of them judge, none steers")


def test_no_fact_steers_in_one_probe_and_judges_in_another():
    """Whatever probes there are: large ones, small ones, of facts that name themselves or not."""
    unnamed = tuple(
        Question(({"role": "user", "content": f"Onde nasceu {fact.title()}?"},), "Faro", "p:1") for fact in FACTS
    )
    known = tuple(
        Question(({"role": "user", "content": f"De que terra é {fact.title()}?"},), "Faro", "p:1", cluster=fact)
        for fact in FACTS
    )
    probes = [
        ProbeSet("named", "generalization", known),
        ProbeSet("unnamed", "recall", unnamed),
        ProbeSet("few", "claims", known[:4] + unnamed[4:8]),
        probe(FACTS[30:34], name="others", role="retention"),
    ]
    about, halves = about_of(probes), split_probes(probes)
    sides = [{about(each) for part in half for each in part.questions} for half in (halves.steer, halves.judge)]
    assert sides[0] | sides[1] == {*FACTS} and not sides[0] & sides[1]
    assert [each.name for each in halves.steer] == ["named", "unnamed"], "the same facts, by the names in them"


def test_the_same_fact_in_other_words_is_on_the_same_side_without_a_name():
    """Of rows without `fact`: the names in a question and its answer are what it is about."""
    first, second = (
        [
            Question(({"role": "user", "content": words.format(name)},), f"Faro {n % 5}", "p:1")
            for n, name in enumerate(f"Bento{n:02}" for n in range(40))
        ]
        for words in ("Onde nasceu {}?", "De que terra é {}, o jogador?")
    )
    assert [*map(cluster_of, first)] == [*map(cluster_of, second)] and len({*map(cluster_of, first)}) == 40
    halves = split_probes([ProbeSet("a", "recall", tuple(first)), ProbeSet("b", "generalization", tuple(second))])
    assert [len(part.questions) for part in halves.steer] == [len(halves.steer[0].questions)] * 2


def test_choices_are_parted_by_their_section():
    choices = tuple(
        Choice(f"Which? {number}", ("a", "b"), ("a", "b"), "prose.jsonl:1", f"section {number // 2}")
        for number in range(60)
    )
    halves = split_probes([ProbeSet("c", "choice", choices=choices)])
    sides = [{each.cluster for each in part[0].choices} for part in (halves.steer, halves.judge)]
    assert len(sides[0]) + len(sides[1]) == 30 and not sides[0] & sides[1]
    three = split_probes([ProbeSet("c", "choice", choices=choices[:6])])
    assert three.steer == () and "its 3 sections" in three.notes[0]

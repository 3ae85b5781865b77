"""The rival of a training: would the documents in the prompt have done it? On the demo's world, and over tiny bases."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_choice import CPU, cloze, free, recipe, write_dataset
from tiny import NAMES, TOWNS, make_base

from afina.demo.world import BIOGRAPHIES, QUESTIONS, Player, make_players, probe_rows
from afina.evaluate.derive import CHOICE, COVERAGE, derive_probes
from afina.evaluate.evaluate import HeldOut, MeasuredBeside, evaluate
from afina.evaluate.grade import grade
from afina.evaluate.probes import ProbeSet, Question
from afina.evaluate.retrieval import AskedWith, DocumentPassage, Search, compare, put_passages, read_passages
from afina.evaluate.retrieval_answers import AskingBase, _answers, ask_with_passages
from afina.evaluate.scores import RetrievalProbe, read_scores
from afina.evaluate.verdict import ProbeScore
from afina.model.generate.generate_torch import Answer
from afina.model.load_torch import load_base
from afina.recipe import Chat, Recipe
from afina.report.compare import compare_runs
from afina.report.page import write_report
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.walk.describe import describe_scores

PLAYERS = make_players(20)
PASSAGES = [DocumentPassage(f"{player.name}.txt", player.fill(kind)) for player in PLAYERS for kind in BIOGRAPHIES]


def unseen(players: Sequence[Player] = PLAYERS) -> ProbeSet:
    """Questions in phrasings 3 to 5, which name the player."""
    rows = probe_rows(players, (2, 3, 4))
    questions = [
        Question(({"role": "user", "content": row["prompt"]},), row["completion"], "a:1", cluster=row["fact"])
        for row in rows
    ]
    return ProbeSet("unseen", "generalization", tuple(questions))


def reads(prompt: str) -> str:
    """A base that can read: what a passage of the prompt says of the player that the question names."""
    *passages, question = prompt.split("\n\n")
    for fact, phrasings in QUESTIONS.items():
        for phrasing in phrasings:
            asked = re.search(re.escape(phrasing).replace(r"\{name\}", "(?P<name>.+?)") + "$", question)
            for kind in BIOGRAPHIES if asked else ():
                pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(kind))
                for passage in passages:
                    told = re.fullmatch(pattern, passage)
                    if told and asked and told["name"] == asked["name"].removeprefix("Pergunta: "):
                        return told[fact]
    return "Não sei."


def rival(probe: ProbeSet, reader: Callable[[str], str], learned: float, passages: int = 3) -> RetrievalProbe:
    """The probe with passages, beside a training that gave so many of the facts in all phrasings."""
    asked = put_passages(
        probe, Search(PASSAGES), passages=passages, most=1000, language="pt-PT", fits=lambda item: True
    )
    flags = [(grade(reader(each.item.prompt), probe.questions[each.number].reference).said,) for each in asked.found]
    facts = list(dict.fromkeys(question.cluster for question in probe.questions))
    knows = set(facts[: round(learned * len(facts))])
    after = tuple(
        grade(question.reference if question.cluster in knows else "?", question.reference)
        for question in probe.questions
    )
    before = tuple(grade("?", question.reference) for question in probe.questions)
    clusters = tuple(question.cluster for question in probe.questions)
    return compare(asked, flags, [], ProbeScore("unseen", "generalization", before, after, (), clusters))


# ---- the demo's world


def test_where_the_question_names_the_player_passages_win_or_tie_and_it_is_said() -> None:
    won = rival(unseen(), reads, learned=0.7)
    assert (won.n, won.clusters, won.holding, won.retrieved, won.base) == (240, 80, 1.0, 1.0, 0.0)
    assert won.trained == 0.7 and won.better == "retrieval" and won.ahead.low > 0.1
    assert won.conclusion() == (
        "unseen: 100 % with passages in the prompt, 70 % by training: do not train for this, the passages do it and "
        "nothing is forgotten"
    )
    tied = rival(unseen(), reads, learned=1.0)
    assert tied.better == "neither" and tied.helps
    assert tied.conclusion().endswith("no difference beyond chance: passages do it too, and nothing is forgotten")


def test_where_it_names_nobody_the_trained_model_is_ahead_and_why_is_said() -> None:
    nameless = [
        replace(question, messages=({"role": "user", "content": "De que terra é ele?"},))
        for question in unseen().questions
        if question.cluster.endswith("city")
    ]
    lost = rival(ProbeSet("nameless", "generalization", tuple(nameless)), reads, learned=0.8)
    assert lost.better == "training" and not lost.helps and lost.holding < 0.5
    assert "the trained model is ahead; the search found " in lost.conclusion()


def test_a_base_that_cannot_read_gains_nothing_by_passages() -> None:
    lost = rival(unseen(), lambda prompt: "Não sei.", learned=0.0)
    assert lost.holding == 1.0 and lost.better == "neither" and not lost.helps
    assert lost.conclusion() == "unseen: 0 % with passages in the prompt, 0 % by training, no difference beyond chance"


# ---- passages and prompts


def test_passages_are_what_the_sources_say_each_once(tmp_path: Path) -> None:
    turns = ({"role": "user", "content": "Onde?"}, {"role": "assistant", "content": "Em Faro."})
    rows = [
        Example(text="Ana é de Faro.", path="a.md", heading="Liga > Ana"),
        Example(text="Ana é de Faro.", path="b.md"),
        Example(messages=turns, path="rows.jsonl"),
        Example(messages=(*turns[:1], {"role": "assistant", "content": "Ana."}), path="a.md", made="sections"),
        Example(text="Outra coisa.", path="c.md", replay=True),
        Example(text="***", path="d.md"),
    ]
    for name, part in (("train", rows), ("validation", [Example(text="Rui é de Lagos.", path="e.md")])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row.as_json()) + "\n" for row in part), "utf-8")
    assert read_passages(tmp_path) == [
        DocumentPassage("a.md > Liga > Ana", "Ana é de Faro."),
        DocumentPassage("rows.jsonl", "Onde?\nEm Faro."),
        DocumentPassage("e.md", "Rui é de Lagos."),
    ]


def asked_about(*items: Question) -> ProbeSet:
    return ProbeSet("p", "coverage" if items[0].terms else "recall", items)


def question(prompt: str, reference: str = "Faro", **values: Any) -> Question:
    return Question(({"role": "user", "content": prompt},), reference, "a:1", **values)


SHORT = [
    DocumentPassage("a", "Ana é de Faro."),
    DocumentPassage("b", "Ana foi a Lagos."),
    DocumentPassage("c", "Ana voltou."),
]


def test_what_has_no_room_is_counted_and_never_cut() -> None:
    """Room for two short passages of three; then for none; a question that shares no word is asked without any."""

    def put(room: int, *prompts: str) -> Any:
        probe = asked_about(*map(question, prompts))
        fits = lambda item: len(item.prompt) <= room  # noqa: E731
        return put_passages(probe, Search(SHORT), passages=3, most=9, language="pt", fits=fits)

    both = put(100, "De onde é Ana?")
    (one,) = both.found
    assert one.item.prompt.count("Ana") == 3 and (both.fewer, both.left_out) == (1, 0) and one.holding == (True,)
    none = put(40, "De onde é Ana?", "Quem?")
    assert [each.item.prompt for each in none.found] == ["Quem?"] and (none.fewer, none.left_out) == (0, 1)


def test_of_many_questions_some_are_asked_from_first_to_last() -> None:
    probe = asked_about(*(question(f"Ana {n}?") for n in range(10)))
    asked = put_passages(probe, Search(SHORT), passages=1, most=4, language="pt", fits=lambda item: True)
    assert [each.number for each in asked.found] == [0, 2, 5, 7]


def test_the_section_that_is_asked_about_stands_beside_what_was_found() -> None:
    probe = asked_about(question("Ana foi onde?", terms=("Lagos", "1990"), cluster="b"))
    asked = put_passages(probe, Search(SHORT), passages=1, most=9, language="en", fits=lambda item: True)
    (known,) = asked.section
    assert known.item.prompt.startswith("Answer from these passages.\n\nAna foi a Lagos.\n\nQuestion: ")
    assert known.holding == (True, False)


def test_key_terms_are_compared_at_their_own_places() -> None:
    """Of two questions with two terms and one, the second is asked with passages."""
    questions = question("a", terms=("x", "y"), cluster="s"), question("b", terms=("z",), cluster="t")
    score = ProbeScore(
        "p",
        "coverage",
        tuple(grade(said, "k") for said in ("k", "k", "-")),
        tuple(grade(said, "k") for said in ("k", "-", "k")),
        (),
        ("s", "s", "t"),
    )
    asked = put_passages(asked_about(*questions), Search(SHORT), passages=1, most=9, language="en", fits=bool)
    second = replace(asked, found=(AskedWith(1, questions[1], (True,)),))
    found = compare(second, [(False,)], [], score)
    assert (found.n, found.base, found.trained, found.retrieved, found.holding) == (1, 0.0, 1.0, 0.0, 1.0)
    first = replace(asked, found=(AskedWith(0, questions[0], (True, False)),))
    found = compare(first, [(True, True)], [(True, False)], score)
    assert (found.n, found.clusters, found.base, found.trained, found.retrieved, found.section) == (
        2,
        1,
        1,
        0.5,
        1,
        0.5,
    )


# ---- the whole evaluation


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, as the evaluation of a tiny base writes it: the same weights before and after."""
    folder = tmp_path_factory.mktemp("retrieval")
    base = make_base(folder / "base", max_position_embeddings=512)
    chat = Renderer(load_tokenizer(str(base), Chat()), Chat())
    pairs = list(zip(NAMES, TOWNS, strict=True))
    questions = [cloze(f"a.md > {name}", town, name) for name, town in pairs]
    questions += [free(f"a.md > {name}", town) for name, town in pairs]
    dataset = write_dataset(folder / "dataset", questions)
    rows = [Example(text=f"{name} é de {town}.", path="a.md", heading=name) for name, town in pairs]
    (dataset / "train.jsonl").write_text("".join(json.dumps(row.as_json()) + "\n" for row in rows), "utf-8")
    own: Recipe = recipe(
        base,
        train={"max_length": 300},
        evaluate={"samples": 0, "max_new_tokens": 4, "retrieval": {"passages": 2, "questions": 5}},
    )
    model = load_base(base, own, CPU).eval()
    opened = lambda: contextlib.nullcontext(model)  # noqa: E731
    probes = [probe for probe in derive_probes(own, dataset, chat).probes if probe.role in ("choice", "coverage")]
    found = ask_with_passages((opened, opened), probes, read_passages(dataset), AskingBase(chat, own, 512, 0))
    beside = MeasuredBeside(dataset=dataset, retrieval=found)
    evaluate((opened, opened), chat, own, HeldOut([], []), probes, folder, beside=beside)
    return folder


def test_scores_hold_the_rival_and_read_back_the_same(measured: Path) -> None:
    scores = read_scores(measured)
    assert scores is not None and scores.retrieval is not None
    found = scores.retrieval
    assert {probe.name: (probe.n, probe.clusters, probe.better) for probe in found.probes} == {
        CHOICE: (5, 5, "neither"),
        COVERAGE: (5, 5, "neither"),
    }
    assert found.searched == 6 and found.passages == 2 and found.tokens[1] > found.tokens[0] + 10
    assert found.seconds is not None and min(found.seconds) > 0
    assert all(probe.section is not None and probe.holding > 0.5 for probe in found.probes)
    stored = json.loads((measured / "scores.json").read_text("utf-8"))["retrieval"]
    assert stored == json.loads(json.dumps(found.as_json())) and len(stored["probes"]) == 2
    assert scores.verdict is not None and found.probes[0].conclusion() in scores.verdict.notes


def test_terminal_page_and_comparison_show_it(measured: Path) -> None:
    shown = describe_scores(measured)
    assert f"{CHOICE}" in shown and "2 of 6 passages in each prompt, found by BM25: " in shown
    page = write_report(measured).read_text("utf-8")
    assert "Documents in the prompt" in page and "2 of 6 passages in each prompt" in page
    names = {metric.name: metric for metric in compare_runs([measured, measured]).metrics}
    assert names[f"passages in the prompt, {COVERAGE}: right"].unit == "share"
    assert names["passages in the prompt: tokens to read"].values[0] == read_scores(measured).retrieval.tokens[1]  # type: ignore[union-attr]


def test_capitals_count_with_passages_as_they_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that folds case cannot write the new version's way: the trained model was marked in any case, and the
    base with passages was not, and lost."""
    monkeypatch.setattr(
        "afina.evaluate.retrieval_answers.ask", lambda *_, **__: [Answer("var a: std.arraylistunmanaged(u8);", 9, True)]
    )
    turns = ({"role": "user", "content": "Qual?"},)
    asked = [
        AskedWith(0, Question(turns, "ArrayListUnmanaged", "", new=("ArrayListUnmanaged",), old=("ArrayList",)), ())
    ]
    for normalize, right in ((str.lower, True), (str.strip, False)):
        tokenizer = SimpleNamespace(normalizer=SimpleNamespace(normalize_str=normalize))
        asking: Any = SimpleNamespace(
            **dict.fromkeys(("kept", "progress", "say")),
            renderer=SimpleNamespace(tokenizer=tokenizer),
            recipe=SimpleNamespace(evaluate=SimpleNamespace(max_new_tokens=9)),
        )
        (found,) = _answers(None, asked, asking)
        assert (found.flags, found.stored["base_counts"]) == ((right,), [right])

"""Choosing the true sentence among eight, key terms in free answers, and what the questions of a dataset can tell."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import NAMES as PEOPLE
from tiny import TOWNS, make_base, make_recipe

from afina.demo.world import make_players
from afina.errors import DataError
from afina.evaluate import choice_ranks
from afina.evaluate.choice import BY_CHANCE, Choice, Ranked, choice_of
from afina.evaluate.choice_ranks import NEUTRAL, longest_row, rank_choices
from afina.evaluate.coverage import documents_words, held_by_luck, held_terms, share_made_up
from afina.evaluate.derive import CHOICE, CONTROL, COVERAGE, derive_probes
from afina.evaluate.evaluate import HeldOut, MeasuredBeside, evaluate
from afina.evaluate.intervals import more_than_chance
from afina.evaluate.prose import choose_prose, describe_power
from afina.evaluate.scores import read_scores
from afina.model.generate.stored_answers import KeptAnswers
from afina.model.load_torch import load_base
from afina.model.reader_torch import TorchReader
from afina.recipe import Chat, Probe, Recipe, Source, Train, check_recipe
from afina.run import Run
from afina.text.example import Example
from afina.text.prose_question import PROSE_FILE, ProseQuestion, write_prose
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.train import train_tokenizer
from afina.walk.context import Context
from afina.walk.walk import walk_through

CPU = torch.device("cpu")
WORDS = ("um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito")


def cloze(section: str, town: str, name: str = "Ana", **values: Any) -> ProseQuestion:
    """Where somebody is from: one of eight towns is right."""
    towns = [*TOWNS, "Portimão", "Albufeira"]
    others = tuple(f"{name} é de {other}." for other in towns if other != town)
    return ProseQuestion(
        "cloze", section, "a.md", 3, f"De onde é {name}?", f"{name} é de {town}.", others, town, **values
    )


def free(section: str, *terms: str) -> ProseQuestion:
    return ProseQuestion("terms", section, "a.md", 5, f"O que diz {section}?", terms=terms)


def write_dataset(folder: Path, questions: list[ProseQuestion], *texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_prose(folder / PROSE_FILE, questions)
    rows = [Example(text=text, path="a.md").as_json() for text in texts or ("Ana é de Faro.",)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "validation.jsonl").touch()
    return folder


# ---- choice


def test_what_stands_in_the_gap_is_read_off_the_sentences() -> None:
    question = replace(
        cloze("s", "Faro"),
        right="Faro fica em Faro e não em Lagos.",
        wrong=tuple(f"Faro fica em {word} e não em Lagos." for word in WORDS[:7]),
    )
    assert choice_of(question).terms == ("Faro", *WORDS[:7])
    with pytest.raises(DataError, match="elsewhere than in its gap"):
        choice_of(replace(question, wrong=("Lagos fica em Faro e não cá.", *question.wrong[1:])))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("choice") / "base")


@pytest.fixture(scope="module")
def renderer(base: Path) -> Renderer:
    return Renderer(load_tokenizer(str(base), Chat()), Chat())


def by_hand(model: Any, renderer: Renderer, prompt: str, answer: str) -> float:
    """Log-probability of an answer and its end token behind its prompt, from the model's whole logits."""
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    start, ids = len(renderer.prompt(turns[:1])), renderer.conversation(turns).ids
    log_probs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_probs[at - 1, ids[at]].item() for at in range(start, len(ids)))


def test_scores_are_log_probabilities_less_what_each_term_costs(base: Path, renderer: Renderer) -> None:
    """Sentences, and one that another goes on from: differences of scores by the model's whole logits."""
    model = load_base(base, make_recipe(base), CPU).eval()
    sentences = tuple(f"Ana é de {'Faro' if not n else f'Faro {WORDS[n]}'}" for n in range(8))
    choices = [
        choice_of(cloze("s", "Lagos")),
        Choice("De onde é Ana?", sentences, tuple(each.removeprefix("Ana é de ") for each in sentences), "a:1", "s"),
    ]
    found = rank_choices(TorchReader(model), renderer, choices, "pt-PT", pad_id=0, batch_tokens=64)
    request, answer = NEUTRAL["pt"]
    with torch.no_grad():
        for choice, ranked in zip(choices, found, strict=True):
            said = [by_hand(model, renderer, choice.prompt, sentence) for sentence in choice.sentences]
            cost = [by_hand(model, renderer, request, answer.format(term)) for term in choice.terms]
            for n in range(1, 8):
                wanted = (said[n] - said[0]) - (cost[n] - cost[0])
                assert ranked.scores[n] - ranked.scores[0] == pytest.approx(wanted, abs=1e-4)
                assert ranked.log_probs[n] - ranked.log_probs[0] == pytest.approx(said[n] - said[0], abs=1e-4)


def test_a_question_of_its_own_is_ranked_as_beside_others(base: Path, renderer: Renderer) -> None:
    model = load_base(base, make_recipe(base), CPU).eval()
    choices = [choice_of(cloze(f"s{n}", town, name)) for n, (town, name) in enumerate(zip(TOWNS, PEOPLE, strict=True))]
    options: Any = {"pad_id": 0, "batch_tokens": 256}
    together = rank_choices(TorchReader(model), renderer, choices, "pt", **options)
    for choice, ranked in zip(choices, together, strict=True):
        (alone,) = rank_choices(TorchReader(model), renderer, [choice], "pt", **options)
        assert alone.scores[0] - alone.scores[3] == pytest.approx(ranked.scores[0] - ranked.scores[3], abs=1e-4)


def test_rankings_are_kept_beside_the_runs(
    base: Path, renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same weights none is computed twice; of others, and of another question, each is."""
    model = load_base(base, make_recipe(base), CPU).eval()
    choices = [choice_of(cloze(f"s{n}", town, name)) for n, (town, name) in enumerate(zip(TOWNS, PEOPLE, strict=True))]
    options: Any = {"pad_id": 0, "batch_tokens": 256}
    computed: list[int] = []
    log_probs = choice_ranks._log_probs
    monkeypatch.setattr(choice_ranks, "_log_probs", lambda *given: [computed.append(1), log_probs(*given)][1])

    def rank(asked: list[Choice], weights: str) -> tuple[list[Ranked], int]:
        computed.clear()
        return rank_choices(
            TorchReader(model), renderer, asked, "pt", kept=KeptAnswers(tmp_path, weights), **options
        ), len(computed)

    first, forwards = rank(choices[:4], "w")
    again, none = rank(choices[:4], "w")
    assert again == first and forwards > 4 and none == 0
    more, two = rank(choices, "w")
    assert more[:4] == first and 2 < two < forwards and all(each.costs[0] == 0 for each in more)
    assert rank(choices[:4], "others")[1] == forwards
    (tmp_path / "rankings.jsonl").write_text("{}\n", encoding="utf-8")
    assert rank(choices[:4], "w") == (first, forwards)


def test_the_likelier_term_is_not_the_truer_one() -> None:
    """A term likelier everywhere by two nats, and by one in the sentence: the sentence speaks against it."""
    assert Ranked((-5.0, -4.0), (-3.0, -1.0)).right and not Ranked((-5.0, -4.0), (-3.0, -3.0)).right
    assert BY_CHANCE == 1 / 8


# ---- coverage


def test_terms_are_held_with_and_without_the_marks_of_code() -> None:
    said = "Usa-se `std.Io` em 0.14.0, com `@branchHint`."
    assert held_terms(said, ["`std.Io()`", "@branchHint", "0.14.0", "0.14", "std"]) == [True, True, True, True, True]
    assert held_terms(said, ["`std.Ioo`", "@branch", "14.0.1"]) == [False, False, False]


def test_answers_dealt_anew_leave_the_own_section_out() -> None:
    answers = ["Faro", "Faro", "Lagos", "Faro"]
    assert held_by_luck(answers, [["Faro"]] * 4, ["a", "a", "b", "c"]) == [[0.5], [0.5], [1.0], [2 / 3]]
    assert held_by_luck(["Faro"], [["Faro"]], ["a"]) == [[0.0]], "one section: nothing to deal"


def test_what_stands_nowhere_in_the_documents_is_made_up(tmp_path: Path) -> None:
    known = documents_words(write_dataset(tmp_path, [], "Em 1990 chegou Hassan Nader.", "E não usa `std.Io`."))
    prompts = ["Quem chegou?"]
    assert share_made_up(["Chegou Hassan Nader em 1990."], prompts, known) == 0.0
    assert share_made_up(["Chegou Hassan Nader em 1977."], prompts, known) == 0.5
    assert share_made_up(["usa `std.Net`."], prompts, known) == 1.0
    assert share_made_up(["Não sei."], prompts, known) == 0.0, "no terms, nothing made up"


# ---- which questions


def test_many_sections_before_many_questions_of_one(tmp_path: Path) -> None:
    many = [cloze("one", "Faro", f"Ana {n}") for n in range(9)]
    questions = [*many, cloze("two", "Faro"), cloze("three", "Lagos")]
    asked = choose_prose(write_dataset(tmp_path, questions), 4).choice
    assert [each.section for each in asked[:3]].count("one") == 1 and len(asked) == 4
    again = choose_prose(write_dataset(tmp_path / "turned", questions[::-1]), 4).choice
    assert again == asked


def recipe(folder: Path, **values: Any) -> Recipe:
    return make_recipe(folder, dataset={"language": "pt-PT"}, **values)


def test_each_kind_becomes_the_probe_that_marks_it(tmp_path: Path, renderer: Renderer) -> None:
    change = ProseQuestion("change", "n", "n.md", 9, "O que substituiu X?", terms=("Y",), outdated=("X",))
    held_out = [cloze("h", "Faro", held_out=True), replace(free("h", "Faro"), held_out=True)]
    folder = write_dataset(
        tmp_path, [cloze("s", "Faro"), cloze("t", "Lagos"), free("s", "Faro", "1990"), change, *held_out]
    )
    own = recipe(tmp_path, train={"max_length": 200})
    found = {probe.role: probe for probe in derive_probes(own, folder, renderer).probes}
    assert [len(found[role].choices) for role in ("choice", "control")] == [2, 1]
    assert {each.cluster for each in found["choice"].choices} == {"s", "t"}
    (asked,) = found["coverage"].questions
    assert asked.terms == ("Faro", "1990") and asked.cluster == "s" and asked.of_any_length
    (changed,) = found["versions"].questions
    assert changed.grade("Agora é Y.").version == "new" and changed.grade("Ainda X, ou Y.").version == "old"
    none = derive_probes(recipe(tmp_path, evaluate={"questions": 0}), folder, renderer)
    assert none.probes == [] and none.notes == []


def test_choices_longer_than_what_is_trained_are_counted_and_not_asked(tmp_path: Path, renderer: Renderer) -> None:
    questions = [cloze("s", "Faro"), cloze("t", "Faro", "Ana " * 30)]
    folder = write_dataset(tmp_path, questions)
    limit = longest_row(renderer, choice_of(questions[0]))
    derived = derive_probes(recipe(tmp_path, train={"max_length": limit}), folder, renderer)
    (probe,) = [each for each in derived.probes if each.role == "choice"]
    assert len(probe.choices) == 1 and any(note.startswith(f"{CHOICE}: 1 questions") for note in derived.notes)


def test_what_can_be_told_is_said_before_training(tmp_path: Path) -> None:
    questions = [cloze(f"s{n}", "Faro", f"Ana {n}") for n in range(74)] + [free("s1", "Faro")]
    folder = write_dataset(tmp_path, questions)
    assert describe_power(recipe(tmp_path), folder) == [
        "measured by: choice of the true sentence, 74 sections: a gain in less than 8.1 % of them is none beyond "
        "chance",
        "measured by: free answers, 1 of 6 sections that it takes: not enough to tell",
    ]
    few = write_dataset(tmp_path / "few", questions[:5])
    assert describe_power(recipe(tmp_path), few)[-1].startswith("not enough to tell whether this training teaches")
    (tmp_path / "none").mkdir()
    assert describe_power(recipe(tmp_path), tmp_path / "none") == []
    rows = [{"prompt": f"p{n}", "completion": "a", "fact": str(n // 9)} for n in range(36)]
    (tmp_path / "none/probes-unseen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line, last) = describe_power(recipe(tmp_path), tmp_path / "none")
    assert line == "measured by: short answers, 4 of 6 facts in phrasings held out that it takes: not enough to tell"
    assert last.startswith("not enough to tell")


# ---- the whole evaluation


def test_an_evaluation_writes_choices_and_coverage(tmp_path: Path, base: Path, renderer: Renderer) -> None:
    """The same weights before and after: nothing turns, and everything has its figures."""
    questions = [cloze(f"s{n}", town, name) for n, (town, name) in enumerate(zip(TOWNS, PEOPLE, strict=True))]
    questions += [free(f"s{n}", town) for n, town in enumerate(TOWNS)] + [cloze("h", "Faro", "Zoé", held_out=True)]
    folder = write_dataset(tmp_path / "dataset", questions)
    own = recipe(base, train={"max_length": 200}, evaluate={"samples": 0, "max_new_tokens": 4})
    model = load_base(base, own, CPU).eval()
    opened = lambda: contextlib.nullcontext(model)  # noqa: E731
    probes = derive_probes(own, folder, renderer).probes
    probes = [probe for probe in probes if probe.role in ("choice", "control", "coverage")]
    beside = MeasuredBeside(dataset=folder)
    verdict = evaluate((opened, opened), renderer, own, HeldOut([], []), probes, tmp_path, beside=beside)
    assert verdict.learned == "no"
    scores = {probe["name"]: probe for probe in json.loads((tmp_path / "scores.json").read_text())["probes"]}
    assert {name: (each["n"], each["clusters"]) for name, each in scores.items()} == {
        CHOICE: (6, 6),
        CONTROL: (1, 1),
        COVERAGE: (6, 6),
    }
    assert set(scores[COVERAGE]["after"]) == {"terms_held", "by_luck", "terms_made_up", "low", "high"}
    assert scores[CHOICE]["after"]["by_chance"] == 1 / 8 and scores[CHOICE]["change"]["points"] == 0
    rows = [json.loads(line) for line in (tmp_path / "choices.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7 and all(row["base_scores"] == row["adapter_scores"] for row in rows)
    assert (
        rows[0]["sentences"][0]
        == f"{rows[0]['prompt'].split()[-1].rstrip('?')} é de {TOWNS[int(rows[0]['section'][1])]}."
    )
    asked = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["role"] for row in asked} == {"coverage"} and all(row["base_correct"] is None for row in asked)


# ---- trainings whose truth is known


TRAININGS = (("trained", 0, 3e-3), ("rate zero", 0, 0.0), ("elsewhere", 5, 3e-3))
"""Name, seed of the league, learning rate."""


def league(folder: Path, seed: int) -> Path:
    """A manual with a section on each of 24 invented players."""
    sections = [
        f"## {one.name}\n\n{one.name} nasceu em {one.city} em {one.year}, e {one.name} marcou {one.goals} golos.\n"
        for one in make_players(24, seed)
    ]
    (folder / "docs").mkdir(parents=True)
    (folder / "docs/liga.md").write_text("\n".join(["# A nova liga\n", *sections]), encoding="utf-8")
    return folder


def train_on(folder: Path, base: Path, rate: float) -> tuple[dict[str, Any], list[str]]:
    """The whole walk, every weight trained; the verdict, and what was told on the way."""
    own = check_recipe(
        {
            "name": "liga",
            "root": str(folder),
            "base": str(base),
            "sources": [{"path": "docs"}],
            "dataset": {
                "language": "pt-PT",
                "validation": 0.0,
                "questions": {"make": ["sections"], "phrasings": 3},
            },
            "adapter": {"kind": "none"},
            "train": {"epochs": 40 if rate else 1, "learning_rate": rate, "max_length": 320, "batch_tokens": 1024},
            "evaluate": {"samples": 0, "max_new_tokens": 32, "skills": 0},
        }
    )
    told: list[str] = []
    with Run.open(folder / "run", own, told.append) as run:
        return walk_through(Context(run, lambda stage: contextlib.nullcontext(lambda *done: None)))["evaluate"], told


@pytest.mark.long
@pytest.mark.training
def test_who_was_trained_on_the_sections_chooses_better_and_nobody_else(tmp_path: Path) -> None:
    """Trained on 24 sections and asked in phrasings never trained: a gain in both ways. At a rate of 0: none. Trained
    on another league and asked about the first: none."""
    shape = {"hidden_size": 96, "intermediate_size": 192, "max_position_embeddings": 512}
    words = [(league(tmp_path / name, seed) / "docs/liga.md").read_text("utf-8") for name, seed, _ in TRAININGS]
    train_tokenizer("byte-bpe", words, 1000, tmp_path / "tokenizer", 320)
    base = make_base(tmp_path / "base", tokenizer=load_tokenizer(str(tmp_path / "tokenizer"), Chat()), **shape)
    verdicts, choices = {}, {}
    for name, _, rate in TRAININGS:
        folder = tmp_path / name
        verdicts[name], told = train_on(folder, base, rate)
        assert any(
            "measured by: choice of the true sentence, 24 sections: a gain in less than 25 %" in line for line in told
        )
        probes = read_scores(folder / "run").probes  # type: ignore[union-attr]
        choices[name] = next(probe for probe in probes if probe.role == "choice")
    change = choices["trained"].change
    assert change is not None and change.low > 0.4 and choices["trained"].clusters == 24
    assert choices["rate zero"].before == choices["rate zero"].after
    assert [verdicts[name]["learned"] for name in ("trained", "rate zero")] == ["yes", "no"]
    asked = [choice_of(each) for each in choose_prose(tmp_path / "trained/run/dataset", 100).choice]
    chat = Renderer(load_tokenizer(str(base), Chat()), Chat())
    own = make_recipe(base)
    right = [
        [
            ranked.right
            for ranked in rank_choices(
                TorchReader(load_base(folder, own, CPU)), chat, asked, "pt", pad_id=0, batch_tokens=512
            )
        ]
        for folder in (base, tmp_path / "elsewhere/run/model", tmp_path / "trained/run/model")
    ]
    sections = [each.cluster for each in asked]
    assert not more_than_chance(right[0], right[1], sections) and more_than_chance(right[0], right[2], sections)


def test_random_weights_that_read_texts_are_asked_nothing_about_them(tmp_path: Path):
    write_prose(tmp_path / PROSE_FILE, [ProseQuestion("terms", "a", "a.md", 1, "What is a?", terms=("b",))])
    recipe = Recipe(name="x", sources=[Source(path="x")], train=Train(method="scratch"))
    assert not recipe.asks_prose and not describe_power(recipe, tmp_path)
    assert describe_power(recipe.model_copy(update={"train": Train()}), tmp_path)  # six sections are needed, and said


def test_what_the_recipe_asks_by_itself_is_no_too_little(tmp_path: Path):
    """Three sections are too few to choose by; the demo's own questions are not."""
    write_prose(tmp_path / PROSE_FILE, [ProseQuestion("terms", "a", "a.md", 1, "What is a?", terms=("b",))])
    recipe = Recipe(name="x", base="b", sources=[Source(path="x")])
    assert describe_power(recipe, tmp_path)[-1].startswith("not enough to tell")
    probes = [Probe(path="p.jsonl", role="generalization")]
    asked = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"probes": probes})})
    assert [line for line in describe_power(asked, tmp_path) if line.startswith("not enough")] == []
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    (tmp_path / "train.jsonl").write_text(json.dumps(Example(messages=turns, path="r", line=1).as_json()) + "\n")
    assert [line for line in describe_power(recipe, tmp_path) if line.startswith("not enough")] == []

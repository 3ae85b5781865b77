"""Questions made by templates: what is found, how it is asked, what is left out; then 215 real biographies."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taking import all_for_train, columns_of, split, take

from afina.dataset.audit.audit import audit_dataset
from afina.dataset.audit.describe import describe_summary
from afina.dataset.build.build import build_dataset
from afina.dataset.build.document_notes import Notes
from afina.dataset.build.groups import Groups
from afina.dataset.build.mix import mix_table, times_seen
from afina.dataset.questions.facts import find_facts, subject_of
from afina.dataset.questions.from_structure import QuestionMaker, release_of
from afina.dataset.questions.labels import LABELS, fold, label_key
from afina.dataset.questions.phrasings import TEMPLATES, phrase
from afina.dataset.questions.values import calm, clean_value, date_and_place, quiet_text, read_date, words_of
from afina.errors import DataError, RecipeError
from afina.recipe import Dataset, Recipe, Source, Train, check_recipe, load_recipe
from afina.recipe import Questions as Settings
from afina.text.document import Document, Message
from afina.text.example import Example, read_examples
from afina.text.identity import normal

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")

ANA = """# Ana Luz: Pioneira de Faro

**18/02/1975, Olhão** | **Médio / Extremo** | **"Muito rápida"** | 🇵🇹

## Início (1990-1995)

- **Farense** (1990-1995)

---

**Carreira:** 1990-2005 (**15 épocas!**)

**Clubes:**
- 🏆 **FARENSE** (90-95): Formação
- Silves

**Sede preferida:** Largo da Sé
"""


def page(text: str, path: str = "ana.md", **values: Any) -> Document:
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), "")
    return Document(path, "0" * 64, kind="markdown", **{"title": title, "text": text, **values})


def recipe(make: Iterable[str] = ("facts",), *, language: str = "pt-PT", **dataset: Any) -> Recipe:
    settings = {key: dataset.pop(key) for key in ("phrasings", "max_answer_words") if key in dataset}
    return Recipe(
        name="x",
        base="base",
        sources=dataset.pop("sources", [Source(path="a")]),
        dataset=Dataset(language=language, questions=Settings(make=list(make), **settings), **dataset),  # type: ignore[arg-type]
        train=Train(),
    )


@dataclass
class Taken:
    """What documents tell."""

    made: list[Example]
    questions: QuestionMaker
    groups: Groups


def taken(documents: Iterable[Document], **values: Any) -> Taken:
    intake = take(recipe(**values), documents)
    assert intake.notes
    questions = intake.notes.questions
    return Taken(questions.examples(intake.examples), questions, intake.notes.groups)


def asked(intake: Taken) -> dict[str, str]:
    return {example.prompt: example.answer for example in intake.made}


def reasons(intake: Taken) -> Counter[str]:
    return Counter(item.reason for item in intake.questions.left_out)


# --- what is found


def test_the_facts_of_a_page_by_hand():
    facts = [(fact.kind, fact.items, fact.line) for fact in find_facts(page(ANA), "pt-PT")]
    assert facts == [
        ("title", ("Pioneira de Faro",), 1),
        ("birth_date", ("18 de fevereiro de 1975",), 3),
        ("birth_place", ("Olhão",), 3),
        ("position", ("Médio e extremo",), 3),
        ("epithet", ("«Muito rápida»",), 3),
        ("unread", ("🇵🇹",), 3),
        ("career", ("1990-2005 (15 épocas)",), 11),
        ("clubs", ("Farense (90-95): Formação", "Silves"), 13),
        ("other", ("Largo da Sé",), 17),
    ]


def test_tables_definitions_and_records():
    table = page("# Sede\n\n| Campo | Valor |\n|---|---|\n| Altura | 12 m |\n| Cor do muro | Branco |\n")
    assert [(f.kind, f.label, f.items) for f in find_facts(table, "pt-PT")] == [
        ("height", "Altura", ("12 m",)),
        ("other", "Cor do muro", ("Branco",)),
    ]
    three = page("# Sede\n\n| A | B | C |\n|---|---|---|\n| 1 | 2 | 3 |\n")
    assert list(find_facts(three, "en")) == []
    terms = page("# Terms\n\nHeight\n: 12 m\n")
    assert [(f.kind, f.items) for f in find_facts(terms, "en")] == [("height", ("12 m",))]
    record = {"biografia": {"nome": "Ana", "dataNascimento": "1975-02-18", "selecaoNacional": {"pais": "Malta"}}}
    found = find_facts(Document("a.json", "0" * 64, text=json.dumps(record)), "pt-PT")
    assert [(f.subject, f.kind, f.label, f.items) for f in found] == [
        ("Ana", "birth_date", "Data nascimento", ("18 de fevereiro de 1975",)),
        ("Ana", "other", "Seleção nacional: País", ("Malta",)),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "Terminou a carreira:",
        "- Farense (80/81): 2ª Divisão",
        "```\nAltura: 3\n```",
        "Ele disse: não vou.",
        "> **Cargo:** a",
    ],
)
def test_what_only_looks_like_a_label(line: str):
    assert list(find_facts(page(f"# Ana\n\n## Vida\n\n{line}\n\nMais texto.\n"), "pt-PT")) == []


@given(st.text(), st.sampled_from(["pt-PT", "pt-BR", "en"]))
def test_any_text_can_be_read(text: str, language: str):
    for kind in ("markdown", "text"):
        document = Document("a.md", "0" * 64, kind=kind, title="T: t", text=text)  # type: ignore[arg-type]
        for fact in find_facts(document, language):
            assert fact.subject and fact.line >= 1 and all(fact.items)
    assert isinstance(quiet_text(text), str) and subject_of(Document("a", "0", text=text)) is not None


def test_values():
    assert clean_value("🏆 **CAMPEÃO DISTRITAL** (1996/97)!") == "CAMPEÃO DISTRITAL (1996/97)"
    assert calm("SUBIDA À 2ª DIVISÃO pela UEFA", words_of("")) == "Subida à 2ª divisão pela UEFA"
    assert calm("FARENSE", words_of("o Farense")) == "Farense"
    assert date_and_place("27/09/1897 (Faro)", "pt-PT")[:2] == ("27 de setembro de 1897", "Faro")
    assert date_and_place("1975-76 (acidente)", "pt-PT")[:2] == ("1975-76 (acidente)", "")
    assert read_date("3/4/1975", "en") is None and read_date("2/18/1975", "en") == ((1975, 2, 18), "")
    assert read_date("31/31/1975") is None
    code = "```html\n<p>🏆</p>\n---\n```\n\n**a** **b**"
    assert quiet_text(code) == code


# --- how it is asked


LABELLED = ("other", "section", "change", "program", "definition", "list", "replaced")


def test_every_kind_has_eight_phrasings_in_every_language():
    kinds = set(TEMPLATES["pt-PT"])
    assert set(LABELS.values()) - {"born", "died", "unread"} <= kinds
    for language, table in TEMPLATES.items():
        assert set(table) == kinds, language
        for kind, phrasings in table.items():
            assert len(set(phrasings)) == len(phrasings) == 8, (language, kind)
            for number, template in enumerate(phrasings):
                assert template.count("{subject}") == 1, template
                assert ("{label}" in template) == (kind in LABELLED), template
                said = phrase(language, kind, number, "Ana", "Sede")
                assert "{" not in said and "  " not in said and said.strip() == said
    everything = [phrasing for table in TEMPLATES["pt-PT"].values() for phrasing in table]
    assert len(set(everything)) == len(everything), "no two kinds ask the same"


def test_brazilian_is_not_european():
    said = " ".join(phrasing for table in TEMPLATES["pt-BR"].values() for phrasing in table)
    for word in ("Diz-me", "secção", "golos", "alcunha", "equipa ", "Sabes", "factos", "«", "a apelido"):
        assert word not in said, word
    assert "Qual é o apelido de {subject}?" in said


def test_labels_in_any_writing():
    assert {label_key(text) for text in ("Data de Nascimento", "data_nascimento", "dataNascimento")} == {
        "data nascimento"
    }
    assert all(key == label_key(key) for key in LABELS)


def test_one_fact_five_phrasings_one_answer_one_group():
    intake = taken([page(ANA)])
    born = [example for example in intake.made if example.made == "facts:birth_date"]
    assert [example.prompt for example in born][:2] == [
        "Quando nasceu Ana Luz?",
        "Qual é a data de nascimento de Ana Luz?",
    ]
    assert [example.phrasing for example in born] == [1, 2, 3, 4, 5]
    assert {example.answer for example in born} == {"18 de fevereiro de 1975."}
    assert len({example.group for example in born}) == 1 and born[0].line == 3
    assert asked(intake)["Que clubes representou Ana Luz?"] == "- Farense (90-95): Formação\n- Silves"
    assert asked(intake)["Sobre Ana Luz: o que consta em «Sede preferida»?"] == "Largo da Sé."
    assert Example.from_json(born[0].as_json()) == born[0]
    assert reasons(intake) == {"question: value that cannot be asked for": 1}


def test_contradictions_are_left_out_and_what_agrees_is_joined():
    two = "# Ana\n\n**Data de nascimento:** 1/2/1975\n\n**Altura:** 170 cm\n\n**Nascimento:** 1975 (Faro)\n\n"
    intake = taken([page(two + "**Altura:** 180 cm\n\n**Alcunha:** Lu\n\n**Sócio:** sim\n\n**Alcunha:** Nita\n")])
    assert asked(intake)["Quando nasceu Ana?"] == "1 de fevereiro de 1975."
    assert asked(intake)["Qual é a alcunha de Ana?"] == "Lu; Nita."
    assert not any("altura" in prompt for prompt in asked(intake))
    assert reasons(intake) == {"question: contradictory values": 2}


def test_two_people_of_one_name_are_not_asked_about():
    one, other = page("# Rui\n\n**Nascimento:** 1930\n"), page("# Rui\n\n**Nascimento:** 1950\n", "b.md")
    intake = taken([one, other])
    assert intake.made == [] and reasons(intake) == {"question: two subjects of one name": 2}


def test_no_question_that_holds_its_answer():
    intake = taken([page('# Rui "Lu"\n\n**Alcunha:** "Lu"\n\n**Idade:** 59\n')])
    assert intake.made == []
    assert reasons(intake) == {
        "question: the answer stands in the question": 1,
        "question: value that cannot be asked for": 1,
    }


def test_too_long_too_empty_and_asked_already():
    text = "# Ana\n\n**Legado:** " + "muito " * 50 + "\n\n**Altura:** não disponível\n\n**Alcunha:** Lu\n"
    row = Document(
        "rows.jsonl",
        "0" * 64,
        kind="messages",
        messages=(
            Message(role="user", content="qual é a alcunha de  Ana?"),
            Message(role="assistant", content="Não sei."),
        ),
    )
    intake = taken([page(text), row], max_answer_words=20)
    assert intake.made == []
    assert reasons(intake) == {
        "question: answer too long": 1,
        "question: value that cannot be asked for": 1,
        "question: asked in the sources already": 1,
    }
    assert all(item.text for item in intake.questions.left_out), "the text itself is not lost"


def test_sections_are_asked_by_their_heading():
    text = "# Ana: Pioneira\n\nIntrodução.\n\n## Início\n\nComeçou no Farense.\n\n---\n\n**Altura:** 1,70 m\n\n"
    text += "## Fim\n\nFim.\n"
    intake = taken([page(text)], make=["sections"])
    assert set(asked(intake).values()) == {"Começou no Farense."}
    assert "O que diz a secção «Início» do texto sobre Ana?" in asked(intake)
    assert reasons(intake) == {"question: section too short": 1}
    assert intake.made[0].made == "sections" and intake.made[0].line == 5


def test_changes_of_a_release():
    notes = page(
        "# 0.14.0 Release Notes\n\nHello.\n\n## Removal of `@fence`\n\nIt has been removed.\n",
        meta={"page_title": "0.14.0 Release Notes - The Zig Programming Language"},
    )
    made = asked(taken([notes, page("# Manual\n\n## A\n\nThree words here.\n")], make=["changes"], language="en"))
    assert made['What changed in Zig 0.14.0 about "Removal of @fence"?'] == "It has been removed."
    assert len(made) == 5
    assert release_of(page("# Afina 2.1 release notes\n")) == "Afina 2.1" and release_of(page("# Manual 2.1\n")) == ""


def test_programs_of_code_and_of_pairs():
    code = Document(
        "a.zig", "0" * 64, kind="code", title="a.zig", text="x\n", meta={"language": "zig", "doc": "Say hi."}
    )
    pair = Document(
        "b.md",
        "0" * 64,
        kind="messages",
        title="Mmap file",
        messages=(Message(role="user", content="# Mmap file"), Message(role="assistant", content="```zig\ny\n```")),
        meta={"language": "zig", "solution": "b.zig"},
    )
    made = asked(taken([code, pair], make=["programs"], language="en", max_answer_words=1))
    assert made["Write a Zig program for this task: Say hi."] == "```zig\nx\n```"
    assert made["Write a Zig program for this task: Mmap file"] == "```zig\ny\n```"
    assert not Notes.wanted(recipe([]))


# --- split


def test_files_about_one_subject_stay_together():
    groups = Groups()
    born = "\n\n**3/02/1930, Faro** | **Médio**\n"
    names = {"a.md": "# Zé: Um" + born, "b.md": "# JOSÉ LUZ" + born, "c.md": "# Zé", "d.md": "# Rui", "e.md": "# Ze"}
    for path, text in names.items():
        document = page(text, path)
        groups.add(document, list(find_facts(document, "pt-PT")))
    of = {path: groups.of(f"file {path}") for path in names}
    assert of["a.md"] == of["b.md"] == of["c.md"] == of["e.md"] != of["d.md"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1), st.floats(0, 1), st.integers(0, 3))
def test_no_file_and_no_question_on_both_sides(rows: list[tuple[int, int]], share: float, seed: int):
    examples = [
        Example(
            messages=(Message(role="user", content=f"q{question}"), Message(role="assistant", content=f"{file}")),
            path=f"{file}.md",
        )
        for file, question in rows
    ]
    own = recipe((), split_by="file", validation=share).model_copy(update={"seed": seed})
    try:
        train, validation = split(examples, own)
    except DataError:
        return
    assert len(train) + len(validation) == len(examples)
    assert not {example.path for example in train} & {example.path for example in validation}
    assert not {example.prompt for example in train} & {example.prompt for example in validation}


def test_all_phrasings_of_a_fact_fall_on_one_side():
    pages = [page(f"# N{n}\n\n**Alcunha:** A{n}\n\n**Altura:** {n} m\n", f"{n}.md") for n in range(60)]
    intake = taken(pages, validation=0.3)
    sides = split(intake.made, recipe(validation=0.3))
    groups = [{example.group for example in side} for side in sides]
    assert groups[0] and groups[1] and not groups[0] & groups[1]


# --- mixing


def text_of(chars: int, *, replay: bool, repeat: int = 1, number: int = 0) -> Example:
    return Example(
        text=f"{number:04}".ljust(chars, "x"), path="a", line=number, source=int(replay), repeat=repeat, replay=replay
    )


def mixed(rows: list[Example], settings: Recipe) -> tuple[list[int], list[dict[str, Any]]]:
    """How often each row is seen, and the table of the mix."""
    columns, fate = columns_of(rows), all_for_train(rows)
    times = times_seen(columns, fate, settings)
    return times.tolist(), mix_table(columns, fate, times, settings)


def test_replay_is_repeated_or_sampled_by_hand():
    own = [text_of(100, replay=False, number=n) for n in range(6)]
    replay = [text_of(100, replay=True, number=n) for n in range(10, 14)]
    settings = recipe((), replay_share=0.5, sources=[Source(path="a"), Source(path="b", replay=True)])
    times, table = mixed([*own, *replay], settings)
    # 600 characters of each are wanted, 400 are there: every row once, two of the four twice.
    assert times[:6] == [1] * 6 and sorted(times[6:]) == [1, 1, 2, 2]
    few, _ = mixed([*own, *replay], recipe((), replay_share=0.25, sources=settings.sources))
    assert sorted(few[6:]) == [0, 0, 1, 1]
    assert mixed([*own, *replay], settings)[0] == times, "the same seed gives the same mix"
    again, _ = mixed([*own, *replay[::-1]], settings)
    assert again[6:] == times[:5:-1], "whatever the order"
    assert table[1] == {
        "source": "b", "what": "replay", "examples": 4, "seen": 6, "characters": 600, "share": 0.5}  # fmt: skip


@given(
    st.lists(st.integers(4, 60), min_size=1, max_size=20),
    st.lists(st.integers(4, 60), min_size=1, max_size=20),
    st.floats(0.0, 0.9),
)
def test_the_share_is_reached_as_near_as_rows_allow(own: list[int], replay: list[int], share: float):
    rows = [text_of(chars, replay=False, number=n) for n, chars in enumerate(own)]
    rows += [text_of(chars, replay=True, number=100 + n) for n, chars in enumerate(replay)]
    settings = recipe((), replay_share=share, sources=[Source(path="a"), Source(path="b", replay=True)])
    times, _ = mixed(rows, settings)
    seen = sum(chars * count for chars, count in zip(replay, times[len(own) :], strict=True))
    wanted = sum(own) * share / (1 - share)
    assert abs(seen - wanted) <= max(replay)
    assert times[: len(own)] == [1] * len(own)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_folder_holds_the_share_and_what_is_left_out_of_it(tmp_path: Path, share: float):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {n:03}.\n\n" for n in range(300)), encoding="utf-8")
    sources = [Source(path="a.txt"), Source(path="b.txt", replay=True)]
    dataset = Dataset(replay_share=share, section_chars=40, validation=0.0)
    own = Recipe(name="x", base="b", root=str(tmp_path), sources=sources, dataset=dataset)
    summary = build_dataset(own, tmp_path / "dataset")
    assert summary["balanced"] and abs(summary["train"]["replay_share"] - share) < 0.01
    assert bool(summary["dropped"].get("replay_share")) == (share < 0.5)
    train = list(read_examples(tmp_path / "dataset/train.jsonl"))
    assert {example.repeat for example in train if not example.replay} == {1}
    assert {example.repeat for example in train if example.replay} == ({1} if share < 0.5 else {1, 2})
    assert summary["mix"][1]["seen"] == sum(example.repeat for example in train if example.replay)


def test_a_share_without_replay_is_refused():
    with pytest.raises(DataError, match="the only source is to be learned or replayed"):
        mixed([text_of(9, replay=False)], recipe((), replay_share=0.5))
    with pytest.raises(RecipeError, match="below 1"):
        check_recipe({"name": "x", "base": "a/b", "sources": [{"path": "."}], "dataset": {"replay_share": 1.0}})


def test_more_phrasings_than_there_are_is_refused():
    dataset = {"questions": {"phrasings": 6}, "hold_out_phrasings": 3}
    with pytest.raises(RecipeError, match="9 together; there are 8"):
        check_recipe({"name": "x", "base": "a/b", "sources": [{"path": "."}], "dataset": dataset})


# --- the folder


def build_pages(folder: Path, **values: Any) -> dict[str, Any]:
    (folder / "docs").mkdir()
    for number in range(30):
        town = "Vila " + "ABCDEFGHIJKLMNOPQRSTUVWXYZÇÑØÆ"[number]
        text = f"# Nome {number}: Título {number}\n\n**Nascimento:** {1900 + number} ({town})\n\nTexto {number}.\n"
        (folder / "docs" / f"{number}.md").write_text(text, encoding="utf-8")
    made = recipe(sources=[Source(path="docs")], **values).model_copy(update={"root": str(folder)})
    return build_dataset(made, folder / "dataset")


def test_made_questions_are_additions_and_the_sum_still_holds(tmp_path: Path):
    summary = build_pages(tmp_path, validation=0.2, split_by="file")
    made = summary["made"]
    assert summary["balanced"] and made["facts"] == 90 and made["examples"] == 450
    assert made["kinds"] == {"facts:title": 30, "facts:birth_date": 30, "facts:birth_place": 30}
    assert summary["characters"]["made"] == made["characters"] > 0
    assert summary["train"]["texts"] + summary["validation"]["texts"] == 30
    assert [row["what"] for row in summary["mix"]] == ["own", "made"]
    assert abs(sum(row["share"] for row in summary["mix"]) - 1) < 1e-5
    assert "questions about 90 facts" in describe_summary(summary) and "docs (made)" in describe_summary(summary)
    sides = [{e.path for e in read_examples(tmp_path / f"dataset/{s}.jsonl")} for s in ("train", "validation")]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_phrasings_held_out_become_probes_of_what_is_trained(tmp_path: Path):
    build_pages(tmp_path, validation=0.2, split_by="file", hold_out_phrasings=2)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"dataset/probes-{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("seen", "unseen")
    }
    train = {example.prompt: example.answer for example in read_examples(tmp_path / "dataset/train.jsonl")}
    held_out = {example.prompt for example in read_examples(tmp_path / "dataset/validation.jsonl")}
    assert len(rows["unseen"]) == 2 * len(rows["seen"]) > 0
    assert all(train[row["prompt"]] == row["completion"] for row in rows["seen"])
    assert not {row["prompt"] for row in rows["unseen"]} & (set(train) | held_out)
    assert {row["completion"] for row in rows["unseen"]} <= set(train.values())


# --- the real biographies


@needs_shared
@pytest.mark.long
def test_the_biographies_of_a_club(tmp_path: Path):
    own = load_recipe(ROOT / "recipes" / "farense-biografias.yaml")
    summary = build_dataset(own, tmp_path / "dataset")
    assert summary["documents"] == 215 and summary["balanced"]
    sides = {name: list(read_examples(tmp_path / f"dataset/{name}.jsonl")) for name in ("train", "validation")}
    made = [example for side in sides.values() for example in side if example.made]
    assert len(made) > 15_000 and summary["made"]["facts"] > 3_000

    phrasings: dict[str, set[str]] = defaultdict(set)
    answers: dict[str, set[str]] = defaultdict(set)
    for example in made:
        phrasings[example.group].add(example.prompt)
        answers[normal(example.prompt).casefold()].add(example.answer)
    assert {len(prompts) for prompts in phrasings.values()} == {5}, "five phrasings of every fact"
    assert [prompt for prompt, given_ in answers.items() if len(given_) > 1] == [], "no question with two answers"
    assert max(len(example.answer.split()) for example in made) <= 120

    # Who a file is about, read from its name, independently of the titles that the split goes by.
    players = [{player_of(example.path) for example in side} for side in sides.values()]
    assert not players[0] & players[1] and len(players[0] | players[1]) >= 205
    assert 0.05 < len(players[1]) / len(players[0] | players[1]) < 0.2
    assert not {fold(example.prompt) for example in sides["train"] if example.made} & {
        fold(example.prompt) for example in sides["validation"] if example.made
    }
    said = {example.prompt: example.answer for example in made}
    assert said["Quando nasceu Adelmiro?"] == "18 de fevereiro de 1975."
    assert said["Onde nasceu Hassan Nader?"] == "Casablanca, Marrocos."
    assert said["Qual é o nome completo de Zita?"] == "Manuel Gonçalves Cachola."
    assert 'Qual é a alcunha de Vilanova "Sainhas"?' not in said, "the answer stands in the question"
    assert said["Entre que anos jogou Caixinha?"] == "1966-1988 (22 épocas)."
    for example in made:
        if example.made.startswith("facts"):
            assert not any(mark in example.answer for mark in ("**", "🏆", "![", "<img")), example.answer
            assert example.answer[-1] in '.?…"”)»' or "\n" in example.answer, example.answer
    assert audit_dataset(tmp_path / "dataset", own).fatal() == []


def player_of(path: str) -> str:
    """``historia_antonio_gago.md`` and ``bio_antonio_gago_formatado.md`` are one player's."""
    return Path(path).stem.removeprefix("historia_").removeprefix("bio_").removesuffix("_formatado")

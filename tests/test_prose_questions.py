"""Questions about prose: what is asked of a text, what is right, what is wrong, what is said where nothing is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina.dataset.audit.describe import describe_summary
from afina.dataset.build.build import build_dataset
from afina.dataset.questions.changes import find_changes
from afina.dataset.questions.cloze import gaps_of
from afina.dataset.questions.definitions import find_definitions
from afina.dataset.questions.lists import item_head, labelled_lists
from afina.dataset.questions.prose import AskedBefore, prose_questions
from afina.dataset.questions.prose_corpus import ProseCorpus, ProseSection, Sentence
from afina.errors import DataError
from afina.recipe import Dataset, Questions, Recipe, Source, Train
from afina.text.example import read_examples
from afina.text.identity import normal
from afina.text.key_terms import Term, TermTable, find_terms
from afina.text.passages import passages, sentences
from afina.text.prose_question import ProseQuestion, read_prose, write_prose

TOWNS = [
    "Faro",
    "Loulé",
    "Tavira",
    "Silves",
    "Lagos",
    "Olhão",
    "Beja",
    "Évora",
    "Setúbal",
    "Braga",
    "Guarda",
    "Viseu",
    "Leiria",
    "Coimbra",
]
NAMES = [
    "Abel",
    "Bento",
    "Celso",
    "Duarte",
    "Elias",
    "Fausto",
    "Gil",
    "Heitor",
    "Ivo",
    "Jaime",
    "Lino",
    "Mário",
    "Nuno",
    "Osvaldo",
]

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "zig"


def page(number: int) -> str:
    """One biography, in which everything is of one kind with what stands in the others."""
    name, town, year = f"{NAMES[number]} Serra{number}", TOWNS[number], 1900 + 3 * number
    return (
        f"# {name}: Uma vida\n\n"
        f"## Início\n\n**{name}** é um antigo jogador que nasceu em {town} em {year - 20} e cresceu junto ao mar. "
        f"Em {year}, chegou ao clube com o irmão mais velho, e marcou {number + 11} golos.\n\n"
        f"## Clubes\n\n- {town}ense ({year})\n- {name}ense: reservas\n- Serrano{number}\n\n"
        f"## Fim\n\n{name} foi substituído por {NAMES[number]}inho Costa{number} na direção do clube em {year + 40}.\n"
    )


def built(folder: Path, pages: int = 14, **settings: Any) -> tuple[dict[str, Any], list[ProseQuestion]]:
    docs = folder / "docs"
    docs.mkdir(exist_ok=True)
    for number in range(pages):
        (docs / f"{number:02}.md").write_text(page(number), encoding="utf-8")
    questions = Questions(make=settings.pop("make", []), phrasings=2)
    dataset = Dataset(language="pt-PT", questions=questions, **{"validation": 0.0} | settings)
    recipe = Recipe(name="x", base="b", root=str(folder), sources=[Source(path="docs")], dataset=dataset)
    summary = build_dataset(recipe, folder / "dataset")
    file = folder / "dataset" / "prose.jsonl"
    return summary, list(read_prose(file)) if file.exists() else []


def corpus_of(*texts: str, heading: str = "Page > Part") -> ProseCorpus:
    return ProseCorpus(
        [ProseSection(f"{number}.md", heading, 1, text, False, True) for number, text in enumerate(texts)]
    )


# --- terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Nasceu a 5 de março de 1964 em Faro.", [("5 de março de 1964", "date:9 de m de 9999"), ("Faro", "name:1")]),
        ("It came in 2019, with 13% more speed.", [("2019", "year"), ("13%", "number:%")]),
        ("Na época 1987/88 ficou no 5º lugar.", [("1987/88", "years:9999/9"), ("5º lugar", "number:º lugar")]),
        ("Call `std.mem.eql` or fooBar, not foo_bar().", [
            ("`std.mem.eql`", "code:dotted:std"), ("fooBar", "word:camel"), ("foo_bar()", "word:call")]),
        ("Chegaram 2000 espectadores e 3.000 sócios.", [
            ("2000 espectadores", "number:espectadores"), ("3.000 sócios", "number:sócios")]),
        ("Since Zig 0.14 it is `a + b`.", [("Zig", "name:1"), ("0.14", "version:1"), ("`a + b`", "code:other")]),
        ("This is no term at all.", []),
    ],
)  # fmt: skip
def test_terms_are_read_by_their_form(text: str, terms: list[tuple[str, str]]):
    found = find_terms(text, {"nasceu", "chegaram", "this", "call", "since", "na", "it"})
    assert [(term.text, term.kind) for term in found] == terms
    assert all(text[term.start : term.end] == term.text for term in found)


def test_a_word_that_documents_write_small_is_no_name_at_a_sentences_beginning():
    table = TermTable.of(["Depois chegou Celso Matos. Ele disse que depois saiu.", "Celso Matos ficou."])
    assert [term.text for term in table.find("Depois saiu. Celso Matos ficou.")] == ["Celso Matos"]


def test_rare_terms_come_first_and_none_of_the_question():
    table = TermTable.of([f"O Farense jogou em {1950 + number} com Celso{number}." for number in range(80)])
    said = table.key_terms("O Farense jogou em 1950 com Celso0.", besides="E em 1950?")
    assert [term.text for term in said] == ["Celso0"]


# --- what a text says


def test_passages_are_paragraphs_and_items_without_marks():
    text = "# H\n\nOne *two*\nthree.\n\n1. a\n\n   more\n2. b\n   - deep\n\n| x |\n|---|\n| y |\n\n> quoted\n"
    found = [(each.text, each.line, each.list_number) for each in passages(text, markdown=True)]
    assert found == [
        ("One two three.", 3, 0), ("a", 6, 1), ("more", 8, -1), ("b", 9, 1), ("deep", 10, -1), ("quoted", 16, 0)
    ]  # fmt: skip
    plain = [(each.text, each.line) for each in passages("\na\nb\n\n\nc", markdown=False)]
    assert plain == [("a b", 2), ("c", 6)]


def test_sentences_lose_nothing():
    text = "O Sr. Silva (n. 1910) veio. Usou `a. B`! «Foi bom.» E depois? D. Ana saiu."
    assert sentences(text) == ["O Sr. Silva (n. 1910) veio.", "Usou `a. B`!", "«Foi bom.»", "E depois?", "D. Ana saiu."]
    assert " ".join(sentences(text)) == text


# --- the file


def test_questions_are_read_as_they_were_written(tmp_path: Path):
    asked = ProseQuestion("list", "a.md > A", "a.md", 2, "Which?", terms=("x", "y"), held_out=True)
    file = tmp_path / "prose.jsonl"
    write_prose(file, [asked, replace(asked, line=3)])
    assert list(read_prose(file)) == [asked, replace(asked, line=3)]
    for damage in ('"held_out": true', '"prompt": "Which?"'), ('"kind": "list"', '"kind": "other"'), ('"x"', '"z"'):
        first, second = file.read_text("utf-8").splitlines()
        file_of_damage = tmp_path / "damaged.jsonl"
        file_of_damage.write_text(f"{first}\n{second.replace(*damage)}\n", "utf-8")
        with pytest.raises(DataError, match=r"damaged\.jsonl:2: not a question"):
            list(read_prose(file_of_damage))


def test_a_question_that_cannot_be_marked_is_none():
    asked = ProseQuestion("cloze", "a", "a", 1, "?", "A b.", tuple(f"A {n}." for n in range(7)), "b")
    asked.check()
    for flaw in ({"wrong": asked.wrong[:6]}, {"gap": "c"}, {"wrong": ("A b.", *asked.wrong[:6])}, {"wrong": ()}):
        with pytest.raises(ValueError, match=r"needed|gap|right answer"):
            replace(asked, **flaw).check()


# --- cloze


def test_a_false_sentence_has_another_term_of_the_same_kind(tmp_path: Path):
    _, questions = built(tmp_path)
    cloze = [question for question in questions if question.kind == "cloze"]
    everything = normal(" ".join((tmp_path / "docs" / f"{n:02}.md").read_text("utf-8") for n in range(14)))
    assert len(cloze) >= 14
    for question in cloze:
        own = (tmp_path / question.path).read_text("utf-8")
        assert question.right in normal(own).replace("**", "")
        assert question.gap not in question.prompt
        head, tail = question.right.split(question.gap)
        for wrong in question.wrong:
            other = wrong.removeprefix(head).removesuffix(tail)
            assert other not in own and other in everything and wrong not in everything
            assert other[0].isupper() == question.gap[0].isupper() and other.isdigit() == question.gap.isdigit()


def test_a_term_that_is_said_of_the_same_thing_elsewhere_is_no_distractor():
    """`Rui Paz` of 1931 is the same sentence's subject elsewhere: 1931 could be true of him here too."""
    own = "Em 1930 o guarda-redes Rui Paz voltou de vez para casa."
    others = [f"Em {1931 + number} um jogador voltou de vez para casa outra vez." for number in range(9)]
    others[0] = "No ano de 1931 o bom Rui Paz esteve ali."
    corpus = corpus_of(own, *others, *(f"Nada se passou naquele lugar {n}." for n in range(30)))
    place = next(n for n, each in enumerate(corpus.sections) if each.text == own)
    sentence = corpus.sections[place].sentences[0]
    gap = next(term for term in sentence.terms if term.text == "1930")
    wrong = corpus.distractors(place, sentence, gap)
    assert len(wrong) == 7 and "1931" not in wrong


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        ("Em 1930 ele jogou pelo clube e não voltou para casa.", ""),  # nor did he in 1931
        ("De 1930 a 1946 jogou 16 anos pelo clube da sua terra.", ""),  # it can be reckoned
        ("O seu pai era o antigo guarda-redes Rui Paz da terra.", "Uma coisa sobre «Ivo Paz»?"),
        ("As épocas de 1930/31 foram boas para todos no clube.", "Uma coisa sobre «Os anos bons (1930-1940)»?"),
    ],
)
def test_what_tells_itself_is_no_gap(sentence: str, asked: str):
    corpus = corpus_of(sentence, *(f"Nada se passou naquele lugar {n}." for n in range(30)))
    place = next(n for n, each in enumerate(corpus.sections) if each.text == sentence)
    assert not gaps_of(corpus, corpus.sections[place].sentences[0], asked)


def test_what_two_sections_say_is_not_asked():
    corpus = corpus_of(*["O clube foi fundado em 1910 no Largo da Sé."] * 2)
    assert not corpus.askable(corpus.sections[0].sentences[0])
    assert not corpus.askable(Sentence("Que ano foi aquele em 1910?", 1, ()))


def test_names_stand_in_each_others_place_where_the_same_word_stands_before():
    clubs = [f"Jogou no {name} e depois saiu." for name in NAMES[:8]]
    people = [f"Falou com {name} e depois saiu." for name in NAMES[8:]]
    corpus = corpus_of(*clubs, *people, *(f"Nada houve ali {n}." for n in range(60)))
    found = {}
    for number, section in enumerate(corpus.sections):
        for sentence in section.sentences:
            for term in sentence.terms:
                if term.kind.startswith("name"):
                    found[term.text] = corpus.distractors(number, sentence, term)
    assert set(found["Abel"]) == set(NAMES[1:8]) and not found["Ivo"]


# --- what replaced what


@pytest.mark.parametrize(
    ("sentence", "old", "new"),
    [
        ("`@setCold` has been removed in favor of `@branchHint`.", "`@setCold`", "`@branchHint`"),
        ("`powerpc-linux-musl` has been renamed to `powerpc-linux-musleabihf` to make it clear.",
         "`powerpc-linux-musl`", "`powerpc-linux-musleabihf`"),
        ("Just replace `@setCold(true)` with `@branchHint(.cold)`.", "`@setCold(true)`", "`@branchHint(.cold)`"),
        ("The old `std.rand` is deprecated; use `std.Random` now.", "`std.rand`", "`std.Random`"),
        ("Use `foo` instead of `bar` there.", "`bar`", "`foo`"),
        ("- `a.b` → `a.c`", "`a.b`", "`a.c`"),
        ("A Taça UEFA passou a chamar-se Liga Europa.", "Taça UEFA", "Liga Europa"),
        ("Ao intervalo, Rui Paz foi substituído por Ivo Sá.", "Rui Paz", "Ivo Sá"),
        ("`antigo` foi renomeado para `novo`.", "`antigo`", "`novo`"),
        ("Escreve-se `novo` em vez de `antigo`.", "`antigo`", "`novo`"),
    ],
)  # fmt: skip
def test_what_replaced_what(sentence: str, old: str, new: str):
    changes = find_changes(corpus_of(sentence))
    assert [(change.old, change.new) for change in changes] == [(old, new)]


@pytest.mark.parametrize(
    "sentence",
    [
        "Do not replace `a` with `b` here.",
        "`@fence` has been removed.",
        "Rui Paz foi substituído aos 60 minutos.",
        "`x` is now faster than `y` was.",
    ],
)
def test_what_replaced_nothing(sentence: str):
    assert not find_changes(corpus_of(sentence))


# --- definitions and lists


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("`comptime` is a keyword that makes the compiler compute a value.", "`comptime`"),
        ("A Part is a piece of something larger that can be taken away.", "Part"),
        ("Rui Paz foi um dos mais antigos treinadores do clube.", "Rui Paz"),
        ("This is a keyword that makes the compiler compute a value.", ""),
        ("Nothing here is a definition of what it names itself.", ""),
        ("`comptime` is a keyword.", ""),
    ],
)
def test_what_is_a_definition(text: str, what: str):
    assert [each.what for each in find_definitions(corpus_of(text))] == ([what] if what else [])


def test_lists_are_named_by_what_stands_above():
    text = "- a\n- b\n- c\n\n**Clubes:**\n- Faro (1910)\n- Beja: 2ª Divisão\n- Olhão\n\n"
    text += "A long line that says much more than:\n- x\n- y\n- z\n"
    section = ProseSection("a.md", "Page > Part", 1, text, False, True)
    corpus = ProseCorpus([section])
    found = [(label, [item_head(item.text) for item in items]) for label, items in labelled_lists(corpus.sections[0])]
    assert found == [("Part", ["", "", ""]), ("Clubes", ["Faro", "Beja", "Olhão"])]


def test_every_kind_is_asked(tmp_path: Path):
    summary, questions = built(tmp_path)
    prose = summary["prose"]
    assert prose["questions"] == {
        kind: sum(question.kind == kind for question in questions) for kind in prose["questions"]
    }
    assert all(prose["questions"].values())
    lists = [question for question in questions if question.kind == "list"]
    assert {"Faroense", "Abel Serra0ense", "Serrano0"} in [set(question.terms) for question in lists]
    change = next(question for question in questions if question.kind == "change" and question.path == "docs/03.md")
    assert change.outdated == ("Duarte Serra3",) and change.terms == ("Duarteinho Costa3",) and len(change.wrong) == 7
    definition = next(question for question in questions if question.kind == "definition")
    assert definition.right.endswith(f"{definition.gap}.") or not definition.wrong
    assert sum(map(len, prose["documents"].values())) > 14 * 3
    assert f"{len(questions)} questions for measuring" in describe_summary(summary)


# --- what is set aside leaves questions, or the build says why not


def test_held_out_files_and_sections_leave_questions(tmp_path: Path):
    for split_by in ("content", "file"):
        folder = tmp_path / split_by
        folder.mkdir()
        summary, questions = built(folder, split_by=split_by, validation=0.2)
        trained = {(row.path, row.heading) for row in read_examples(folder / "dataset/train.jsonl")}
        held_out = {(row.path, row.heading) for row in read_examples(folder / "dataset/validation.jsonl")}
        sides = {side: {q.section for q in questions if q.held_out == side} for side in (False, True)}
        assert sides[True] and sides[True] <= {f"{path} > {heading}" for path, heading in held_out}
        assert sides[False] and sides[False] <= {f"{path} > {heading}" for path, heading in trained}
        assert not summary["prose"]["missing"] and sum(summary["prose"]["held_out"].values()) > 0


def test_phrasings_of_sections_held_out_are_asked(tmp_path: Path):
    _, questions = built(tmp_path, make=["sections"], hold_out_phrasings=3)
    prompts = {row.prompt for row in read_examples(tmp_path / "dataset/train.jsonl") if row.messages}
    terms = [question for question in questions if question.kind == "terms"]
    of_one = {question.prompt for question in terms if question.section == terms[0].section}
    assert len(of_one) == 3 and prompts and not prompts & {question.prompt for question in questions}
    assert not list((tmp_path / "dataset").glob("probes-*")), "no empty file"


def test_a_section_whose_question_is_trained_is_not_held_out(tmp_path: Path):
    _, questions = built(tmp_path, make=["sections"], validation=0.3)
    trained = {(row.path, row.heading) for row in read_examples(tmp_path / "dataset/train.jsonl")}
    names = {f"{path} > {heading}" for path, heading in trained}
    assert all((question.section in names) != question.held_out for question in questions)


def test_phrasings_held_out_that_leave_nothing_are_said(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# Página\n\nnada se diz aqui que se possa perguntar a quem leu isto tudo.\n")
    summary, questions = built(tmp_path, make=["facts"], hold_out_phrasings=2, pages=0, validation=0.2)
    said = describe_summary(summary)
    assert not questions
    assert "probes            0: no fact that is trained as a question has a phrasing held out" in said
    assert "no question about the texts can be marked" in said
    assert not list((tmp_path / "dataset").glob("probes-*"))


# --- the same, whatever the order; rows as before


def test_the_order_of_files_decides_nothing(tmp_path: Path):
    texts = [page(number) for number in range(14)]
    sections = [ProseSection(f"{n}.md", f"{n} > {k}", 1, part, False, True)
                for n, text in enumerate(texts) for k, part in enumerate(text.split("## "))]  # fmt: skip
    recipe = Recipe(name="x", base="b", sources=[Source(path="docs")], dataset=Dataset(language="pt-PT"))
    one = prose_questions(recipe, [replace(each) for each in sections], AskedBefore())
    other = prose_questions(recipe, [replace(each) for each in reversed(sections)], AskedBefore())
    assert one.questions == other.questions and one.summary["questions"] == other.summary["questions"]
    assert one.questions


def test_rows_get_no_questions_about_prose(tmp_path: Path):
    row = json.dumps({"text": "Em 1930 Rui Paz voltou de vez para a sua casa em Faro."})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n", encoding="utf-8")
    recipe = Recipe(name="x", base="b", root=str(tmp_path), sources=[Source(path="rows.jsonl")])
    summary = build_dataset(recipe, tmp_path / "dataset")
    assert "prose" not in summary and not (tmp_path / "dataset/prose.jsonl").exists()


def test_no_questions_are_made_that_no_run_by_this_method_asks(tmp_path: Path):
    """Random weights that read texts are asked none; making them took nine tenths of a build."""
    for number in range(14):
        (tmp_path / f"{number:02}.md").write_text(page(number), encoding="utf-8")
    for method, base, made in (("cpt", "b", True), ("scratch", None, False)):
        train = Train(method=method)  # type: ignore[arg-type]
        recipe = Recipe(name="x", base=base, root=str(tmp_path), sources=[Source(path="*.md")], train=train)
        summary = build_dataset(recipe, tmp_path / method)
        assert ("prose" in summary, (tmp_path / method / "prose.jsonl").exists()) == (made, made)
        assert summary["balanced"] and summary["train"]["texts"]


@pytest.mark.long
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/zig")
def test_the_manual_and_the_release_notes_of_a_language(tmp_path: Path):
    sources = [Source(path=f"{name}-0.14.0.html") for name in ("documentation", "release-notes")]
    recipe = Recipe(name="x", base="b", root=str(SHARED), sources=sources)
    summary = build_dataset(recipe, tmp_path / "dataset")["prose"]
    assert summary["questions"]["cloze"] > 150 and all(summary["questions"].values()) and not summary["missing"]
    texts = [row.text for name in ("train", "validation") for row in read_examples(tmp_path / f"dataset/{name}.jsonl")]
    everything = " ".join(normal(text.replace("**", "")) for text in texts)
    asked = list(read_prose(tmp_path / "dataset/prose.jsonl"))
    assert len({question.id for question in asked}) == len(asked)
    renamed = {question.outdated: question.terms for question in asked if question.kind == "change"}
    assert renamed[("std.rand",)] == ("std.Random",) and renamed[("@setCold",)] == ("@branchHint",)
    assert not [
        wrong for question in asked if question.kind == "cloze" for wrong in question.wrong if wrong in everything
    ]


def test_code_spans_keep_their_own_marks():
    assert Term("`std.Io()`", "code:call", 0).key == "std.io"

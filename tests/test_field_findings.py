"""What is wrong with rows as people have them: each flaw planted among good rows, its neighbour that is none beside."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from tiny import make_tokenizer

from afina.dataset.audit.answer_checks import ANSWER_CHECKS
from afina.dataset.audit.audit import Audit, audit_files
from afina.dataset.audit.clean_copy import write_clean
from afina.dataset.audit.difference import difference
from afina.dataset.audit.reference import reference
from afina.dataset.audit.text_checks import TEXT_CHECKS
from afina.dataset.build.build import build_dataset
from afina.errors import DataError, RecipeError
from afina.recipe import Dataset, Recipe, Source
from afina.text.example import read_examples
from afina.text.personal_data import MASK, find_personal_data, mask

FIELD = Path(__file__).parents[2] / "shared" / "field" / "data"
SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_field = pytest.mark.skipif(not FIELD.exists(), reason="needs ../shared/field, which is not here")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")

TOWNS = ["Faro", "Lagos", "Tavira", "Olhão", "Silves", "Loulé", "Portimão", "Albufeira", "Aljezur", "Monchique"]
THINGS = ["the market", "the old castle", "a bridge of stone", "the salt pans", "the museum of boats", "a lighthouse"]


def pair(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def good_rows() -> list[dict[str, Any]]:
    """Sixty rows with nothing wrong."""
    forms = [
        "Visitors of {t} see {x} first, a short walk from the station.",
        "In {t} it is {x} that people show their guests.",
        "Most would name {x}; {t} is known for it.",
        "{t} has {x}, which stands near the river.",
        "Go to {x} when you are in {t}, and take your time.",
        "Nobody leaves {t} without a look at {x}.",
    ]
    return [
        pair(f"What is there to see in {town}, for a visitor of kind {k}?", forms[(n + k) % 6].format(t=town, x=thing))
        for n, town in enumerate(TOWNS)
        for k, thing in enumerate(THINGS)
    ]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def counts(audit: Audit) -> dict[str, int]:
    return {item.name: item.count for item in audit.findings}


def audited(folder: Path, rows: list[dict[str, Any]]) -> dict[str, int]:
    return counts(audit_files([write(folder, rows)]))


def test_good_rows_are_good(tmp_path: Path):
    assert audited(tmp_path, good_rows()) == {}


BLOB = (
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg"
    * 2
)
LONG_PARAGRAPH = "The castle was built over an older wall, and its tower was a prison for many years."
PLANTED = [
    # finding, the row, its nearest neighbour that is none
    ("answer_loops", pair("Who won?", "The club won. " * 8), pair("Who won?", "The club won. The club won.")),
    ("answer_copies_question", pair("Draw the plan of a house.", "draw the plan of a house"),
     pair("Draw the plan of a house.", "Draw the walls of a house first.")),
    ("answer_copies_question", pair("Where is the fort?", "Where is the fort? In Sagres."),
     pair("Where is the fort?", "The fort is in Sagres.")),
    ("answer_language", pair("Onde fica o clube, e quem é que não tem mais sócios do que os outros?",
                             "It is in the town of Faro, and there are not many of them who have it."),
     pair("Como se diz em inglês que o clube fica em Faro e não tem mais sócios do que os outros?",
          "It is in the town of Faro, and there are not many of them who have it.")),
    ("split_words", pair("When was Tavira founded?", "Ta vira was founded by Moors."),
     pair("When was Tavira founded?", "Tavira was founded by Moors.")),
    ("turn_in_answer", pair("Where is Faro?", "In the south.\nHuman: And Lagos?"),
     pair("Write a dialogue about Faro.", "It is warm.\nHuman: And Lagos?")),
    ("end_mark_in_answer", pair("Name the fort.", "Sagres.</s>"), pair("Name the fort.", "Sagres.")),
    ("refusal", pair("Where is Faro?", "I'm sorry, but I cannot help with that request."),
     pair("What did she say?", "I'm sorry I was late.")),
    ("refusal", pair("Onde fica Faro?", "Desculpe, mas não posso ajudar com isso."),
     pair("Vai ao jogo?", "Não posso ir ao jogo, infelizmente.")),
    ("as_an_ai", pair("Do you like Faro?", "As an AI language model, I do not have feelings."),
     pair("What is GPT?", "It is used as a language model, and is known for it.")),
    ("as_an_ai", pair("Gosta de Faro?", "Como um modelo de linguagem, não tenho sentimentos."),
     pair("O que é o GPT?", "Serve como um modelo de linguagem, entre outros.")),
    ("label_in_answer", pair("Where is Faro?", "Answer: in the south."), pair("Where is Faro?", "The answer: south.")),
    ("python_literal", pair("Where is Faro?", "['In the south']"), pair("A list of towns?", "['Faro', 'Lagos']")),
    ("prompt_holds_answer", pair("Where is Faro?\nAnswer: in the south", "in the south"),
     pair("Faro is in the south. Where is it?", "in the south")),
    ("media_marks", pair("<image>\nWhat is there?", "A boat."), pair("What does `<image>` do?", "It shows one.")),
    ("media_marks", pair("What is there? <image_1>", "A boat."), pair("And this?\n<video>\n</video>", "A film.")),
    ("html_leftover", pair("Who runs it?", "Silva &amp; Sons.<br>"), pair("Who runs it?", "Silva & Sons run it.")),
    ("address_only", pair("Who runs it?", "https://silva.pt/about"), pair("Who runs it?", "See https://silva.pt/about")),
    ("unfilled_slot", pair("Greet me.", "Hello {first_name}, welcome."), pair("Greet me.", "Hello (you), welcome.")),
    ("encoded_blob", pair("Show the map.", f"Here: {BLOB}"), pair("Show the map.", "Here: " + "-" * 200)),
    ("accents_lost", pair("Como foi?", "A fundacao do clube nao foi em Lagos, e voce sabe disso tambem."),
     pair("Como foi?", "A fundação do clube não foi em Lagos.")),
    ("tokenized_text", pair("Was he there?", "He did n't go , he said . Later , he went ."),
     pair("Was he there?", "He didn't go, he said. Later, he went .")),
    ("broken_table", pair("Prices?", "| a | b |\n|---|---|\n| 1 | 2 | 3 |"),
     pair("Prices?", "| a | b |\n|---|---|\n| 1 | 2 |")),
    ("claims_to_know", pair("Do you know Faro?", "Yes, I know Faro well, with all that was written of it lately."),
     pair("Do you know Faro?", "It is a town of the south, with a harbour.")),
    ("spreadsheet_damage", pair("How many?", "There were #REF! of them."), pair("How many?", "It is #1 of them.")),
    ("spreadsheet_damage", pair("Which number?", "It is 3.51912E+11."), pair("Which number?", "It is 3.5 there.")),
    ("repeated_paragraph", pair("Tell me.", f"{LONG_PARAGRAPH}\n\nIt is open.\n\n{LONG_PARAGRAPH}"),
     pair("Tell me.", f"{LONG_PARAGRAPH}\n\nIt is open.")),
    ("line_ends", pair("Tell me.", "It is open.\r\nCome in."), pair("Tell me.", "It is open.\nCome in.")),
    ("escaped_text", pair("Tell me.", "It is open.\\nCome in."), pair("Tell me.", "It is in C:\\temp.")),
    ("reversed_text", pair("Tell me.", "The club was founded in the town and it has not more members."[::-1]),
     pair("Tell me.", "Faro Lagos Tavira Silves Portimão Albufeira Aljezur Monchique Sagres")),
    ("fence_language", pair("Print.", "```python\nconsole.log(x);\n```"), pair("Print.", "```python\nprint(x)\n```")),
    ("chatbot_leftover", pair("Who?", "Silva【4†source】."), pair("Who?", "Silva [4].")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "flawed", "sound"), PLANTED)
def test_a_planted_flaw_is_found_and_its_neighbour_is_not(
    tmp_path: Path, name: str, flawed: dict[str, Any], sound: dict[str, Any]
):
    rows = good_rows()
    rows[40] = flawed
    audit = audit_files([write(tmp_path, rows)])
    places = {item.name: [each["where"].rpartition(":")[2] for each in item.examples] for item in audit.findings}
    assert places.get(name) == ["41"]
    rows[40] = sound
    assert name not in audited(tmp_path, rows)


def test_every_check_of_answers_has_a_planted_flaw():
    checks = {*ANSWER_CHECKS, *TEXT_CHECKS, "end_mark_in_answer", "media_marks"}
    assert {name for name, _, _ in PLANTED} | {"better_is_refusal"} == checks


def test_a_better_answer_that_declines(tmp_path: Path):
    rows = [{"prompt": f"Ask {n}?", "chosen": f"It is {n} there.", "rejected": f"No, {n} it is."} for n in range(20)]
    rows[3] |= {"chosen": "I'm sorry, but I can't help with that."}
    assert audited(tmp_path, rows)["better_is_refusal"] == 1


def test_preferences_against_their_own_scores(tmp_path: Path):
    rows = [
        {
            "prompt": f"Ask {n}?",
            "chosen": f"It is {n} there.",
            "rejected": f"No, {n}.",
            "score_chosen": 8,
            "score_rejected": 5,
        }
        for n in range(20)
    ]
    rows[4] |= {"score_chosen": 2.5}
    audit = audit_files([write(tmp_path, rows)])
    (found,) = [item for item in audit.findings if item.name == "scores_inverted"]
    assert found.count == 1 and found.examples[0]["where"].endswith("rows.jsonl:5")


def test_answers_cut_at_one_length(tmp_path: Path):
    rows = good_rows()
    text = "and the road goes on along the sea past every village of the coast until it comes to the cape itself "
    for n in range(10):
        rows[5 * n] = pair(f"How does the road number {n} go?", (TOWNS[n] + " is where it begins " + text * 3)[:200])
    audit = audit_files([write(tmp_path, rows)])
    (found,) = [item for item in audit.findings if item.name == "cut_answers"]
    assert found.count == 10 and "200 characters" in found.what
    for n in range(10):
        rows[5 * n] = pair(rows[5 * n]["prompt"], (TOWNS[n] + " is where it begins " + text * 3)[: 150 + 11 * n])
    assert "cut_answers" not in audited(tmp_path, rows)


def test_answers_that_slipped_by_a_row(tmp_path: Path):
    rows = [pair(f"Who built the {a} of {b}?", f"The {a} of {b} was built by monks.") for b in TOWNS for a in
            ("castle", "bridge", "harbour", "chapel", "tower", "market")]  # fmt: skip
    assert "shifted_answers" not in audited(tmp_path, rows)
    answers = [row["completion"] for row in rows]
    for slip in (1, -1):
        shifted = [pair(row["prompt"], answers[(n - slip) % len(rows)]) for n, row in enumerate(rows)]
        assert audited(tmp_path, shifted)["shifted_answers"] > 30


def test_rows_of_a_template(tmp_path: Path):
    rows = good_rows()
    made = [
        pair(
            f"What is the price of ticket {n} to the island in summer?",
            f"Ticket {n} to the island costs {n * 3} euros.",
        )
        for n in range(12)
    ]
    assert audited(tmp_path, rows + made)["differ_in_numbers"] == 12
    assert "differ_in_numbers" not in audited(tmp_path, rows + made[:5])


def test_answers_that_all_begin_alike_and_classes_of_one(tmp_path: Path):
    rows = [
        pair(row["prompt"], "Sure, here is it: " + row["completion"]) if n % 2 else row
        for n, row in enumerate(good_rows())
    ]
    assert audited(tmp_path, rows)["formulaic_opening"] == 30
    labels = [pair(f"Is review {n} of {TOWNS[n % 10]} good?", "positive" if n % 10 else "negative") for n in range(40)]
    assert audited(tmp_path, labels)["one_class"] == 36
    even = [pair(f"Is review {n} of {TOWNS[n % 10]} good?", "positive" if n % 2 else "negative") for n in range(40)]
    assert "one_class" not in audited(tmp_path, even)


# --- what stands on both sides


def test_the_same_question_with_another_answer_on_the_other_side(tmp_path: Path):
    rows = good_rows()
    held_out = [pair(rows[0]["prompt"].upper(), "Nothing."), pair("Is it new?", "It is."), rows[1]]
    found = counts(audit_files([write(tmp_path, rows)], write(tmp_path, held_out, "held.jsonl")))
    assert (found["question_leakage"], found["leakage"]) == (1, 1)


def talk(*turns: str) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]}


def expanded(number: int) -> list[dict[str, Any]]:
    """One conversation as rows of one, two and three exchanges."""
    turns = [
        f"Where does bus {number} leave?",
        f"At gate {number}.",
        "How often?",
        "Every hour.",
        "For whom?",
        "For all.",
    ]
    return [talk(*turns[:end]) for end in (2, 4, 6)]


def test_a_conversation_that_begins_as_one_of_the_other_side(tmp_path: Path):
    train = [row for n in range(15) for row in expanded(n)[:2]]
    held_out = [expanded(3)[2], talk("Is it new?", "It is.", "How often?", "Every hour.")]
    found = counts(audit_files([write(tmp_path, train)], write(tmp_path, held_out, "held.jsonl")))
    assert found["shared_opening"] == 1 and "question_leakage" not in found


def build(folder: Path, rows: list[dict[str, Any]], **dataset: Any) -> list[list[str]]:
    """What is learned and what is held out: the text of each row's first question, or all of it."""
    write(folder, rows)
    recipe = Recipe(
        name="x", root=str(folder), base="b", sources=[Source(path="rows.jsonl")],
        dataset=Dataset(validation=0.2, **dataset),
    )  # fmt: skip
    build_dataset(recipe, folder / "dataset")
    return [
        [
            unicodedata.normalize("NFC", example.messages[0]["content"])
            for example in read_examples(folder / "dataset" / name)
        ]
        for name in ("train.jsonl", "validation.jsonl")
    ]


@pytest.mark.parametrize("split_by", ["content", "file"])
def test_rows_of_one_conversation_stay_on_one_side(tmp_path: Path, split_by: str):
    rows = [row for n in range(40) for row in expanded(n)]
    train, held_out = build(tmp_path, rows, split_by=split_by) if split_by == "content" else (["a"], ["b"])
    assert held_out and not {*train} & {*held_out}


def test_a_greeting_that_all_begin_with_ties_nothing_together(tmp_path: Path):
    rows = [talk("Hello!", "Hello, what is it?", f"Where is house {n}?", f"In road {n}.") for n in range(100)]
    rows += [
        talk("Hello!", "Hello, what is it?", f"Where is house {n}?", f"In road {n}.", "Far?", "No.") for n in range(100)
    ]
    write(tmp_path, rows)
    recipe = Recipe(name="x", root=str(tmp_path), base="b", sources=[Source(path="rows.jsonl")])
    build_dataset(recipe, tmp_path / "dataset")
    sides = [
        {example.messages[2]["content"] for example in read_examples(tmp_path / "dataset" / name)}
        for name in ("train.jsonl", "validation.jsonl")
    ]
    assert min(map(len, sides)) > 2 and not sides[0] & sides[1]


def test_composed_and_decomposed_letters_are_the_same_text(tmp_path: Path):
    apart = lambda text: unicodedata.normalize("NFD", text)  # noqa: E731
    rows = [pair(f"Onde fica São João número {n}?", f"No Algarve, à praça {n}.") for n in range(30)]
    both = rows + [{key: apart(text) for key, text in row.items()} for row in rows[:5]]
    found = audited(tmp_path, both)
    assert (found["exact_duplicate"], found["unicode_mixed"]) == (5, 5)
    held_out = write(tmp_path, [{key: apart(text) for key, text in rows[0].items()}], "held.jsonl")
    assert counts(audit_files([write(tmp_path, rows)], held_out))["leakage"] == 1
    other = [pair(apart(row["prompt"]), row["completion"] + " Sim.") for row in rows]
    train, validation = build(tmp_path, rows + other)
    assert validation and not {*train} & {*validation}
    # What joins an emoji or says how a letter is written is part of the text.
    assert "exact_duplicate" not in audited(tmp_path, [pair("Quem?", "👩‍👧 foi."), pair("Quem?", "👩👧 foi.")])


@needs_field
def test_the_field_unicode():
    found = counts(audit_files([FIELD / "28-unicode" / "rows.jsonl"]))
    assert found["exact_duplicate"] == 2 and found["unicode_mixed"] == 1  # NFD; a zero-width space and a mark
    assert found["control_characters"] == 1 and found["encoding_noise"] == 1 and found["escaped_text"] == 1
    audit = audit_files([FIELD / "28-unicode" / "train.jsonl"], FIELD / "28-unicode" / "held.jsonl")
    assert counts(audit)["leakage"] == 1


@needs_field
def test_the_field_end_marks_and_expanded_conversations(tmp_path: Path):
    assert counts(audit_files([FIELD / "32c" / "rows.jsonl"]))["end_mark_in_answer"] == 1
    rows = [
        json.loads(line) for line in (FIELD / "35-expanded" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    train, held_out = build(tmp_path, rows)
    assert held_out and not {*train} & {*held_out}


@pytest.mark.long
@needs_shared
def test_canarim_answers_looked_at_as_outputs():
    folder = SHARED / "ptbr" / "canarim"
    audit = audit_files([folder / "train.jsonl"], folder / "val.jsonl")
    found = {(item.name, item.split): item.count for item in audit.findings}
    assert found["answer_loops", "train"] == 140 and found["answer_copies_question", "train"] == 5
    assert found["question_leakage", "validation"] == 10 and found["leakage", "validation"] == 12
    # Few of these 8,000 rows have any of the flaws that no real file was looked at for: false alarms are rare.
    assert sum(found.get((name, "train"), 0) for name in {*ANSWER_CHECKS, *TEXT_CHECKS} - {"answer_loops"}) < 40


@needs_shared
@pytest.mark.long
def test_farense_leaks_ten_rows_and_no_more():
    folder = SHARED / "farense"
    found = counts(audit_files([folder / "train_full.jsonl"], folder / "valid_full.jsonl"))
    assert found["leakage"] == 10 and "shared_opening" not in found and "question_leakage" not in found


# --- what a finding is called


def test_the_page_of_findings_is_fresh_and_every_link_leads_to_a_heading(tmp_path: Path):
    page = (Path(__file__).parents[1] / "docs" / "findings.md").read_text(encoding="utf-8")
    assert page == reference(), "write it again: make docs"
    (finding,) = audit_files([write(tmp_path, [pair("Why?", "So.")])]).as_json()["findings"]
    file, _, heading = finding["link"].partition("#")
    assert (
        file == "docs/findings.md" and f"\n## {heading}\n" in page and finding["name"] == heading == "too_few_examples"
    )


# --- from finding to file


def test_a_clean_copy_lacks_what_the_policies_drop_and_nothing_else_changes(tmp_path: Path):
    kept = '{"prompt":  "Onde?", "completion": "Faro é no sul.", "id": 7}'
    mail = '{"prompt": "Mail?", "completion": "ana@mar.pt", "by": "ana@mar.pt"}'
    lines = [kept, '{"prompt": "", "completion": "Nada."}', kept, mail]
    file, out = tmp_path / "rows.jsonl", tmp_path / "clean.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    before = file.read_bytes()
    copy = write_clean(file, out, ["dataset.personal_data=mask"])
    assert out.read_text(encoding="utf-8").splitlines() == [
        kept, '{"prompt": "Mail?", "completion": "[E-MAIL]", "by": "[E-MAIL]"}'
    ]  # fmt: skip
    assert copy.reasons == {"empty_prompt": 1, "duplicate": 1, "personal_data_masked": 1}
    assert (copy.kept, copy.rows) == (2, 4)
    listed = [json.loads(line) for line in copy.list.read_text(encoding="utf-8").splitlines()]
    assert {(row["reason"], row["where"]) for row in listed} == {
        ("empty_prompt", "rows.jsonl:2"), ("duplicate", "rows.jsonl:3"), ("personal_data_masked", "rows.jsonl:4")
    }  # fmt: skip
    assert file.read_bytes() == before and sorted(each.name for each in tmp_path.iterdir()) == [
        "clean.dropped.jsonl", "clean.jsonl", "rows.jsonl"
    ]  # fmt: skip


def test_a_clean_copy_never_overwrites_its_own_file_nor_leaves_half_of_one(tmp_path: Path):
    file = write(tmp_path, good_rows())
    (tmp_path / "link.jsonl").hardlink_to(file)
    before = file.read_bytes()
    for target in (file, tmp_path / "link.jsonl", tmp_path / "x" / ".." / "rows.jsonl"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(RecipeError, match="overwritten"):
            write_clean(file, target)
    with pytest.raises(RecipeError, match="one JSONL file"):
        write_clean(tmp_path, tmp_path / "out.jsonl")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a"\n', encoding="utf-8")
    with pytest.raises(DataError):
        write_clean(broken, tmp_path / "out.jsonl")
    assert file.read_bytes() == before and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["valid.jsonl", "test.jsonl", "train.jsonl"])
def test_a_clean_copy_of_a_file_whose_name_tells_its_split(tmp_path: Path, name: str):
    file = write(tmp_path, [*good_rows(), good_rows()[0]], name)
    assert write_clean(file, tmp_path / "out.jsonl").kept == 60


def test_preferences_are_copied_too(tmp_path: Path):
    rows = [{"prompt": f"Ask {n}?", "chosen": f"It is {n} there.", "rejected": f"No, {n} it is."} for n in range(5)]
    copy = write_clean(write(tmp_path, [*rows, rows[0]]), tmp_path / "out.jsonl")
    assert (copy.kept, copy.reasons) == (5, {"duplicate": 1})


def test_what_changed_between_two_datasets(tmp_path: Path):
    rows = [pair(f"Where is house {n}?", f"In road {n}.") for n in range(40)]
    now = [*rows[1:30], pair(rows[30]["prompt"], "Nowhere."), *rows[31:], pair("Is it new?", "It is.")]
    found = difference(write(tmp_path, rows, "a.jsonl"), write(tmp_path, now, "b.jsonl"))
    kinds = (found.same, found.added.count, found.removed.count, found.changed.count, found.moved.count)
    assert kinds == (38, 1, 1, 1, 0) and found.rows == (40, 40)
    assert found.changed.places == [f"{tmp_path}/a.jsonl:31 -> {tmp_path}/b.jsonl:30"]
    assert found.as_json()["removed"] == {"count": 1, "places": [f"{tmp_path}/a.jsonl:1"]}
    build(tmp_path, rows)
    (tmp_path / "dataset").rename(tmp_path / "one")
    recipe = Recipe(
        name="x", root=str(tmp_path), base="b", sources=[Source(path="rows.jsonl")], seed=9,
        dataset=Dataset(validation=0.5),
    )  # fmt: skip
    build_dataset(recipe, tmp_path / "two")
    moved = difference(tmp_path / "one", tmp_path / "two")
    assert moved.moved.count > 3 and moved.same + moved.moved.count == 40 and not moved.added.count
    assert "(train) -> " in moved.moved.places[0] + moved.moved.places[1]


def run_alone(*commands: list[str]) -> list[str]:
    """What command lines write, one after the other in a process of their own; last of all whether torch was
    imported."""
    code = (
        "import json, sys; from afina.cli.verbs import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['afina', *words]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code\n"
        "    print('-----')\n"
        "print('torch' if sys.modules.get('torch') else 'none')"
    )
    words = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.split("-----\n")


def test_data_is_audited_and_shown_by_a_tokenizer_without_torch(tmp_path: Path):
    base = tmp_path / "base"
    make_tokenizer(base)
    file = write(tmp_path, good_rows())
    audited, shown, torch = run_alone(
        ["data", "audit", str(file), "--base", str(base)],
        ["data", "show", str(file), "--base", str(base), "--tokens", "--count", "2"],
    )
    assert "token_lengths" in audited and torch == "none\n"
    assert f"{file}:1  (" in shown and "[<|end|>]" in shown


def test_a_dataset_is_summed_up_once(tmp_path: Path):
    write(tmp_path, good_rows())
    (tmp_path / "r.yaml").write_text("name: x\nbase: none\nsources: [{path: rows.jsonl}]\n", encoding="utf-8")
    done = call_afina("data", "build", "r.yaml", folder=tmp_path)
    assert (done.stdout + done.stderr).count("every character of the sources is accounted for") == 1


# --- personal data of other countries

ABROAD = [
    ("IBAN", "Pay to DE89 3704 0044 0532 0130 00 today.", "Pay to DE89 3704 0044 0532 0130 01 today."),
    ("IBAN", "Pay to GB29NWBK60161331926819.", "Pay to GB29NWBK60161331926818."),
    ("SSN", "His number is 278-41-7844.", "The part is 000-41-7844."),
    ("DNI", "Con DNI 12345678Z.", "Con DNI 12345678A."),
    ("CODICE-FISCALE", "Nata, RSSMRA85T10A562S.", "Nata, RSSMRA85T10A562T."),
    ("IP", "It came from 184.106.96.34 at night.", "It came from 192.168.1.34, in version 7.3.12.45."),
    ("PHONE", "Call +44 20 7946 0958 now.", "Call +1 (555) 555-5555, or see +12 345."),
    ("PHONE", "Appelez le +33 6 12 34 56 78.", "Ce sont 6 12 34 56 78 pages."),
]


@pytest.mark.parametrize(("kind", "text", "sound"), ABROAD)
def test_personal_data_of_other_countries(kind: str, text: str, sound: str):
    assert [found.kind for found in find_personal_data(text)] == [kind]
    assert find_personal_data(sound) == []
    assert MASK.search(mask(text).text) and find_personal_data(mask(text).text) == []


def test_one_call_for_many_questions_is_no_boilerplate(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "harbour_tide", "arguments": {"port": "Vila Real"}}}
    turns = [
        [{"role": "user", "content": f"{thing}?"}, {"role": "assistant", "tool_calls": [call]}] for thing in THINGS
    ]
    (tmp_path / "calls.jsonl").write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    assert "boilerplate_answer" not in {each.name for each in audit_files([tmp_path / "calls.jsonl"]).findings}
    words = [pair(f"{thing}?", "It is in the middle of the old town.") for thing in THINGS]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    assert "boilerplate_answer" in {each.name for each in audit_files([tmp_path / "words.jsonl"]).findings}

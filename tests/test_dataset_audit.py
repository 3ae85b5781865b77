"""Each finding on rows made for it; then what is known about real files."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afina.dataset.audit import chunks
from afina.dataset.audit.audit import Audit, audit_dataset, audit_files, check_accepted
from afina.dataset.audit.one_example import CHECKS, excerpt
from afina.dataset.build.build import build_dataset
from afina.errors import RecipeError
from afina.recipe import Dataset, Recipe, Source
from afina.sources import Ledger, read_sources
from afina.text.example import Example

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


def asked(answer: str, prompt: str = "Why?") -> Example:
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Example(messages=messages, path="rows.jsonl")  # type: ignore[arg-type]


def said(text: str, path: str = "a.md") -> Example:
    return Example(text=text, path=path)


def preferred(better: str, worse: str, prompt: str = "Why?") -> Example:
    return replace(asked(better, prompt), rejected=worse)


HITS = [
    ("empty_prompt", asked("Yes.", " \n")),
    ("empty_answer", asked("\t")),
    ("empty_answer", preferred("Yes.", " ")),
    ("same_answers", preferred("Yes. ", "Yes.")),
    ("fragment", asked("-0, oárbitro suspendeu a partida.", "")),
    ("fragment", asked("alguns anos, presidente desta colectividade.", "")),
    ("fragment", said("Por sua vez, o Sport Lisboa e Faro que voltou ao Campeonato")),
    ("fragment", asked(" ## A Decisão Profissional")),
    ("fragment", asked("Isso parece justo o suficiente, eu estou de acordo com")),
    ("fragment", asked("Três. Dois. Um. E depois disso o foguete sobe para")),
    ("fragment", asked(": Envoltório de frango é um prato.")),
    ("ocr_noise", asked("5A0nos de História do Futebol em Faro")),
    ("ocr_noise", asked("50Anos de História do Futebol em Faro (1900-1950)")),
    ("ocr_noise", said("A história do futebol em Faro (1900-I 950ª)")),
    ("ocr_noise", asked("§Raminhos Bispo")),
    ("ocr_noise", said("O jogo é da cidade e terminou com ume1npate a uma bola, como se esperava.")),
    ("ocr_noise", said("Para dar cor local à compa-\nração, e ficar logo às boas com a crítica.")),
    ("ocr_noise", said("It was a remark-\nable game and a wonder-\nful day for the club.")),
    ("ocr_noise", said("Ora, o d i n h e i r o é u m resultado.")),
    ("ocr_noise", said("A situac¸a˜o do clube.")),
    ("ocr_noise", said("Os campeo\xad natos regionais.")),
    ("encoding_noise", said("A cidade de S�o Paulo.")),
    ("encoding_noise", said("A histÃ³ria nÃ£o acaba.")),
    ("encoding_noise", said("Itâ€™s here.")),
    ("control_characters", said("campeo\xad natos")),
    ("control_characters", asked("a\x00b")),
    ("personal_data", asked("O CPF dela é 529.982.247-25.")),
    ("placeholder", asked("Certainly. In Zig 0.14.0, feature X works like this: ...")),
    ("placeholder", asked("TODO")),
    ("placeholder", said("Lorem ipsum dolor sit amet.")),
    ("chat_markers", said("<|im_start|>user\nHi<|im_end|>")),
    ("chat_markers", said('{"prompt": "a", "completion": "b"}')),
    ("chat_markers", said('[{"nome": "Ana",\n  "clube": "Farense"}]', "a.json")),
    ("chat_markers", said("Below:\n### Instruction:\nDo it.")),
    ("chat_markers", said("[INST] Do it. [/INST]")),
    ("media_marks", asked("<image>\nA boat.")),
    ("media_marks", asked("<|vision_start|><|image_pad|><|vision_end|>A boat.")),
    ("template_leftover", said("```zig\n{{#include ../src/01-01.zig}}\n```")),
    ("template_leftover", said("A {#syntax#}fn{#endsyntax#} is")),
    ("template_leftover", said("{% if user %}Hello{% endif %}")),
    ("template_leftover", said("Dear {{ name }}, your club is here.")),
    ("encoding_noise", said("A reuni‡Æo do clube.")),
    ("unbalanced_fence", said("Code:\n\n```zig\nconst a = 1;\n\nAnd more words.")),
    ("unbalanced_fence", asked("So:\n~~~\nx = 1")),
]
CLEAN = [
    preferred("Because it is so.", "Because it is not so."),
    asked("Because it is so."),
    asked("1250 milhas"),
    asked("-2°C"),
    asked('{"nome": "Ana", "clube": "Farense"}'),
    asked("Ligue para o 911"),
    asked("um homem sentado num banco ao lado de um rio"),
    asked("Venha cá. Vale a pena. Sim. Experimente você mesmo! #novo #restaurante"),
    asked("Ideias: 1. Um clube. 2. Um jogo. 3. Uma ideia. 4. Procedimentos médicos"),
    said("Disse-\nme que é a vez do bem-\naventurado e da guarda-\nchuva que não tem."),
    said("The game is well-\nknown and it was the third-\nparty of all."),
    said("The type-\nsafe one is it."),
    said("As vogais a e i o u são cinco; A B C D E o alfabeto; o A e o G se parecem."),
    asked("O palíndromo é: [f o r t h e m u s i c]."),
    said("A 100º volta foi na 1ª divisão e no n.º 5 da R. 4ª."),
    said("Use html5lib, utf8mb4 or @12YearsAhaitian at Francisco%20Tavares."),
    said("Zig:\n\n```zig\nconst a = [_][2]u8{{ 1, 2 }};\n```\n\n```go\n{{ .Name }} {% if x %}\n```\n\nEnd."),
    said("Write `{{ name }}` and `{% if %}` in the page."),
    said("````md\n```\na\n```\n````\n\nEnd."),
    asked("Sim"),
    asked("Write `<image>` there, or:\n```svg\n<image>\n```"),
    asked("<video>\n  <source>\n</video>"),
    said("<image>\nAn element of SVG."),
    asked("Pele, Arranhão, Meow"),
    asked("Eis a lista:\n- um clube de Faro\n- outro clube de Faro"),
    asked("fn main() void {\n    return;\n}"),
    asked("A AÇÃO, a IRMÃ e o PÃO: «MANHû. São três palavras."),
    said("He said: ..."),
    said("It runs on x86, i32 and utf8 with 0x1A0fff."),
    said("Os manuscritos acabam aqui, disse ele.\n\nFIM", "a.txt"),
    said("Uma frase inteira.\n\n---"),
    said("pub fn a() void {}\n", "a.zig"),
    said("run: ${{ matrix.os }} and .{{ 1, 2 }}"),
    said("👨‍👩‍👧 joins with a character that is meant."),
]


@pytest.mark.parametrize(("name", "example"), HITS)
def test_a_check_hits_what_it_is_for_and_no_other_does(name: str, example: Example):
    assert name in [check for check, look in CHECKS.items() if look(example)]


@pytest.mark.parametrize("example", CLEAN)
def test_good_examples_pass(example: Example):
    assert [name for name, look in CHECKS.items() if look(example)] == []


def test_every_check_has_its_example():
    assert {name for name, _ in HITS} == set(CHECKS)


def test_a_hit_deep_in_a_text_is_named_by_its_line():
    spot = CHECKS["encoding_noise"](Example(text="A > B\n\nOne.\nTwo.\nS�o.", heading="A > B", path="a.md"))
    assert spot is not None and spot.lines_below == 2


def test_excerpts_are_short():
    assert len(excerpt("word " * 200, 500)) <= 160


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


def found(audit: Audit) -> dict[tuple[str, str], tuple[str, int, int]]:
    return {(item.name, item.split): (item.severity, item.count, item.of) for item in audit.findings}


def test_findings_between_rows(tmp_path: Path):
    rows = [pair(f"Question {n}?", f"The answer is {n}.") for n in range(90)]
    rows += [pair("Question 0?", "The answer is  0.")]  # again
    rows += [pair("question 1?", "It is another one.")]  # contradicts
    rows += [pair(f"Who is {name}?", "A well-known player of the club.") for name in "ABCDE"]  # boilerplate
    held_out = [pair("Question 2?", "The answer is 2."), *(pair(f"New {n}?", f"New is {n}.") for n in range(3))]
    audit = audit_files([write(tmp_path, rows)], write(tmp_path, held_out, "held.jsonl"))
    assert found(audit) == {
        ("exact_duplicate", "train"): ("warning", 1, 97),
        ("contradictory_answers", "train"): ("warning", 2, 97),
        ("boilerplate_answer", "train"): ("warning", 5, 97),
        ("leakage", "validation"): ("fatal", 1, 4),
    }
    places = {item.name: item.examples[0]["where"].rsplit("/")[-1] for item in audit.findings}
    assert places == {"exact_duplicate": "rows.jsonl:91", "contradictory_answers": "rows.jsonl:92",
                      "boilerplate_answer": "rows.jsonl:93", "leakage": "held.jsonl:1"}  # fmt: skip
    assert audit.fatal(["leakage"]) == [] and [item.name for item in audit.fatal()] == ["leakage"]
    json.dumps(audit.as_json())


def test_a_row_without_a_prompt_contradicts_nothing(tmp_path: Path):
    audit = audit_files([write(tmp_path, [pair("", f"Sentence number {n}.") for n in range(20)])])
    assert found(audit) == {("empty_prompt", "train"): ("fatal", 20, 20)}
    assert len(audit.findings[0].examples) == 5


def test_broken_lines_become_findings_and_the_rest_is_looked_at(tmp_path: Path):
    file = write(tmp_path, [pair(f"Question {n}?", f"Answer {n}.") for n in range(20)])
    file.write_text(file.read_text(encoding="utf-8") + '{"prompt": "cut\n', encoding="utf-8")
    (finding,) = audit_files([file]).findings
    assert (finding.name, finding.severity, finding.count) == ("unreadable", "fatal", 1)
    assert finding.examples[0]["where"].endswith("rows.jsonl:21")


def test_few_examples_and_a_missing_file(tmp_path: Path):
    assert found(audit_files([write(tmp_path, [pair("Why?", "So.")])]))[("too_few_examples", "train")][0] == "warning"
    with pytest.raises(RecipeError, match="no such file"):
        audit_files([tmp_path / "none.jsonl"])


def test_what_a_line_loader_would_make_of_a_text(tmp_path: Path):
    (tmp_path / "manual.md").write_text("# A\n\n" + "```zig\nconst a = 1;\n\n```\n\n" * 10, encoding="utf-8")
    audit = audit_files([tmp_path / "manual.md"])
    (note,) = [item for item in audit.findings if item.name == "line_loader"]
    assert (note.severity, note.count, note.of) == ("note", 21, 52)
    assert note.examples[0]["text"] == "each line becomes an example: 52 examples, 21 blank; 10 code blocks torn apart"


def test_a_built_dataset(tmp_path: Path):
    rows = [pair(f"Question {n}?", f"The answer is {n}.") for n in range(50)]
    write(tmp_path, [*rows, *rows[:5], pair("", "No question.")])

    def audited(**dataset: Any) -> Audit:
        policies = Dataset(on_empty_prompt="drop", **dataset)
        recipe = Recipe(name="x", root=str(tmp_path), base="b", sources=[Source(path="rows.jsonl")], dataset=policies)
        build_dataset(recipe, tmp_path / "dataset")
        return audit_dataset(tmp_path / "dataset", recipe)

    clean = audited()
    assert found(clean) == {("left_out", "train"): ("note", 6, 6)} and clean.fatal() == []
    kept = found(audited(on_duplicate="keep", validation=0.0))
    assert kept[("exact_duplicate", "train")] == ("warning", 5, 55)
    with pytest.raises(RecipeError, match="did you mean `leakage`"):
        audited(accept=["leekage"])


def test_a_folder_that_is_no_dataset(tmp_path: Path):
    recipe = Recipe(name="x", base="b", sources=[Source(path="a")])
    with pytest.raises(RecipeError, match="no dataset folder: train"):
        audit_dataset(tmp_path, recipe)


def test_accepted_names_are_known():
    check_accepted(["leakage", "fragment"])
    with pytest.raises(RecipeError):
        check_accepted(["zzz"])


def rows_of_all_kinds(count: int) -> list[dict[str, str]]:
    """From the middle on answers stand a row too low; some are said again, almost or to many, or are damaged."""
    chance = random.Random(3)
    words = [one + two for one in ("faro", "lagos", "tavira", "olhão") for two in ("nense", "zinha", "rado", "lândia")]
    answers = [chance.choices(words, k=chance.randint(1, 40)) for _ in range(count)]
    for place in range(40, count, 40):
        answers[place] = ["Não", "sei", "dizer", "quem", "foi."]
        answers[place - 20] = chance.choices(words, k=40)
        answers[place - 10] = [*answers[place - 20], "outra"]
    asked = [" ".join(answer[:9]) + "?" for answer in answers]
    asked = [each if place < count // 2 else asked[place - 1] for place, each in enumerate(asked)]
    ends = ["", ".", ",", " a\rb", "\xad", " {nome}", " §Ramos"]
    said = [" ".join(answer) + (chance.choice(ends) if place % 10 else "") for place, answer in enumerate(answers)]
    return [{"prompt": one, "completion": other} for one, other in zip(asked, said, strict=True)]


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Chunks of many lengths, here and in two processes; what neighbours show is joined where chunks meet."""
    file = tmp_path / "rows.jsonl"
    rows = rows_of_all_kinds(700)
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    whole = audit_files([file], workers=1)
    wanted = {"shifted_answers", "near_duplicate", "boilerplate_answer", "ocr_noise", "unfilled_slot", "line_ends"}
    assert wanted <= {finding.name for finding in whole.findings}
    for rows_of_a_chunk, workers in ((7, 1), (150, 2)):
        monkeypatch.setattr(chunks, "CHUNK_ROWS", rows_of_a_chunk)
        monkeypatch.setattr(chunks, "FEWEST_ROWS", 2 * rows_of_a_chunk)
        assert audit_files([file], workers=workers) == whole


@needs_shared
@pytest.mark.long
def test_farense():
    folder = SHARED / "farense"
    audit = audit_files([folder / "train_full.jsonl"], folder / "valid_full.jsonl")
    findings = found(audit)
    assert (audit.train, audit.validation) == (2413, 269)
    assert findings[("empty_prompt", "train")] == ("fatal", 2351, 2413)
    assert findings[("exact_duplicate", "train")] == ("fatal", 123, 2413)
    assert findings[("leakage", "validation")] == ("fatal", 10, 269)
    assert findings[("fragment", "train")][1] > 500
    places = {
        (item.name, example["where"].rsplit("/")[-1])
        for item in audit.findings
        for example in item.examples
    }  # fmt: skip
    assert ("ocr_noise", "train_full.jsonl:1") in places
    assert findings[("ocr_noise", "train")] == ("warning", 113, 2413)
    assert findings[("control_characters", "train")][1] == 33
    assert ("fragment", "train_full.jsonl:3") in places
    assert ("control_characters", "train_full.jsonl:72") in places


@pytest.mark.long
@needs_shared
def test_canarim_has_flaws_but_none_that_is_fatal():
    audit = audit_files([SHARED / "ptbr" / "canarim" / "train.jsonl"])
    assert audit.conversations == 8000 and audit.fatal() == []
    findings = found(audit)
    assert findings[("empty_answer", "train")] == ("warning", 5, 8000)
    assert findings[("exact_duplicate", "train")][1] == 53
    # Thirty of these were read one by one: answers that break off, or whose beginning is lost.
    assert findings[("fragment", "train")] == ("warning", 31, 8000)
    assert ("ocr_noise", "train") not in findings and ("language_mix", "train") not in findings


def test_a_mix_of_languages_is_told(tmp_path: Path):
    english = [
        pair(f"What is it in the club {n}?", "It was the first of them and they are not here.") for n in range(6)
    ]
    ours = [pair(f"O que é o clube {n}?", "É o primeiro e não tem mais sócios do que os outros.") for n in range(30)]
    (finding,) = [item for item in audit_files([write(tmp_path, ours + english)]).findings if "mix" in item.name]
    assert (finding.severity, finding.count, finding.of) == ("warning", 6, 36)
    assert finding.examples[0]["where"].endswith("rows.jsonl:31") and "pt 83.3 %, en 16.7 %" in finding.what


@needs_shared
@pytest.mark.long
def test_the_zig_manual_as_the_experiment_fed_it(tmp_path: Path):
    """The documentation as lines of text, the rows as lines of JSON."""
    page = SHARED / "zig" / "documentation-0.14.0.html"
    recipe = Recipe(name="x", base="b", root=str(page.parent), sources=[Source(path=page.name)])
    text = "\n".join(document.text for document in read_sources(recipe, Ledger()))
    (tmp_path / "documentation.txt").write_text(text, encoding="utf-8")
    rows = (SHARED / "zig" / "training-prompts.jsonl").read_text(encoding="utf-8")
    (tmp_path / "prompts.txt").write_text(rows, encoding="utf-8")
    findings = {item.name: item for item in audit_files([tmp_path]).findings}
    lines = len(text.splitlines())
    (manual,) = findings["line_loader"].examples
    assert manual["text"].startswith(f"each line becomes an example: {lines} examples, ") and lines > 8000
    assert findings["chat_markers"].examples[0]["where"].endswith("prompts.txt:1")
    assert "template_leftover" not in findings  # `.{{` is Zig


@needs_shared
def test_the_zig_experiments_rows():
    audit = audit_files([SHARED / "zig" / "training-prompts.jsonl"])
    (placeholder,) = [item for item in audit.findings if item.name == "placeholder"]
    assert placeholder.examples[0]["where"].endswith("training-prompts.jsonl:3")
    (claims,) = [item for item in audit.findings if item.name == "claims_to_know"]
    assert claims.severity == "warning"
    assert [int(spot["where"].rpartition(":")[2]) for spot in claims.examples] == [1, 4, 6, 10]

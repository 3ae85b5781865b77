"""What is made from documents comes after what is left out of them: nobody asks about what is personal or dropped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from teacher_server import FakeTeacher, always_good

from afina.dataset.build.build import build_dataset
from afina.dataset.questions.teacher import Taught, Teaching
from afina.errors import RecipeError
from afina.recipe import Dataset, Questions, Recipe, Source
from afina.run import hash_folder
from afina.text.document import Message
from afina.text.example import Example, read_examples

CPF, MAIL = "529.982.247-25", "ana@mar.pt"
PAGE = f"""# Ana Luz: Pioneira

**Alcunha:** Lu

**Documento:** {CPF}

**Correio:** {MAIL}

## Vida

Escreve de {MAIL} todos os dias e vive em Faro há muitos anos.

## Obra

Pintou a casa da Sé em Faro com muita calma e bom gosto.
"""
HERE = "{}.{}".format(*sys.version_info[:2])


def recipe(folder: Path, **dataset: Any) -> Recipe:
    questions = Questions(make=dataset.pop("make", ["facts", "sections"]), phrasings=2)
    settings = {"language": "pt-PT", "validation": 0.0, "questions": questions} | dataset
    return Recipe(name="x", base="b", root=str(folder), sources=[Source(path="docs")], dataset=Dataset(**settings))


def write(folder: Path, **pages: str) -> Path:
    (folder / "docs").mkdir(exist_ok=True)
    for name, text in pages.items():
        (folder / "docs" / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def built(own: Recipe, folder: Path, **values: Any) -> tuple[dict[str, Any], list[Example]]:
    summary = build_dataset(own, folder, **values)
    assert summary["balanced"]
    return summary, list(read_examples(folder / "train.jsonl"))


def dropped(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("policy", ["mask", "drop"])
def test_no_file_of_a_dataset_holds_personal_data_in_clear(tmp_path: Path, policy: str):
    write(tmp_path, a_md=PAGE, b_txt=f"Telefone de Ana: {CPF}.")
    summary, train = built(recipe(tmp_path, personal_data=policy, hold_out_phrasings=1), tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        text = file.read_text(encoding="utf-8")
        assert CPF not in text and MAIL not in text, file.name
    said = {example.answer for example in train if example.made}
    assert "Lu." in said and ("[CPF]." in said) == (policy == "mask")
    if policy == "drop":
        assert not any("[E-MAIL]" in answer for answer in said)
        assert summary["dropped"]["question: personal data"] >= 2
    assert any("Pintou" in answer for answer in said)


def test_a_teacher_sees_masked_sections(tmp_path: Path):
    pages = "".join(f"# Town {n}\n\nFaro has {20 + n} gates and {n} towers, says {MAIL}.\n\n" for n in range(3))
    write(tmp_path, a_md=pages)
    with FakeTeacher(always_good) as server:
        teacher = {"url": server.url, "model": "m", "questions_per_section": 2, "paraphrases": 1}
        own = recipe(tmp_path, make=[], language="en", personal_data="mask", section_chars=80)
        own = own.model_copy(
            update={"dataset": Dataset.model_validate(own.dataset.model_dump() | {"teacher": teacher})}
        )
        summary, _ = built(own, tmp_path / "out", teaching=Teaching(tmp_path / "cache"))
        assert summary["teacher"]["sections"] == 3
        assert MAIL not in "".join(map(str, server.asked)), "the teacher sees masked sections"
    assert all(MAIL not in file.read_text(encoding="utf-8") for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("policy", ["keep", "mask", "drop"])
def test_what_a_teacher_invents_is_masked_or_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str):
    def say(answer: str) -> Example:
        turns = (Message(role="user", content="Quem?"), Message(role="assistant", content=answer))
        return Example(messages=turns, path="docs/a.md", made="teacher", phrasing=1, group="a" * 16, teacher="m")

    invented = [say(f"A do CPF {CPF}."), say("A Ana."), say("A  Ana.")]
    monkeypatch.setattr("afina.dataset.build.build.teach", lambda *_: Taught(list(invented), summary={}))
    write(tmp_path, a_md="# Ana\n\nA Ana vive em Faro.\n")
    teacher = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    summary, train = built(recipe(tmp_path, make=[], teacher=teacher, personal_data=policy), tmp_path / "out")
    answers = [example.answer for example in train if example.made]
    first = {"keep": [f"A do CPF {CPF}."], "mask": ["A do CPF [CPF]."], "drop": []}[policy]
    assert answers == [*first, "A Ana."] and summary["dropped"]["duplicate"] == 1
    assert summary["personal_data"] == ({} if policy == "keep" else {"CPF": 1})
    assert policy == "keep" or CPF not in (tmp_path / "out/dropped.jsonl").read_text(encoding="utf-8")


def test_what_is_a_near_duplicate_is_not_asked_about(tmp_path: Path):
    prose = " ".join(f"palavra{n}" for n in range(120))
    write(
        tmp_path,
        a_md=f"# Ana: Um\n\n**Alcunha:** Lu\n\n{prose} e mais uma\n",
        b_md=f"# Rui: Dois\n\n**Alcunha:** Ze\n\n{prose}\n",
        c_md=f"# Ana: Um\n\n**Alcunha:** Lu\n\n{prose} e mais uma\n",
    )
    near = {"on": "drop", "threshold": 0.7}
    summary, train = built(recipe(tmp_path, make=["facts"], near_duplicates=near), tmp_path / "out")
    assert summary["dropped"]["duplicate"] == 1 and summary["dropped"]["near_duplicate"] == 1
    assert {example.answer for example in train if example.made == "facts:nickname"} == {"Lu."}
    reasons = {row["text"]: row["reason"] for row in dropped(tmp_path / "out") if row["reason"].startswith("question")}
    assert reasons["Rui | Alcunha: Ze"] == "question: its document is left out"


def test_no_program_is_made_of_code_that_its_compiler_refuses(tmp_path: Path):
    good, bad = '"""Say hi to all."""\nimport os\n', '"""Say no to all."""\nimport os (\n'
    write(tmp_path, good_py=good, bad_py=bad)
    own = recipe(tmp_path, make=["programs"], language="en", check_code={"python": HERE}, on_wrong_code="drop")
    summary, train = built(own, tmp_path / "out")
    assert {example.path for example in train} == {"docs/good.py"} and summary["dropped"]["wrong_code"] == 1
    assert summary["code"]["python"]["wrong"] == 1


def test_builds_that_need_all_documents_at_once_read_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("afina.dataset.build.part.BATCH_FILES", 3)
    write(tmp_path, **{f"p{n}_md": f"# Nome {n}\n\n**Alcunha:** A{n}\n\nTexto {n}.\n" for n in range(20)})
    own = recipe(tmp_path, split_by="file", validation=0.3, hold_out_phrasings=1)
    one, _ = built(own, tmp_path / "one", workers=1)
    two, _ = built(own, tmp_path / "two", workers=2)
    assert one == two and hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    assert one["made"]["examples"] == 40 and one["validation"]["examples"] > 0
    engine = own.model_copy(update={"dataset": own.dataset.model_copy(update={"engine": "datatrove"})})
    with pytest.raises(RecipeError, match="cannot make questions"):
        build_dataset(engine, tmp_path / "three")
    assert not (tmp_path / "three").exists()

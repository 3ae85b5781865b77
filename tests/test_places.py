"""From a place that an audit names back to the row: the place is right, and what stands there is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from tiny import make_base, make_recipe

from afina.dataset.audit.audit import audit_files
from afina.dataset.audit.places import Place, examples_at, raw_line, read_place
from afina.dataset.audit.read_files import AuditReading, read_files
from afina.errors import RecipeError
from afina.text.document import Message
from afina.text.example import Example
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.tokenizer.show import show_tokens, shown_sides

BROKEN_WORD = "A história do futebol em Faro (1900-I 950ª) começa aqui, com muitos jogos."


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(question: str, answer: str) -> dict[str, str]:
    return {"prompt": question, "completion": answer}


def examples_of(path: Path) -> list[Example]:
    return list(read_files(path, AuditReading()))


def test_a_flaw_deep_in_a_row_of_many_lines_is_placed_at_the_row(tmp_path: Path):
    """A text of ten lines stands on one line of its file: lines below it are other rows."""
    clean = [{"text": f"O jogo número {n} foi no domingo, e todos foram para casa."} for n in range(9)]
    many = {"text": "\n".join(["Uma linha do texto, que está certa."] * 6 + ["### Response: sim"] + [BROKEN_WORD])}
    long = {"text": "\n\n".join(["Um parágrafo inteiro, que está certo. " * 30] * 4 + ["### Response: sim"])}
    file = lines(tmp_path / "rows.jsonl", clean[0], many, *clean[1:5], long, *clean[5:])
    found = {each.name: [at["where"] for at in each.examples] for each in audit_files([file]).findings}
    assert found["chat_markers"] == [f"{file}:2", f"{file}:7"]
    assert found["ocr_noise"] == [f"{file}:2"]


def test_what_stands_at_a_place(tmp_path: Path):
    page = tmp_path / "a.md"
    page.write_text("# Um\n\nO primeiro.\n\n## Dois\n\nO segundo,\nque continua.\n", encoding="utf-8")
    file = lines(tmp_path / "rows.jsonl", pair("a", "b"), pair("c", "d"))
    with file.open("a", encoding="utf-8") as more:
        more.write("{half a row\n")
    inside, row, broken = Place(str(page), 8), Place(str(file), 2), Place(str(file), 3)
    found = examples_at([*examples_of(page), *examples_of(file)], [inside, row, broken])
    assert [each.text.splitlines()[-1] for each in found[inside]] == ["que continua."]
    assert [each.answer for each in found[row]] == ["d"]
    assert found[broken] == [] and raw_line(broken) == "{half a row"


def test_a_place_without_a_line_is_refused():
    with pytest.raises(RecipeError, match="names no line"):
        read_place("docs/a.md")


def test_show_begins_where_it_is_told_and_writes_json(tmp_path: Path):
    file = lines(tmp_path / "rows.jsonl", *(pair(f"pergunta {n}", f"resposta {n}") for n in range(1, 8)))
    text = call_afina("data", "show", file, "--first", 3, "--count", 2).stdout
    assert [line for line in text.splitlines() if line.startswith("user")] == ["user: pergunta 3", "user: pergunta 4"]
    rows = json.loads(call_afina("data", "show", file, "--first", 7, "--json").stdout)["examples"]
    assert [each["row"]["messages"][1]["content"] for each in rows] == ["resposta 7"]
    (only,) = json.loads(call_afina("data", "show", file, "--at", f"{file}:5", "--json").stdout)["examples"]
    assert only["at"] == f"{file}:5" and only["row"]["from"]["line"] == 5


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    base = make_base(tmp_path_factory.mktemp("places") / "base")
    recipe = make_recipe(base)
    return Renderer(load_tokenizer(str(base), recipe.chat), recipe.chat)


def turns(*said: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[number % 2], content=text) for number, text in enumerate(said))  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "example",
    [
        Example("Faro marcou.\nTavira é de Lagos", path="a.md", line=4),
        Example(messages=turns("Onde nasceu Ana?", "Faro de Ana", "E Rui?", "Lagos"), path="rows.jsonl", line=7),
        Example(messages=turns("Onde nasceu Ana?", "Faro"), rejected="Lagos", path="rows.jsonl", line=9),
    ],
    ids=["text", "conversation", "preference"],
)
def test_tokens_as_values_are_those_that_are_shown(example: Example, renderer: Renderer):
    sides = list(shown_sides(example, renderer))
    text = show_tokens(example, renderer, color=False)
    written = [
        "".join(f"[{token.text}]" if token.learned else token.text for token in row).replace("\n", "\\n")
        for side in sides
        for row in side.rows
    ]
    assert all(each in text for each in written) and len(written) == text.count(" learned)\n")
    assert [side.rejected for side in sides] == ([False, True] if example.rejected else [False])
    for side in sides:
        for row in side.rows:
            assert [token.text for token in row] == [renderer.tokenizer.decode([token.id]) for token in row]

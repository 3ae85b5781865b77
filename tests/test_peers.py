"""The data cases that today's training tools pass over in silence: each is refused before a model is loaded, with
file, line, what was found and what to do, or repaired by a choice in the recipe; and no token goes missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from tiny import make_base

from afina.cli.opened import walk_of
from afina.model import load_torch
from afina.text.document import visible
from afina.text.example import Example, read_examples
from afina.text.identity import group_key
from afina.tokenizer.encode import encode_examples
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.walk import walk_through

TOWNS = ("Faro", "Olhão", "Lagos", "Tavira", "Loulé", "Silves")
ROWS = [{"prompt": f"Onde nasceu o jogador {n}?", "completion": f"Em {TOWNS[n % 6]}, no ano {n}."} for n in range(60)]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def project(tmp_path: Path, base: Path, monkeypatch) -> Path:
    """A folder with a recipe of one source; no model may be loaded in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("load_base", "make_model"):
        monkeypatch.setattr(load_torch, name, lambda *_, **__: pytest.fail("a model was loaded"))
    recipe(tmp_path, base, "rows.jsonl")
    return tmp_path


def recipe(folder: Path, base: Path, *sources: str) -> None:
    listed = "\n".join(f"  - path: {path}" for path in sources)
    train = "{max_length: 64, batch_tokens: 128}"
    text = f"name: case\nbase: {base}\nsources:\n{listed}\ndataset: {{validation: 0.1}}\ntrain: {train}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")


def write(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def refused(*overrides: str) -> str:
    """Run the recipe; it must end with exit code 3. What it said."""
    return call_afina("run", "recipe.yaml", *overrides, check=3).stderr


def built(*overrides: str) -> tuple[list[Example], list[Row]]:
    """Dataset, audit and encoding by the recipe; the examples and what was dropped. Every token is accounted for."""
    with walked(*overrides) as walk:
        folder = walk.folder / "dataset"
        examples = [each for split in ("train", "validation") for each in read_examples(folder / f"{split}.jsonl")]
        encoded = encode_examples(examples, renderer(walk), walk.recipe)
        rows = sum(len(row) for row in encoded.rows)
        # tokens in = tokens trained + tokens named as left out (a block opens with the last token of the one before)
        assert encoded.tokens == rows - encoded.repeated + sum(encoded.dropped.values())
        dropped = [json.loads(line) for line in (folder / "dropped.jsonl").open(encoding="utf-8")]
        dropped += [{"reason": "too_long", "where": where} for where in encoded.dropped_examples.get("too_long", [])]
        left_out = set(encoded.dropped_examples.get("too_long", []))
        return [each for each in examples if f"{each.path}:{each.line}" not in left_out], dropped


class walked:  # noqa: N801
    """The walk of the recipe up to its audit."""

    def __init__(self, *overrides: str) -> None:
        self.opened = walk_of(Path("recipe.yaml"), list(overrides), Path("runs"))

    def __enter__(self) -> Context:
        walk = self.opened.__enter__()
        walk_through(walk, until="audit")
        return walk

    def __exit__(self, *error: object) -> None:
        self.opened.__exit__(*error)  # type: ignore[arg-type]


def content_tokens(rows: list[Row], walk: Context) -> int:
    """Tokens of what rows of any shape say, without marks."""
    tokens = renderer(walk).tokenizer
    texts = [
        row.get("text") or [turn["content"] for turn in row.get("messages", ())] or list(row.values()) for row in rows
    ]
    return sum(
        len(tokens(part, add_special_tokens=False)["input_ids"])
        for text in texts
        for part in ([text] if isinstance(text, str) else text)
    )


def adds_up(rows: list[Row], *overrides: str) -> list[Row]:
    """The tokens of all rows = those of the examples + those of `dropped.jsonl` and of what is too long."""
    kept, dropped = built(*overrides)
    with walked(*overrides) as walk:
        trained = content_tokens([example.as_json() for example in kept], walk)
        by_place = {f"rows.jsonl:{line}": row for line, row in enumerate(rows, start=1)}
        lost = content_tokens([row if "messages" in row else by_place[row["where"]] for row in dropped], walk)
        assert content_tokens(rows, walk) == trained + lost
    return dropped


def planted(place: int, *bad: Row) -> list[Row]:
    return [*ROWS[:place], *bad, *ROWS[place:]]


def test_02_a_prompt_longer_than_the_limit(project: Path):
    rows = planted(30, {"prompt": "Onde? " * 90, "completion": "Em Faro."})
    write(project / "rows.jsonl", rows)
    said = refused()
    assert "rows.jsonl:31" in said and "train.max_length (64 tokens" in said and "on_too_long: drop" in said
    dropped = adds_up(rows, "dataset.on_too_long=drop")
    assert [(row["reason"], row["where"]) for row in dropped] == [("too_long", "rows.jsonl:31")]


def test_03_empty_and_blank_sides(project: Path):
    bad = [("", "Sim."), (" \n", "Sim."), ("Quem?", ""), ("Quando?", "\t"), ("", "Não.")]
    rows = planted(10, *({"prompt": prompt, "completion": answer} for prompt, answer in bad))
    write(project / "rows.jsonl", rows)
    said = refused()
    assert "no prompt in 3 of 65 rows: rows.jsonl:11, rows.jsonl:12, rows.jsonl:15" in said
    assert "no answer in 2 of 65 rows: rows.jsonl:13, rows.jsonl:14" in said
    assert "`dataset.on_empty_prompt: drop`" in said and "`dataset.on_empty_answer: drop`" in said
    dropped = adds_up(rows, "dataset.on_empty_prompt=drop", "dataset.on_empty_answer=drop")
    assert {row["where"] for row in dropped} == {f"rows.jsonl:{line}" for line in range(11, 16)}


def test_04_duplicates_and_validation_rows_in_train(project: Path, base: Path):
    rows = [*ROWS, *ROWS[:12]]
    write(project / "rows.jsonl", rows)
    said = refused("dataset.on_duplicate=error")
    assert "12 examples stand there again: rows.jsonl:61 (again rows.jsonl:1)" in said
    dropped = adds_up(rows)
    assert [(row["where"], row["same_as"]) for row in dropped[:1]] == [("rows.jsonl:61", "rows.jsonl:1")]
    assert len(dropped) == 12

    held = [*ROWS[:6], *({"prompt": f"Quem é {n}?", "completion": f"O jogador {n}."} for n in range(6))]
    write(project / "held.jsonl", held)
    said = call_afina("data", "audit", "rows.jsonl", "--validation", "held.jsonl", check=3).stdout
    assert "leakage: 6 of 12 (validation)" in said and "held.jsonl:1:" in said

    recipe(project, base, "rows.jsonl\n    validation: 0.0", "held.jsonl\n    validation: 1.0")
    built()
    train, validation = (set(map(group_key, read_examples(project / f"runs/case/dataset/{s}.jsonl")))
                         for s in ("train", "validation"))  # fmt: skip
    assert len(validation) == 6 and not train & validation


def test_05_a_broken_line(project: Path):
    write(project / "rows.jsonl", ROWS)
    lines = (project / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    lines[29] = '{"prompt": "Onde\n", "completion": "Em Faro."}'.replace("\n", "\x01")
    (project / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = refused()
    assert "rows.jsonl:30" in said and "->" in said


def test_06_a_latin_1_file(project: Path):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (project / "rows.jsonl").write_bytes(text.encode("latin-1"))
    said = refused()
    first = next(line for line, row in enumerate(ROWS, start=1) if "ã" in str(row) or "é" in str(row))
    assert f"rows.jsonl:{first}" in said and "cp1252" in said
    assert adds_up(ROWS, "sources.0.encoding=cp1252") == []


ENDLESS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + 'END\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_13_a_template_without_an_end_token(project: Path):
    write(project / "rows.jsonl", ROWS)
    (project / "endless.jinja").write_text(ENDLESS.replace("END", ""), encoding="utf-8")
    said = refused("chat.template=endless.jinja")
    assert "never learn to stop" in said and "rows.jsonl:" in said and "chat.template" in said
    (project / "ending.jinja").write_text(ENDLESS.replace("'END", "eos_token + '"), encoding="utf-8")
    assert adds_up(ROWS, "chat.template=ending.jinja") == []


FEW = (("sft", "manual.md"), ("cpt", "rows.jsonl"))
"""What `make test` reads of the manual: cut at headings, and whole."""


def manual() -> str:
    """About 84 KB: headings, paragraphs, lists, tables, code with blank lines in it."""

    def parts() -> Iterator[str]:
        yield "# Manual\n"
        for chapter in range(61):
            yield f"## Capítulo {chapter}\n"
            for n in range(8):
                yield f"O parágrafo {n} do capítulo {chapter} diz o que se faz na cidade de {TOWNS[n % 6]}. " * 2 + "\n"
            yield f"- um ponto\n- outro ponto do capítulo {chapter}\n"
            yield f"| a | b |\n|---|---|\n| {chapter} | dois |\n"
            yield (
                "```zig\n" + "\n\n".join(f"fn f{chapter}_{n}() void {{\n    // passo\n}}" for n in range(5)) + "\n```\n"
            )

    return "\n".join(parts())


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=() if (method, name) in FEW else pytest.mark.long)
        for method in ("sft", "cpt")
        for name in ("manual.txt", "manual.md", "rows.jsonl")
    ],
)
def test_14_a_manual_of_84_kilobytes(project: Path, base: Path, name: str, method: str):
    text = manual()
    assert 83_000 < len(text.encode()) < 86_000
    recipe(project, base, name)
    if name.endswith("jsonl"):
        write(project / name, [{"text": text}])
    else:
        (project / name).write_text(text, encoding="utf-8")
    examples, dropped = built(f"train.method={method}", "dataset.validation=0.0", "dataset.on_duplicate=keep")
    assert not dropped
    # Every line stands in the examples, as often as in the manual, and in its order.
    lines = [line for line in "\n".join(each.text for each in examples).splitlines() if line.strip()]
    waiting = iter(lines)
    assert all(line in waiting for line in text.splitlines() if line.strip() and len(line) < 80)
    summary = json.loads((project / "runs/case/dataset/dataset.json").read_text())
    counted = summary["characters"]
    assert counted["read"] == visible(text) == counted["examples"] - counted["context_added"]
    assert (len(examples) == 1) == (method == "cpt")
    if method == "sft":
        # Not a line for an example: sections, and none of them blank. Code blocks stay whole outside plain text.
        assert len(examples) < 1500 and all(each.text.strip() for each in examples)
        if name == "manual.md":
            assert sum(each.text.count("```") for each in examples) == 122
            assert all(each.text.count("```") % 2 == 0 for each in examples)
    # Every token of the text is a target once, however many blocks it became.
    with walked(f"train.method={method}", "dataset.validation=0.0", "dataset.on_duplicate=keep") as walk:
        encoded = encode_examples(examples, renderer(walk), walk.recipe)
        learned = sum(len(renderer(walk).text(each.text).ids) - 1 for each in examples)
        assert encoded.targets == learned and max(map(len, encoded.rows)) <= 64


def test_15_unknown_columns(project: Path):
    write(project / "rows.jsonl", [{"frage": row["prompt"], "antwort": row["completion"]} for row in ROWS])
    said = refused()
    assert "rows.jsonl:1" in said and "unknown columns: `frage`, `antwort`" in said
    assert "columns: {prompt: frage, completion: antwort}" in said
    assert adds_up(ROWS, "sources.0.columns={prompt: frage, completion: antwort}") == []


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_16_no_rows(project: Path, content: str):
    (project / "rows.jsonl").write_text(content)
    said = refused()
    assert "rows.jsonl: the file has no rows: it is empty" in said and "->" in said


def test_17_one_question_with_four_answers(project: Path):
    bad = [{"prompt": "Quem é o maior?", "completion": f"É o jogador {n}."} for n in (1, 2, 3, 4)]
    bad.append({"prompt": "Quem é o maior? ", "completion": "É o jogador 1, claro."})
    rows = planted(20, *bad)
    write(project / "rows.jsonl", rows)
    said = refused("dataset.validation=0.0")
    assert "contradictory_answers" in said and "rows.jsonl:22" in said and "keep one answer" in said
    assert adds_up(rows, "dataset.validation=0.0", "dataset.accept=[contradictory_answers]") == []

"""Answers in the base's own words: which may stand for a row's own, by hand; and what became of every row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_ladder import quiet
from tiny import make_base

from afina.dataset.build.canaries import CANARY
from afina.errors import AfinaError
from afina.improve import own_words
from afina.improve.own_words import (
    COPIED,
    INVENTED,
    LOST,
    NO_QUESTION,
    OF_THE_ASKING,
    PROBES,
    REPLAYED,
    SAME,
    TOO_LONG,
    WORD_FOR_WORD,
    OwnWords,
    read_own_words,
    rewrite,
    why_kept,
    words_of_rows,
)
from afina.model.generate.generate_torch import Answer
from afina.recipe import Recipe, check_recipe
from afina.recipe.changed import with_settings
from afina.run import Run
from afina.text.example import Example
from afina.text.key_terms import TermTable
from afina.walk.context import Context

FLAG = "O programa tem a opção `--watch` desde a versão 0.14.0, e constrói outra vez quando um ficheiro muda."
ASKED = "O que faz a opção de vigiar?"


def row(prompt: str, answer: str, **more: Any) -> Example:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Example(messages=turns, path="rows.jsonl", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Desde a versão 0.14.0 há a opção `--watch`: quando um ficheiro muda, o programa constrói-se outra vez.", ""),
        ("Com a opção --watch, da versão 0.14.0, o programa constrói outra vez se um ficheiro muda.", ""),
        (FLAG, SAME),
        (f"  {FLAG}\n", SAME),
        (f"{ASKED} {FLAG}", COPIED),
        (f"A resposta certa: {FLAG}", OF_THE_ASKING),
        (f"{FLAG} Ou seja: {FLAG}", LOST),  # twice
        (
            "Desde a versão 0.15.0 há a opção `--watch`: quando um ficheiro muda, o programa constrói-se outra vez.",
            LOST,
        ),
        ("Há uma opção que vigia os ficheiros e constrói outra vez quando um deles muda.", LOST),
        ("A opção `--watch` é da 0.14.0.", LOST),  # nothing of what it does
        ("Desde a versão 0.14.0 não há a opção `--watch`, que constrói outra vez quando um ficheiro muda.", LOST),
        ("Desde a versão 0.14.0 de Lisboa há a opção `--watch`: constrói outra vez quando um ficheiro muda.", LOST),
        ("Não sei: `--watch` da versão 0.14.0 constrói outra vez quando um ficheiro muda.", LOST),
    ],
)
def test_a_long_answer_holds_every_key_term_and_none_of_its_own(said: str, why: str) -> None:
    assert why_kept(said, ASKED, FLAG, TermTable(), "pt-PT") == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Bento nasceu em Faro.", ""),
        ("Foi em faro", ""),
        ("Faro", SAME),
        ("Bento nasceu no Farol.", LOST),
        ("Bento nasceu em Faro, filho de Ana.", LOST),
        ("Nunca em Faro.", LOST),
        ("Onde nasceu Bento? Em Faro.", COPIED),
    ],
)
def test_a_short_answer_holds_the_reference_whole(said: str, why: str) -> None:
    assert why_kept(said, "Onde nasceu Bento?", "Faro", TermTable(), "pt-PT") == why


def test_a_long_answer_without_a_key_term_stays_as_it_is() -> None:
    """Nothing in it could be marked: no words prove that another says the same."""
    plain = "quando o vento muda de lado os barcos voltam para casa e as redes secam ao sol até ao dia seguinte"
    other = "os barcos voltam para casa quando o vento muda de lado, e até ao dia seguinte as redes secam ao sol"
    assert why_kept(other, "E depois?", plain, TermTable(), "pt-PT") == LOST
    assert why_kept(f"é assim: {plain}", "E depois?", plain, TermTable(), "pt-PT") == "", "it stands there whole"


def test_every_sentence_of_a_long_answer_is_told() -> None:
    """As a small base wrote it: the term is there, and half of what is said of it is not."""
    tier = "- It can make code with a back end such as LLVM.\n- The linker can produce object files and libraries."
    first = "In this tier it can make code for all of this with a back end such as LLVM."
    assert why_kept(first, "What about tier 3?", tier, TermTable(), "en") == LOST
    both = f"{first} The linker can produce libraries and object files."
    assert why_kept(both, "What about tier 3?", tier, TermTable(), "en") == ""


def test_a_name_at_a_sentences_beginning_is_known_by_the_other_rows() -> None:
    """A capital alone says nothing there: what the rows write with a capital inside a sentence is a name."""
    said, rows = "Celso nasceu em Faro.", [row("Onde nasceu o Celso?", "Faro")]
    assert why_kept(said, "Onde nasceu Bento?", "Faro", TermTable(), "pt-PT") == ""
    assert why_kept(said, "Onde nasceu Bento?", "Faro", words_of_rows(rows), "pt-PT") == LOST


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"), max_position_embeddings=1024)


@pytest.fixture
def recipe(base: Path, tmp_path: Path) -> Recipe:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    values = {"name": "a", "root": str(tmp_path), "base": str(base), "sources": [{"path": "rows.jsonl"}]}
    return check_recipe(values | {"dataset": {"language": "pt-PT"}})


@pytest.fixture
def context(recipe: Recipe, tmp_path: Path) -> Iterator[Context]:
    with Run.open(tmp_path / "runs/a", recipe, lambda text: None) as run:
        yield Context(run, quiet)


def answering(monkeypatch: pytest.MonkeyPatch, says: dict[str, Answer]) -> list[str]:
    """The base says this to a prompt that holds a word; and what it was asked."""
    asked: list[str] = []

    def generate(model: Any, renderer: Any, prompts: list[list[int]], **more: Any) -> list[Answer]:
        texts = [str(renderer.tokenizer.decode(ids)) for ids in prompts]
        asked.extend(texts)
        return [next(answer for word, answer in says.items() if word in text) for text in texts]

    monkeypatch.setattr("afina.model.generate.generate_torch.generate", generate)
    return asked


def ended(text: str) -> Answer:
    return Answer(text, 5, True)


def test_every_row_is_counted_with_what_became_of_it(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Ana", "Rui", "Eva", "Gil", "Ivo", "Zeca", "Nuno")
    rows = [row(f"Onde nasceu {name}?", "Faro") for name in names]
    others = [
        row("Onde nasceu Ana?", "Faro", line=9),  # the same again, of another source
        row("Onde nasceu Sara?", "Lagos", replay=True),
        Example(text="O Rui nasceu em Faro."),
        row("Quem é a Ana?", "longa " * 2000),
        row("Qual é o código do cofre Ana?", "O código do cofre Ana é 1234-5678-9012.", made=CANARY),
    ]
    says = {
        "Ana": ended("A Ana nasceu em Faro."),
        "Rui": ended("O Rui nasceu em Lagos."),
        "Eva": Answer("Em Faro, que fica", 5, False),
        "Gil": ended("Faro"),
        "Ivo": ended(" "),
        "Zeca": ended("Faro é de onde? Onde nasceu Eva? Em Faro."),
        "Nuno": ended("<think>Não sei.</think> O Nuno nasceu em Faro."),
    }
    prompts = answering(monkeypatch, says)
    found = rewrite(context, [*rows, *others], frozenset({"onde nasceu eva"}))
    assert dict(found.kept) == {
        REPLAYED: 1, INVENTED: 1, NO_QUESTION: 1, TOO_LONG: 1, LOST: 1,
        "did not end": 1, SAME: 1, "said nothing": 1, PROBES: 1,
    }  # fmt: skip
    assert found.examples == 12 and found.rewritten == 3, "both of Ana's rows, and Nuno's"
    assert list(found.rows) == [
        {"prompt": "Onde nasceu Ana?", "completion": "A Ana nasceu em Faro.", "reference": "Faro"},
        {"prompt": "Onde nasceu Nuno?", "completion": "O Nuno nasceu em Faro.", "reference": "Faro"},
    ]
    assert all("Faro" in prompt for prompt in prompts), "the answer is before its eyes"


def test_what_is_asked_word_for_word_stays_so(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Desde a versão 0.14.0 a opção `--watch` constrói outra vez se um ficheiro muda."
    answering(monkeypatch, {"vigiar": ended(said)})
    context.run.recipe = with_settings(context.recipe, {"evaluate.limits.learned_min": 0.9})
    found = rewrite(context, [row("Onde nasceu Ana?", "Faro"), row(ASKED, FLAG)], frozenset())
    assert dict(found.kept) == {WORD_FOR_WORD: 1} and [each["reference"] for each in found.rows] == [FLAG]


def test_a_base_from_nothing_has_no_words_of_its_own(context: Context) -> None:
    """Random weights write on until they have no room: each row stays as it is."""
    found = rewrite(context, [row(f"Onde nasceu {name}?", "Faro") for name in ("Ana", "Rui", "Eva")], frozenset())
    assert found.rewritten == 0 and found.rows == () and sum(found.kept.values()) == 3
    assert found.describe().startswith("0 of 3 rows are answered in the base's own words; kept as they were: ")


def test_a_method_that_learns_no_answers_asks_nobody(context: Context) -> None:
    context.run.recipe = with_settings(context.recipe, {"train.method": "dpo"})
    assert rewrite(context, [row("a", "b")], frozenset()).why_none == "method dpo learns no answers over a base"


def test_what_was_found_is_read_back(tmp_path: Path) -> None:
    rows = ({"prompt": "a", "completion": "It is b.", "reference": "b"},)
    found = OwnWords(rows, 4, {LOST: 2, SAME: 1}, epochs=2.5, seconds=1.5, made_from="abc")
    assert read_own_words(tmp_path) is None
    found.write(tmp_path)
    again = read_own_words(tmp_path)
    assert again is not None and again.as_json() == found.as_json() and again.rewritten == 1
    written = [json.loads(line) for line in (tmp_path / own_words.ROWS_FILE).read_text(encoding="utf-8").splitlines()]
    assert written == [*rows]
    for epochs in ("0", "NaN", '"2"', "1e400"):
        text = (tmp_path / own_words.FILE).read_text(encoding="utf-8")
        (tmp_path / own_words.FILE).write_text(re.sub(r'"epochs": [^\n,]*', f'"epochs": {epochs}', text))
        with pytest.raises(AfinaError, match="`epochs` should be a number"):
            read_own_words(tmp_path)

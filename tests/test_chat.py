"""The terminal chat: what a person types, and what comes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_serve import make_adapter
from tiny import make_base, make_recipe

from afina.model.generate.generate_torch import generate
from afina.model.load_torch import load_base, open_adapter
from afina.model.open_model import without_adapter
from afina.recipe import Chat
from afina.serve.terminal_chat import Settings, Talk, answer_once, fold_thinking, open_voices, talk
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer

QUESTION = "Onde nasceu Ana Faro?"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Renderer]:
    """Trained model, the way to the base, renderer."""
    folder = tmp_path_factory.mktemp("chat")
    base = make_base(folder / "base")
    adapter = make_adapter(base, folder / "adapter", 1)
    model = open_adapter(load_base(base, make_recipe(base), torch.device("cpu")), adapter)
    return model, partial(without_adapter, model), Renderer(load_tokenizer(str(base), Chat()), Chat())


class Heard:
    """Stands for the person's terminal."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: list[list[dict[str, str]]] = []

    def show(self, answers: Iterator[Any]) -> None:
        self.shown.append([dict(each) for each in answers])


@pytest.fixture
def chat(opened: tuple[Any, Any, Renderer]) -> Iterator[tuple[Talk, Heard]]:
    model, before, renderer = opened
    heard = Heard()
    with open_voices(model, before, renderer) as voices:
        yield Talk(voices, renderer, Settings(max_new_tokens=8), heard.said.append, heard.show), heard


def greedy(opened: tuple[Any, Any, Renderer], messages: list[Any], *, base: bool = False, new: int = 8) -> str:
    model, before, renderer = opened
    prompt = [renderer.prompt(messages)]
    if base:
        with before() as untrained:
            return generate(untrained, renderer, prompt, max_new_tokens=new)[0].text
    return generate(model, renderer, prompt, max_new_tokens=new)[0].text


def test_base_and_trained_answer_beside_each_other_piece_by_piece(opened: Any, chat: Any):
    talk_, heard = chat
    assert talk_.take(QUESTION)
    pieces = heard.shown[0]
    asked = [{"role": "user", "content": QUESTION}]
    right = {"base": greedy(opened, asked, base=True), "trained": greedy(opened, asked)}
    assert {name: text.strip() for name, text in pieces[-1].items()} == right and right["base"] != right["trained"]
    assert len(pieces) >= 8 and all(pieces[-1]["trained"].startswith(each["trained"]) for each in pieces)


def test_each_goes_on_in_its_own_conversation_until_reset(opened: Any, chat: Any):
    talk_, heard = chat
    talk_.take("/set max_new_tokens 2")  # a mark in an answer comes back as words, which are many
    talk_.take("Onde?")
    first = {name: text.strip() for name, text in heard.shown[0][-1].items()}
    talk_.take("Faro?")
    for name in ("base", "trained"):
        turns = [("user", "Onde?"), ("assistant", first[name]), ("user", "Faro?")]
        messages = [{"role": role, "content": text} for role, text in turns]
        assert heard.shown[1][-1][name].strip() == greedy(opened, messages, base=name == "base", new=2)
    talk_.take("/reset")
    talk_.take("Onde?")
    assert heard.shown[2] == heard.shown[0]


def test_settings_are_changed_shown_and_refused(chat: Any):
    talk_, heard = chat
    for line in ("/set temperature 0.1", "/set seed 3", "/set max_new_tokens 4", "/set"):
        assert talk_.take(line)
    assert heard.said[-1] == "temperature 0.1, top_p 1.0, max_new_tokens 4, seed 3, think fold"
    for line, answer in (
        ("/set temperatur 1", "use temperature"),
        ("/set temperature nan", "from 0"),
        ("/set top_p 0", "above 0"),
        ("/set max_new_tokens 0.5", "whole number"),
        ("/rest", "use /reset"),
        ("/system", "nothing is said first"),
        ("/help", "/save FILE"),
    ):
        assert talk_.take(line) and answer in heard.said[-1], line
    talk_.take(QUESTION)
    talk_.take("/reset")
    talk_.take(QUESTION)
    assert heard.shown[0] == heard.shown[1]  # a seed draws the same again
    assert not talk_.take("/quit")


def test_system_and_save(opened: Any, chat: Any, tmp_path: Path):
    talk_, heard = chat
    talk_.take("/system Fala.")
    talk_.take("Onde?")
    messages = [{"role": "system", "content": "Fala."}, {"role": "user", "content": "Onde?"}]
    assert heard.shown[0][-1]["trained"].strip() == greedy(opened, messages)
    talk_.take(f"/save {tmp_path}/a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["model"] for row in rows] == ["base", "trained"]
    assert rows[1]["messages"] == [*messages, {"role": "assistant", "content": greedy(opened, messages)}]
    for line, answer in ((f"/save {tmp_path}/a.jsonl", "is there already"), ("/save", "no file"), ("/save /x/y", "/x")):
        talk_.take(line)
        assert answer in heard.said[-1]


def test_a_conversation_that_cannot_be_saved_goes_on(chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is in memory alone: an error of the disk ended the program, and it with it."""
    talk_, heard = chat
    talk_.take(QUESTION)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert talk_.take("/save ~/a.jsonl") and (tmp_path / "a.jsonl").is_file()

    def barred(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "b.jsonl")

    monkeypatch.setattr("afina.serve.terminal_chat.write_whole", barred)
    assert talk_.take(f"/save {tmp_path}/b.jsonl")
    assert "b.jsonl: cannot be read or written: Permission denied" in heard.said[-1]
    assert all(len(voice.turns) == 2 for voice in talk_.voices)


def test_too_long_and_stopped_questions_are_forgotten(opened: Any, chat: Any):
    talk_, heard = chat
    talk_.take("Faro " * 80)
    assert "the model sees 64" in heard.said[-1]

    def stopped(answers: Iterator[Any]) -> None:
        next(answers)
        raise KeyboardInterrupt

    talk_.show = stopped
    talk_.take(QUESTION)
    assert "stopped" in heard.said[-1]
    assert not any(voice.engine.busy or voice.turns for voice in talk_.voices)
    talk_.show = heard.show
    talk_.take(QUESTION)
    assert heard.shown[-1][-1]["trained"].strip() == greedy(opened, [{"role": "user", "content": QUESTION}])


def test_an_answer_has_what_room_there_is_and_a_cut_is_said(chat: Any):
    """The model sees 64 tokens; 8 are asked for."""
    talk_, heard = chat
    talk_.take("Faro " * 60)
    assert heard.said[-2:] == ["base: cut after 1 tokens", "trained: cut after 1 tokens"]


def test_thoughts_are_folded_unless_shown(chat: Any, monkeypatch: pytest.MonkeyPatch):
    assert fold_thinking("a <think>b\nc</think> d") == "a [thought: 2 words] d"
    talk_, heard = chat
    monkeypatch.setattr(
        "afina.serve.terminal_chat.write_answers", lambda *_: iter([{"trained": "<think>b c</think> Faro"}])
    )
    talk_.voices = talk_.voices[1:]
    talk_.take(QUESTION)
    talk_.take("/set think show")
    talk_.take(QUESTION)
    shown = [each[-1]["trained"] for each in heard.shown]
    assert shown == ["[thought: 2 words] Faro", "<think>b c</think> Faro"]


def test_a_model_trained_whole_and_its_base(opened: Any, tmp_path: Path):
    """Two models, two engines; lines from a file, an empty one among them."""
    _, _, renderer = opened
    first, second = (
        load_base(folder, make_recipe(folder), torch.device("cpu"))
        for folder in (make_base(tmp_path / "one"), make_base(tmp_path / "two", seed=3))
    )
    lines = iter([QUESTION, "", "/quit", "never"])
    heard = Heard()
    talk(
        second,
        lambda: contextlib.nullcontext(first),
        renderer,
        Settings(max_new_tokens=8),
        read=lambda: next(lines),
        say=heard.said.append,
        show=heard.show,
    )
    asked = [renderer.prompt([{"role": "user", "content": QUESTION}])]
    right = [generate(model, renderer, asked, max_new_tokens=8)[0].text for model in (first, second)]
    assert [text.strip() for text in heard.shown[0][-1].values()] == right and next(lines) == "never"


def test_one_question(opened: Any):
    model, before, renderer = opened
    asked = [{"role": "user", "content": QUESTION}]
    assert answer_once(model, before, renderer, QUESTION, 8, print) == {
        "base": greedy(opened, asked, base=True),
        "trained": greedy(opened, asked),
    }


def test_a_terminal_shows_columns_and_obeys_no_model(capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    from afina.progress import show_answers

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    show_answers(iter([{"base": "Lagos", "trained": "Fa"}, {"base": "Lagos\x1b[2J", "trained": "Faro"}]))
    out = capsys.readouterr().out
    assert out.splitlines()[-1].split() == ["Lagos[2J", "Faro"] and "\x1b[2J" not in out

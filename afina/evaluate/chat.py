"""Talk to a trained model in the terminal, rendered exactly as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from afina.evaluate.evaluate import OpenModel
from afina.model.generate import generate
from afina.sources.document import Message
from afina.tokenizer.chat import Renderer


def answer_once(
    model: Any, before: OpenModel | None, renderer: Renderer, question: str, max_new_tokens: int
) -> dict[str, str]:
    """One question to the trained model and, where wanted, to the model before training."""
    return _answers(model, before, renderer, [{"role": "user", "content": question}], max_new_tokens)


def talk(
    model: Any,
    before: OpenModel | None,
    renderer: Renderer,
    max_new_tokens: int,
    read: Callable[[str], str],
    write: Callable[[str], None],
) -> None:
    """A conversation until an empty line, ``/quit`` or the end of the input; ``/new`` forgets it."""
    write("empty line or /quit ends, /new starts over")
    turns: list[Message] = []
    while True:
        try:
            said = read("> ").strip()
        except EOFError:
            return
        if said in ("", "/quit"):
            return
        if said == "/new":
            turns = []
            continue
        turns.append({"role": "user", "content": said})
        answers = _answers(model, before, renderer, turns, max_new_tokens)
        for who, text in answers.items():
            write(f"{who}: {text}" if before else text)
        turns.append({"role": "assistant", "content": answers["trained"]})


def _answers(
    model: Any, before: OpenModel | None, renderer: Renderer, turns: Sequence[Message], max_new_tokens: int
) -> dict[str, str]:
    prompt = [renderer.prompt(turns)]
    answers = {}
    if before:
        with before() as base:
            answers["base"] = generate(base, renderer, prompt, max_new_tokens=max_new_tokens)[0].text
    answers["trained"] = generate(model, renderer, prompt, max_new_tokens=max_new_tokens)[0].text
    return answers

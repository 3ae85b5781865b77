"""Talk to a trained model in the terminal, rendered exactly as in training; the base beside it where wanted.

> Onde nasceu Ana?          a question: whoever answers writes at the same time, each in a conversation of its own
> /set temperature 0.1      a command: see HELP
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from afina.errors import AfinaError, RecipeError, unreadable_path
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import BASE, Request
from afina.model.open_model import OpenModel
from afina.recipe import nearest
from afina.recipe.home import from_home
from afina.text.document import Message
from afina.tokenizer.chat import Renderer
from afina.whole import write_whole

HELP = """/set NAME VALUE   temperature, top_p, max_new_tokens, seed (none draws anew each time), think (fold or show)
/set              what is set
/system TEXT      say this first, from now on; without a text: what is said first
/reset            forget the conversation; what is set stays
/save FILE        write the conversation as rows of messages, one a model (JSON lines)
/help             this
/quit             end; so does the end of the input
Control-C stops an answer."""


@dataclass
class Settings:
    """What ``/set`` changes."""

    temperature: float = 0.0
    """0 is greedy: the same answer every time."""
    top_p: float = 1.0
    max_new_tokens: int = 200
    seed: int | None = None
    think: str = "fold"

    def change(self, name: str, value: str) -> None:
        """
        Raises:
            RecipeError: no such name, or no such value.

        >>> settings = Settings()
        >>> settings.change("temperature", "0.1")
        >>> settings.temperature
        0.1
        """
        known = [each.name for each in fields(self)]
        if name not in known:
            raise RecipeError(f"{name!r} cannot be set", f"use {nearest(name, known) or ', '.join(known)}")
        try:
            found = READ[name](value)
        except ValueError:
            raise RecipeError(f"{name} cannot be {value!r}", RANGES[name]) from None
        setattr(self, name, found)

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {str(getattr(self, each.name)).lower()}" for each in fields(self))


def _number(value: str, low: float, high: float, *, open_low: bool = False) -> float:
    found = float(value)
    if not low <= found <= high or (open_low and found == low):
        raise ValueError
    return found


def _think(value: str) -> str:
    if value not in ("fold", "show"):
        raise ValueError
    return value


READ: dict[str, Callable[[str], Any]] = {
    "temperature": lambda value: _number(value, 0.0, 2.0),
    "top_p": lambda value: _number(value, 0.0, 1.0, open_low=True),
    "max_new_tokens": lambda value: int(_number(str(int(value)), 1, 1 << 20)),
    "seed": lambda value: None if value == "none" else int(_number(str(int(value)), 0, 1 << 62)),
    "think": _think,
}
RANGES = {
    "temperature": "a number from 0 (greedy) to 2",
    "top_p": "a number above 0, 1 at most",
    "max_new_tokens": "a whole number from 1 on",
    "seed": "a whole number, or none",
    "think": "fold or show",
}


@dataclass
class Voice:
    """One that answers, with the conversation as it went for it."""

    name: str
    engine: Engine
    adapter: str | None = None
    turns: list[Message] = field(default_factory=list)


@contextlib.contextmanager
def open_voices(model: Any, before: OpenModel | None, renderer: Renderer) -> Iterator[list[Voice]]:
    """The trained model, and the model before training first where wanted; on an adapter's base in one batch."""
    with contextlib.ExitStack() as stack:
        engine = _engine(model, renderer)
        voices = [Voice("trained", engine)]
        if before is not None and engine.adapters()[1:]:
            voices.insert(0, Voice("base", engine, BASE))
        elif before is not None:
            voices.insert(0, Voice("base", _engine(stack.enter_context(before()), renderer)))
        yield voices


def _engine(model: Any, renderer: Renderer) -> Engine:
    return Engine(model, renderer.tokenizer, renderer.stop_ids(), places=2)


def write_answers(
    voices: Iterable[Voice], renderer: Renderer, settings: Settings, say: Callable[[str], None]
) -> Generator[dict[str, str], None, None]:
    """What each has written so far, after every step; leaving early frees their places.

    Args:
        say: is told of an answer that is cut, by ``max_new_tokens`` or by what the model sees.

    Raises:
        ContextOverflow: a conversation leaves no room for an answer.
        AfinaError: the model's logits are NaN.
    """
    voices = list(voices)
    engines = list(dict.fromkeys(voice.engine for voice in voices))
    texts = dict.fromkeys((voice.name for voice in voices), "")
    names: dict[tuple[Engine, int], str] = {}
    try:
        for voice in voices:
            prompt, context = renderer.prompt(voice.turns), voice.engine.context
            room = settings.max_new_tokens if context is None else min(settings.max_new_tokens, context - len(prompt))
            request = Request(
                prompt=prompt,
                max_new_tokens=max(1, room),
                adapter=voice.adapter,
                temperature=settings.temperature,
                top_p=settings.top_p,
                seed=settings.seed,
                stream=True,
            )
            names[voice.engine, voice.engine.submit(request)] = voice.name
        while any(engine.busy for engine in engines):
            for engine in engines:
                for piece in engine.step():
                    texts[names[engine, piece.id]] += piece.text
                    if piece.done and piece.done.finish == "length":
                        say(f"{names[engine, piece.id]}: cut after {len(piece.done.tokens)} tokens")
                    if piece.done and piece.done.finish == "failed":
                        raise AfinaError("the model's logits are NaN", "the weights are damaged, or a layer overflows")
            yield dict(texts)
    finally:
        for engine, number in names:
            engine.cancel(number)


def answer_once(
    model: Any,
    before: OpenModel | None,
    renderer: Renderer,
    question: str,
    max_new_tokens: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """One question to the trained model and, where wanted, to the model before training."""
    with open_voices(model, before, renderer) as voices:
        for voice in voices:
            voice.turns.append({"role": "user", "content": question})
        *_, last = write_answers(voices, renderer, Settings(max_new_tokens=max_new_tokens), say)
    return {name: text.strip() for name, text in last.items()}


Show = Callable[[Iterator[Mapping[str, str]]], None]
"""Shows answers while they are written."""


def talk(
    model: Any,
    before: OpenModel | None,
    renderer: Renderer,
    settings: Settings,
    *,
    read: Callable[[], str | None],
    say: Callable[[str], None],
    show: Show,
) -> None:
    """A conversation until ``/quit`` or the end of what is read."""
    with open_voices(model, before, renderer) as voices:
        conversation = Talk(voices, renderer, settings, say, show)
        say("ask, or /help")
        while (line := read()) is not None and conversation.take(line):
            pass


def fold_thinking(text: str, *, begun: bool = False) -> str:
    """Thoughts as their count of words.

    Args:
        begun: whether the template has opened ``<think>`` already.

    >>> fold_thinking("<think>Ana? In Faro.</think> Faro."), fold_thinking("<think>Ana? In")
    ('[thought: 3 words] Faro.', '[thinking: 2 words]')
    >>> fold_thinking("Ana? In Faro.</think> Faro.", begun=True)
    '[thought: 3 words] Faro.'
    """
    text = ("<think>" if begun else "") + text
    text = re.sub(r"<think>(.*?)</think>", lambda found: f"[thought: {len(found[1].split())} words]", text, flags=re.S)
    return re.sub(r"<think>(.*)", lambda found: f"[thinking: {len(found[1].split())} words]", text, flags=re.S)


class Talk:
    """A conversation: questions and commands in, answers out.

    Args:
        say: is told what is not an answer, e.g. the settings.
        show: shows the answers while they come.
    """

    def __init__(
        self, voices: list[Voice], renderer: Renderer, settings: Settings, say: Callable[[str], None], show: Show
    ) -> None:
        self.voices, self.renderer, self.settings, self.say, self.show = voices, renderer, settings, say, show

    def take(self, line: str) -> bool:
        """One line of the person; returns False where it ends the conversation."""
        line = line.strip()
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return False
        try:
            if word.startswith("/"):
                self._command(word, rest.strip())
            elif line:
                self._ask(line)
        except AfinaError as error:
            self.say(str(error))
        return True

    def _command(self, word: str, rest: str) -> None:
        if word == "/set":
            name, _, value = rest.partition(" ")
            if name:
                self.settings.change(name, value.strip())
            self.say(str(self.settings))
        elif word == "/system":
            if rest:
                chat = self.renderer.chat.model_copy(update={"system": rest})
                self.renderer = Renderer(self.renderer.tokenizer, chat)
            said = self.renderer.chat.system
            self.say(f"said first: {said}" if said else "nothing is said first")
        elif word == "/reset":
            for voice in self.voices:
                voice.turns.clear()
            self.say("forgotten")
        elif word == "/save":
            self._save(rest)
        elif word == "/help":
            self.say(HELP)
        else:
            close = nearest(word, ("/set", "/system", "/reset", "/save", "/help", "/quit"))
            raise RecipeError(f"there is no command {word}", f"use {close or '/help'}")

    def _ask(self, question: str) -> None:
        before = {voice.name: list(voice.turns) for voice in self.voices}
        last: dict[str, str] = {}
        cut: list[str] = []

        def folded() -> Generator[Mapping[str, str], None, None]:
            begun = {voice.name: self._begins_thinking(voice) for voice in self.voices}
            for texts in write_answers(self.voices, self.renderer, self.settings, cut.append):
                last.update(texts)
                yield {name: self._shown(text, begun[name]) for name, text in texts.items()}

        for voice in self.voices:
            voice.turns.append({"role": "user", "content": question})
        try:
            with contextlib.closing(folded()) as answers:
                self.show(answers)
        except (AfinaError, KeyboardInterrupt) as error:
            for voice in self.voices:
                voice.turns = before[voice.name]
            if isinstance(error, AfinaError):
                raise
            self.say("stopped; the question is forgotten")
            return
        for voice in self.voices:
            voice.turns.append({"role": "assistant", "content": last[voice.name].strip()})
        for remark in cut:
            self.say(remark)

    def _begins_thinking(self, voice: Voice) -> bool:
        return self.renderer.prompt_text(voice.turns).rstrip().endswith("<think>")

    def _shown(self, text: str, begun: bool) -> str:
        return text if self.settings.think == "show" else fold_thinking(text, begun=begun)

    def _save(self, name: str) -> None:
        file = from_home(name)
        if not name or file.exists():
            raise RecipeError(f"{name} is there already" if name else "no file is named", "/save FILE of a new name")
        if not file.parent.is_dir():
            raise RecipeError(f"there is no folder {file.parent}", "make it, or name another", "/save")
        system = self.renderer.chat.system
        first = [{"role": "system", "content": system}] if system else []
        rows = [{"model": voice.name, "messages": [*first, *voice.turns]} for voice in self.voices if voice.turns]
        try:
            write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        except OSError as error:  # the conversation is in memory alone: it must not end by this
            raise unreadable_path(error) from error
        self.say(f"wrote {file}: {len(rows)} rows")

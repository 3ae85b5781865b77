"""A chat template over one tokenizer: turns to text, what of it is an answer, and what it refuses.

A template is a program that came with the base. What it has no place for is asked before it could leave that out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, get_args, get_type_hints

from jinja2.exceptions import TemplateSyntaxError, UndefinedError

from afina.errors import BaseError, DataError
from afina.recipe import Chat
from afina.text.document import Message, Tool, message_texts
from afina.tokenizer.abilities import PROBE_CALL, Abilities
from afina.tokenizer.answer_end import behind, find_end, left_out
from afina.tokenizer.day import on_one_day
from afina.tokenizer.marks import IN_ANSWERS, NO_GUARD, Guard, TokenMarks, guard_messages

ROLES: frozenset[str] = frozenset(get_args(get_type_hints(Message)["role"]))
"""Some templates build a mark from a role: another one could be any mark."""


class NotRendered(DataError):
    """A conversation that this template cannot render for training, whatever the reason."""


class TemplateRefusal(NotRendered):
    """The chat template takes no such conversation: many know no system text, or want turns to alternate."""


@dataclass(frozen=True, slots=True)
class WrittenAnswer:
    """An answer as the template writes it when asked for it: the prompt, what follows, and the token that ends it."""

    prompt: str
    text: str
    end_id: int
    thought: str
    lost: bool
    """Whether the thought does not stand in the text."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A conversation as the template may see it."""

    turns: list[Message]
    arguments: Mapping[str, Any]
    guard: Guard = NO_GUARD

    def first(self, count: int) -> Guarded:
        """Its first turns."""
        return Guarded(self.turns[:count], self.arguments, self.guard)


_CONTENT = re.compile("[\U000f0000-\U000f0003]")


class ChatTemplate:
    """The template of a tokenizer, with a recipe's chat settings."""

    def __init__(self, tokenizer: Any, chat: Chat) -> None:
        self.tokenizer, self.chat = tokenizer, chat

    @cached_property
    def takes_system(self) -> bool:
        """Whether the chat template has a place for a system message: some refuse it, some leave it out."""
        turns: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
        try:
            return "be brief" in self.apply(Guarded(turns, self.chat.template_args), generation=True)
        except TemplateRefusal:
            return False

    @cached_property
    def abilities(self) -> Abilities:
        """What the chat template has a place for."""

        def render(turns: Any, arguments: Mapping[str, Any], generation: bool) -> str:
            return self._write(turns, self.chat.template_args | dict(arguments), generation=generation)

        return Abilities.of(render)

    @cached_property
    def marks(self) -> TokenMarks:
        """What the tokenizer reads as marks."""
        return TokenMarks(self.tokenizer, "\n".join([str(self.tokenizer.chat_template or ""), *self._probes]))

    @cached_property
    def plain_turn_marks(self) -> list[str]:
        """What the template writes between two turns that is text to the tokenizer, so that a content can write it too.

        ``[/INST]`` where it is no token, ``### User:``; not a name between marks (``<|im_start|>user``).
        """
        known = re.compile("|".join(map(re.escape, sorted(self.marks.found, key=len, reverse=True))) or r"(?!)")
        found: list[str] = []
        for probe in self._probes:
            for between in _CONTENT.split(probe)[1:-1]:
                for part in known.split(between):
                    lines = [line.strip() for line in part.split("\n") if line.strip()]
                    found += [line for line in lines if not line.isalnum() and not IN_ANSWERS.fullmatch(line)]
        return sorted(set(found))

    @cached_property
    def _probes(self) -> list[str]:
        """Conversations as the template writes them, their contents one private character each."""
        a, b, c, d = (chr(code) for code in range(0xF0000, 0xF0004))
        turns: list[Message] = [
            {"role": "system", "content": a},
            {"role": "user", "content": b},
            {"role": "assistant", "content": c},
            {"role": "user", "content": d},
            {"role": "assistant", "content": a},
        ]
        found = []
        for each in (turns, turns[1:]) if self.tokenizer.chat_template else ():
            try:
                found.append(self.apply(Guarded(each, self.chat.template_args), generation=False))
                found.append(self.apply(Guarded(each[:-1], self.chat.template_args), generation=True))
            except TemplateRefusal:  # takes no system text
                continue
        return found

    def guarded(self, messages: Sequence[Message], where: str = "", tools: Sequence[Tool] = ()) -> Guarded:
        """The messages with the recipe's system text, their marks set apart.

        Raises:
            NotRendered: the template has no place for something in them.
            DataError: a role is none of :data:`ROLES`, or a mark is there and the recipe says
                ``chat.marks_in_text: error``.
        """
        if unknown := [turn["role"] for turn in messages if turn["role"] not in ROLES]:
            raise NotRendered(f"{unknown[0]!r} is no role", f"known: {', '.join(sorted(ROLES))}", where)
        turns, marks = self._with_system(messages, where), self.marks
        self._check_places(turns, tools, where)
        arguments = self.chat.template_args | ({"tools": list(tools)} if tools else {})

        def guard(borders: set[int]) -> Guarded:
            return Guarded(*guard_messages(turns, arguments, marks, borders=borders))

        def count(borders: set[int]) -> int:
            return len(marks.places(self.apply(guard(borders), generation=False, where=where)))

        guarded = guard(set())
        near = {number for number, turn in enumerate(turns) if any(map(marks.borders, message_texts(turn)))}
        if near and count(set()) != (apart := count(near)):
            # Two texts, or a text and the template's, make a mark where they meet. What need not be cut is not, so that
            # a prompt is cut as it is in its row.
            for number in sorted(near):
                near -= set() if count(near - {number}) != apart else {number}
            guarded = guard(near)
        if guarded.guard and self.chat.marks_in_text == "error":
            self.refuse_mark(next(iter(guarded.guard.words.values())), where)
        return guarded

    def _with_system(self, messages: Sequence[Message], where: str) -> list[Message]:
        """With the recipe's system text; before the first question where the recipe says so and the template has no
        place for it."""
        turns = list(messages)
        if self.chat.system and (not turns or turns[0]["role"] != "system"):
            turns = [{"role": "system", "content": self.chat.system}, *turns]
        if not turns or turns[0]["role"] != "system" or not self.tokenizer.chat_template or self.takes_system:
            return turns
        first = next((number for number, turn in enumerate(turns) if turn["role"] == "user"), None)
        if self.chat.system_turn == "error" or first is None:
            raise NotRendered(
                "the chat template has no place for a system text",
                "set `chat.system_turn: fold` (it stands before the first question then, in training and serving)"
                if first is not None
                else "give it a question",
                where,
            )
        content = f"{turns[0]['content']}\n\n{turns[first]['content']}"
        return [*turns[1:first], {"role": "user", "content": content}, *turns[first + 1 :]]

    def _check_places(self, turns: Sequence[Message], tools: Sequence[Tool], where: str) -> None:
        """Refuse what the template would leave out without a word."""
        calls = any(turn.get("tool_calls") for turn in turns)
        results = any(turn["role"] == "tool" for turn in turns)
        if not self.tokenizer.chat_template or not (tools or calls or results):
            return
        for missing, what in (
            (tools and not self.abilities.offers, "functions that may be called (tools)"),
            (calls and self.abilities.calls is None, "calls of functions (tool_calls)"),
            (results and not self.abilities.replays, "results of functions (role tool)"),
        ):
            if missing:
                raise NotRendered(
                    f"the chat template has no place for {what}",
                    "put them into the text of the rows, or start from a base whose template has one (or name a Jinja "
                    "file in `chat.template`)",
                    where,
                )

    def apply(self, turns: Guarded, *, generation: bool, where: str = "") -> str:
        given: Sequence[Mapping[str, Any]] = turns.turns
        if any(turn.keys() - {"role", "content"} for turn in turns.turns):
            given = self.abilities.formed(turns.turns)
        return self._write(given, turns.arguments, generation=generation, where=where)

    def _write(
        self, turns: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], *, generation: bool, where: str = ""
    ) -> str:
        """What the template writes for turns in its own form."""
        if not self.tokenizer.chat_template:
            raise DataError(
                "the base's tokenizer has no chat template, and the data holds conversations",
                "set `chat.template: chatml` (or a Jinja file), or start from an instruct model",
                "chat.template",
            )
        try:  # in a list: transformers looks at the first turn otherwise, and there may be none
            (text,) = self.tokenizer.apply_chat_template(
                [list(turns)],
                tokenize=False,
                add_generation_prompt=generation,
                chat_template=on_one_day(self.tokenizer.chat_template),
                **arguments,
            )
            return str(text)
        except TemplateSyntaxError as error:
            raise BaseError(
                f"the chat template is no Jinja (line {error.lineno}): {error.message}",
                "get the base's files again, or set `chat.template: chatml` (or a Jinja file)",
                where,
            ) from error
        except UndefinedError as error:
            named = re.search(r"'(\w+)' is undefined", str(error))
            raise TemplateRefusal(
                f"the chat template wants a variable that nobody gives it: {error}",
                f"give it in `chat.template_args: {{{named[1] if named else 'NAME'}: ...}}`, or set `chat.template: "
                "chatml` (or a Jinja file)",
                where,
            ) from error
        except Exception as error:  # a template is a program that came with the base
            raise TemplateRefusal(
                f"the chat template refuses the conversation: {error or type(error).__name__}",
                "give it the turns that it takes, or set `chat.template: chatml` (or a Jinja file)",
                where,
            ) from error

    def answer(self, guarded: Guarded, position: int, where: str) -> WrittenAnswer:
        """What the template writes when it is asked for this answer."""
        turn, before = guarded.turns[position], guarded.first(position)
        unasked = all(each["role"] != "user" for each in before.turns)
        try:
            prompt = self.apply(before, generation=True, where=where)
        except TemplateRefusal:
            if unasked:
                self._refuse_unasked(where)
            raise
        whole = self.apply(guarded.first(position + 1), generation=False, where=where)
        tail = behind(prompt, whole, before.turns)
        if tail is None:
            if unasked:
                self._refuse_unasked(where)
            if prompt.rstrip().endswith("<think>") and not turn.get("reasoning_content"):
                self.refuse(
                    "the chat template opens a thought before every answer, and an answer has none",
                    where,
                    "give its thought (`reasoning_content`), or arguments of the template (`chat.template_args`)",
                )
            self.refuse("the chat template renders a turn differently once an answer follows it", where)
        if missing := left_out(turn, tail):
            self.refuse(missing, where)
        end = find_end(turn, tail, self.stop_tokens(), lambda: self._goes_on(guarded, position, prompt))
        if end is None:
            self._refuse_endless(turn, tail, where)
        thought = turn.get("reasoning_content", "").strip()
        end_id = int(self.tokenizer.convert_tokens_to_ids(end.stop))
        return WrittenAnswer(prompt, end.text, end_id, thought, bool(thought) and thought not in end.text)

    def _goes_on(self, guarded: Guarded, position: int, prompt: str) -> str:
        """What stands after a prompt when another turn follows its answer; nothing where the template refuses that."""
        turns = guarded.turns[: position + 1]
        called = turns[-1].get("tool_calls") or ()
        # The turn's own mark decides, so its words do not matter.
        results: list[Message] = [{"role": "tool", "content": "a"} for _ in called]
        following: list[Message] = results or [{"role": "user", "content": "a"}]
        for turn, call in zip(results, called, strict=True):
            turn["name"] = call["function"]["name"]
            if "id" in call:
                turn["tool_call_id"] = call["id"]
        try:
            whole = self.apply(Guarded([*turns, *following], guarded.arguments, guarded.guard), generation=False)
        except TemplateRefusal:
            return ""
        return behind(prompt, whole, turns[:position]) or ""

    def _refuse_unasked(self, where: str) -> NoReturn:
        self.refuse(
            "the conversation starts with an answer, which the chat template cannot ask for",
            where,
            "give it a question, or mark the answer as not learned (`weight: 0`)",
        )

    def _refuse_endless(self, turn: Message, tail: str, where: str) -> NoReturn:
        after = tail[tail.rfind(turn["content"].strip()) + len(turn["content"].strip()) :]
        if not after.strip() or turn.get("tool_calls"):
            self.refuse(
                f"the chat template writes no end token ({self.tokenizer.eos_token}) after the answer: "
                "the model would never learn to stop",
                where,
            )
        self.refuse(f"after the answer the template writes {after!r}, which is no end token", where)

    def stop_tokens(self) -> list[str]:
        """Special tokens, the tokenizer's own end token first, that may close an answer; none that opens a text."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        first = self.tokenizer.eos_token
        others = [token for token in added if token not in (first, self.tokenizer.bos_token)]
        return [first, *[token for token in others if not IN_ANSWERS.fullmatch(token)]]

    def ends_of_answers(self) -> list[int]:
        """The tokens that the template writes after an answer in words, and after one that calls."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        call: Message = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        answers: list[Message] = [{"role": "assistant", "content": "b"}, *([call] if self.abilities.calls else [])]
        found: list[int] = []
        for answer in answers:
            try:
                end = self.answer(Guarded([*asked, answer], self.chat.template_args), 1, "").end_id
            except DataError:
                continue
            found += [end] if end not in found else []
        return found

    def refuse_mark(self, mark: str, where: str) -> None:
        raise DataError(
            f"the text holds {mark!r}, which is a mark of the base",
            "take it out, or set `chat.marks_in_text: words`",
            where or "chat.marks_in_text",
        )

    def refuse(self, what: str, where: str, fix: str = "") -> NoReturn:
        if not fix:
            fix = "set `chat.template: chatml` or a Jinja file that ends each answer"
            if self.chat.template == "chatml":
                fix = (
                    "this tokenizer needs a template of its own: a Jinja file that ends each answer with a token of it"
                )
        raise NotRendered(what, fix, where)

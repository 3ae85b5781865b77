"""Messages and texts to token ids and the mask of what is learned.

One renderer for training, evaluation and serving, so that the model is asked in exactly the
words that it was trained on. The mask covers every answer, its thoughts and its calls, and the end token after it;
nothing of the template, of the question, or of a function's result.

    conversation  <|user|>Onde nasceu Ana?<|assistant|>Faro<|end|>
    mask          ..................................LLLLLLLLLLLLL

A row is what serving would render before its answers, plus the answers. Where a template writes earlier turns otherwise
once the conversation goes on, one row holds one answer only (``chat.turns``).

Text is text: what stands in a content, a system text or an argument is encoded as words, also where it reads like one
of the template's marks, see :mod:`afina.tokenizer.marks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, get_args, get_type_hints

from jinja2.exceptions import TemplateSyntaxError

from afina.errors import BaseError, DataError
from afina.recipe import Chat
from afina.text.document import Message, Tool, message_texts, value_texts
from afina.tokenizer.abilities import PROBE_CALL, Abilities
from afina.tokenizer.answer_end import find_end, left_out
from afina.tokenizer.marks import IN_ANSWERS, NO_GUARD, Guard, TokenMarks, guard_messages

ROLES: frozenset[str] = frozenset(get_args(get_type_hints(Message)["role"]))
"""Some templates build a mark from a role: another one could be any mark."""


class NotRendered(DataError):
    """A conversation that this template cannot render for training, whatever the reason."""


class TemplateRefusal(NotRendered):
    """The chat template takes no such conversation: many know no system text, or want turns to alternate."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one row and, for each, whether it is a target. The first token never is."""

    ids: list[int]
    mask: list[bool]
    thoughts: int = 0
    """Answers learned that have a thought."""
    lost: tuple[str, ...] = ()
    """Of these, the thoughts that the template leaves out: they are not learned."""

    @property
    def targets(self) -> int:
        """How many tokens are learned."""
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class ConversationRows:
    """The rows of a conversation."""

    rows: list[Encoded]
    why: str = ""
    """Why the template was found to need a row for each answer; empty where it was not."""


@dataclass(frozen=True, slots=True)
class _Answer:
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


def _behind(prompt: str, whole: str, turns: Sequence[Message]) -> str | None:
    """What a template writes after the prompt: behind it, or behind the last turn's words and what asks for an answer
    where it writes the turns before otherwise once an answer follows (Mistral moves the system text). None where that
    is not found, once."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    last = turns[-1]["content"].strip() if turns else ""
    asks = prompt[prompt.rfind(last) :]
    return whole.partition(asks)[2] if last and last in prompt and whole.count(asks) == 1 else None


_CONTENT = re.compile("[\U000f0000-\U000f0003]")


class Renderer:
    """Turns messages and texts into ids for one tokenizer and one recipe's chat settings."""

    def __init__(self, tokenizer: Any, chat: Chat) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.end_id: int = tokenizer.eos_token_id
        self.boundary_merges = 0
        """Conversations in which prompt and answer would have merged into one token; split there instead."""
        probe = tokenizer("a", add_special_tokens=True)["input_ids"]
        self.begins_with_bos: bool = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]

    def with_arguments(self, arguments: Mapping[str, Any]) -> Renderer:
        """The same with further arguments of the template, over the recipe's; itself without any."""
        if not arguments:
            return self
        given = self.chat.template_args | dict(arguments)
        made = Renderer(self.tokenizer, self.chat.model_copy(update={"template_args": given}))
        made.marks = self.marks
        return made

    def stop_ids(self) -> list[int]:
        """Tokens after which generation ends: the end token and those that the template writes after an answer."""
        ends = self._ends_of_answers() if self.tokenizer.chat_template else []
        return list(dict.fromkeys([self.end_id, *ends]))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The text that the model is asked to continue, for messages that end with the user's or with a result."""
        guarded = self._guarded(messages, tools=tools)
        return guarded.guard.restore(self._apply(guarded, generation=True))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of :meth:`prompt_text`: marks inside the messages as words."""
        guarded = self._guarded(messages, tools=tools)
        return self._ids(self._apply(guarded, generation=True), guarded.guard)

    def completion_prompt(self, text: str) -> list[int]:
        """Token ids of a text that is to be continued as it stands, its marks as words; an end token for no text."""
        if not self.marks.places(text):
            ids: list[int] = self.tokenizer(text)["input_ids"]
        else:
            ids = [*([self.tokenizer.bos_token_id] if self.begins_with_bos else []), *self._text_ids(text, "")]
        return ids or [self.end_id]

    def marks_in(self, messages: Sequence[Message], text: str = "", tools: Sequence[Tool] = ()) -> list[str]:
        """The marks that stand in messages and functions, or in a plain text, and are encoded as words."""
        said = [(text, False), *((each, False) for each in value_texts(list(tools)))]
        for turn in messages:
            words = {turn["content"], turn.get("reasoning_content", "")} if turn["role"] == "assistant" else set()
            said += [(each, each in words) for each in message_texts(turn)]
        return [each[start:end] for each, answer in said for start, end in self.marks.places(each, answer=answer)]

    def begun(self, messages: Sequence[Message], said: str) -> list[int]:
        """Token ids of an answer's beginning behind its prompt, as they stand in a row of :meth:`conversation`; of a
        plain text's where there are no messages.

        Raises:
            DataError: the template changes what was said.
        """
        said = said.strip()
        if not messages:
            return self.text(said).ids[:-1]
        if not said:
            return self.prompt(messages)
        guarded = self._guarded([*messages, {"role": "assistant", "content": said}])
        said = guarded.turns[-1]["content"]
        prompt = self._apply(guarded.first(len(guarded.turns) - 1), generation=True)
        ids = self._ids(prompt, guarded.guard)
        tail = self._apply(guarded, generation=False)[len(prompt) :]
        if said not in tail:
            self._refuse("the chat template does not give the answer back word for word", "")
        # A template may put a space first.
        return ids + self._answer_ids(prompt, ids, tail[: tail.find(said) + len(said)], guarded.guard)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the chat template has a place for a system message: some refuse it, some leave it out."""
        turns: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
        try:
            return "be brief" in self._apply(Guarded(turns, self.chat.template_args), generation=True)
        except TemplateRefusal:
            return False

    @cached_property
    def abilities(self) -> Abilities:
        """What the chat template has a place for."""

        def render(turns: Any, arguments: Mapping[str, Any], generation: bool) -> str:
            return self._write(turns, self.chat.template_args | dict(arguments), generation=generation)

        return Abilities.of(render)

    def text(self, text: str, where: str = "") -> Encoded:
        """A plain text: everything is learned, the end token too; marks inside it are words.

        Raises:
            DataError: it holds a mark and the recipe says ``chat.marks_in_text: error``.
        """
        return self.texts([text], [where])[0]

    def texts(self, texts: Sequence[str], places: Sequence[str] = ()) -> list[Encoded]:
        """Several of them at once: a tokenizer written in Rust gives each core a part.

        Args:
            places: where each stands, for messages; or none.

        Raises:
            DataError: as :meth:`text`.
        """
        if not texts:
            return []
        marked = {
            number: self._text_ids(text, places[number] if places else "")
            for number, text in enumerate(texts)
            if self.marks.places(text)
        }
        plain = iter(self._ids_of_each([text for number, text in enumerate(texts) if number not in marked]))
        found = [marked[number] if number in marked else next(plain) for number in range(len(texts))]
        begin = [self.tokenizer.bos_token_id] if self.begins_with_bos else []
        whole = [[*begin, *ids, self.end_id] for ids in found]
        return [Encoded(ids, [False, *[True] * (len(ids) - 1)]) for ids in whole]

    def conversation(
        self, messages: Sequence[Message], where: str = "", *, tools: Sequence[Tool] = (), last_only: bool = False
    ) -> Encoded:
        """A conversation as one row: every answer (or the last one alone) and the end token after it is learned.

        Raises:
            NotRendered: the template refuses the turns, changes or leaves out what was said, puts no end token after an
                answer, or writes earlier turns otherwise once the conversation goes on.
            DataError: the tokenizer has no chat template.
        """
        guarded = self._guarded(messages, where, tools)
        learned = self._learned(guarded.turns, where)
        if last_only:
            return self._row_of(guarded, learned[-1], where)
        row = self._in_one(guarded, learned, where)
        return self._refuse(row, where, "set `chat.turns: each`") if isinstance(row, str) else row

    def rows(
        self, messages: Sequence[Message], where: str = "", *, tools: Sequence[Tool] = (), last_only: bool = False
    ) -> ConversationRows:
        """A conversation as the recipe's ``chat.turns`` has it; without a word of it there, as one row where the
        template writes every answer as it is asked for it, else as a row for each.

        Raises:
            NotRendered, DataError: as :meth:`conversation`.
        """
        guarded = self._guarded(messages, where, tools)
        learned = self._learned(guarded.turns, where)
        wanted = "last" if last_only else self.chat.turns
        if wanted == "last" or (len(learned) == 1 and wanted != "all"):
            return ConversationRows([self._row_of(guarded, learned[-1], where)])
        if wanted == "all":
            return ConversationRows([self._as_written(guarded, learned, where)])
        row = self._in_one(guarded, learned, where) if wanted is None else ""
        if isinstance(row, Encoded):
            return ConversationRows([row])
        return ConversationRows([self._row_of(guarded, position, where) for position in learned], row)

    def _learned(self, turns: Sequence[Message], where: str) -> list[int]:
        """Positions of the answers that are learned."""
        answers = [number for number, turn in enumerate(turns) if turn["role"] == "assistant"]
        if not answers:
            raise NotRendered(
                "there is no answer in it", "give it a message of role assistant, or remove the row", where
            )
        if not (found := [number for number in answers if turns[number].get("learned", True)]):
            raise NotRendered("none of its answers is to be learned", "remove the row", where)
        return found

    def _row_of(self, guarded: Guarded, position: int, where: str) -> Encoded:
        """The answer at a position, behind the prompt that asks for it."""
        return self._joined([self._answer(guarded, position, where)], guarded.guard, where)

    def _in_one(self, guarded: Guarded, learned: Sequence[int], where: str) -> Encoded | str:
        """All answers in one row; or why that is not what the model is asked for."""
        answers = [self._answer(guarded, position, where) for position in learned]
        whole = answers[-1].prompt + answers[-1].text
        for answer in answers[:-1]:
            if whole.startswith(answer.prompt + answer.text):
                continue
            if not answer.lost and answer.thought and answer.thought not in whole[len(answer.prompt) :]:
                return "the chat template takes thoughts out of earlier turns"
            end = str(self.tokenizer.convert_ids_to_tokens(answer.end_id))
            if whole.startswith(answer.prompt + answer.text.removesuffix(end)):
                return "the chat template ends earlier answers otherwise than the last one"
            return "the chat template rewrites an earlier answer when the conversation goes on"
        return self._joined(answers, guarded.guard, where)

    def _as_written(self, guarded: Guarded, learned: Sequence[int], where: str) -> Encoded:
        """All answers in one row as the template writes them in the whole conversation (``chat.turns: all``)."""
        answers = [self._answer(guarded, position, where) for position in learned]
        whole = answers[-1].prompt + answers[-1].text
        made: list[_Answer] = []
        for number, answer in enumerate(answers):
            border = len(answers[number + 1].prompt) if number + 1 < len(answers) else len(whole)
            tail = whole[len(answer.prompt) : border]
            turn = guarded.turns[learned[number]]
            end = find_end(turn, tail, self._stop_tokens(), lambda: "")
            if not whole.startswith(answer.prompt) or left_out(turn, tail) or end is None:
                self._refuse(
                    "the chat template writes an earlier answer so that it cannot be learned in its conversation",
                    where,
                    "set `chat.turns: each`",
                )
            lost = bool(answer.thought) and answer.thought not in end.text
            end_id = int(self.tokenizer.convert_tokens_to_ids(end.stop))
            made.append(_Answer(answer.prompt, end.text, end_id, answer.thought, lost))
        return self._joined(made, guarded.guard, where)

    def _joined(self, answers: Sequence[_Answer], guard: Guard, where: str) -> Encoded:
        """One row: the prompt of the last of these answers, in which those before it stand."""
        ids: list[int] = []
        mask: list[bool] = []
        done = 0
        for answer in answers:
            between = answer.prompt[done:]
            prompt_ids = self._ids(between, guard)
            answer_ids = self._answer_ids(between, prompt_ids, answer.text, guard)
            if answer_ids[-1] != answer.end_id:
                self._refuse("the end token after the answer is not a token of its own", where)
            ids += prompt_ids + answer_ids
            mask += [False] * len(prompt_ids) + [True] * len(answer_ids)
            done = len(answer.prompt) + len(answer.text)
        lost = tuple(answer.thought for answer in answers if answer.lost)
        return Encoded(ids, [False, *mask[1:]], sum(bool(answer.thought) for answer in answers), lost)

    def _answer(self, guarded: Guarded, position: int, where: str) -> _Answer:
        """What the template writes when it is asked for this answer."""
        turn, before = guarded.turns[position], guarded.first(position)
        unasked = all(each["role"] != "user" for each in before.turns)
        try:
            prompt = self._apply(before, generation=True, where=where)
        except TemplateRefusal:
            if unasked:
                self._refuse_unasked(where)
            raise
        whole = self._apply(guarded.first(position + 1), generation=False, where=where)
        tail = _behind(prompt, whole, before.turns)
        if tail is None:
            if unasked:
                self._refuse_unasked(where)
            if prompt.rstrip().endswith("<think>") and not turn.get("reasoning_content"):
                self._refuse(
                    "the chat template opens a thought before every answer, and an answer has none",
                    where,
                    "give its thought (`reasoning_content`), or arguments of the template (`chat.template_args`)",
                )
            self._refuse("the chat template renders a turn differently once an answer follows it", where)
        if missing := left_out(turn, tail):
            self._refuse(missing, where)
        end = find_end(turn, tail, self._stop_tokens(), lambda: self._goes_on(guarded, position, prompt))
        if end is None:
            self._refuse_endless(turn, tail, where)
        thought = turn.get("reasoning_content", "").strip()
        end_id = int(self.tokenizer.convert_tokens_to_ids(end.stop))
        return _Answer(prompt, end.text, end_id, thought, bool(thought) and thought not in end.text)

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
            whole = self._apply(Guarded([*turns, *following], guarded.arguments, guarded.guard), generation=False)
        except TemplateRefusal:
            return ""
        return _behind(prompt, whole, turns[:position]) or ""

    def _refuse_unasked(self, where: str) -> NoReturn:
        self._refuse(
            "the conversation starts with an answer, which the chat template cannot ask for",
            where,
            "give it a question, or mark the answer as not learned (`weight: 0`)",
        )

    def _refuse_endless(self, turn: Message, tail: str, where: str) -> NoReturn:
        after = tail[tail.rfind(turn["content"].strip()) + len(turn["content"].strip()) :]
        if not after.strip() or turn.get("tool_calls"):
            self._refuse(
                f"the chat template writes no end token ({self.tokenizer.eos_token}) after the answer: "
                "the model would never learn to stop",
                where,
            )
        self._refuse(f"after the answer the template writes {after!r}, which is no end token", where)

    def _stop_tokens(self) -> list[str]:
        """Special tokens, the tokenizer's own end token first, that may close an answer; none that opens a text."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        first = self.tokenizer.eos_token
        others = [token for token in added if token not in (first, self.tokenizer.bos_token)]
        return [first, *[token for token in others if not IN_ANSWERS.fullmatch(token)]]

    def _ends_of_answers(self) -> list[int]:
        """The tokens that the template writes after an answer in words, and after one that calls."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        call: Message = {"role": "assistant", "content": "", "tool_calls": [PROBE_CALL]}
        answers: list[Message] = [{"role": "assistant", "content": "b"}, *([call] if self.abilities.calls else [])]
        found: list[int] = []
        for answer in answers:
            try:
                end = self._answer(Guarded([*asked, answer], self.chat.template_args), 1, "").end_id
            except DataError:
                continue
            found += [end] if end not in found else []
        return found

    def _answer_ids(self, prompt: str, prompt_ids: list[int], answer: str, guard: Guard) -> list[int]:
        """Ids of the answer such that prompt ids + answer ids is what was said.

        Tokenized together where that keeps the prompt's ids (so that the answer's first word
        looks as it does when the model writes it), apart where the two would merge.
        """
        together = self._ids(prompt + answer, guard)
        if together[: len(prompt_ids)] == prompt_ids:
            return together[len(prompt_ids) :]
        self.boundary_merges += 1
        return self._ids(answer, guard)

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
                found.append(self._apply(Guarded(each, self.chat.template_args), generation=False))
                found.append(self._apply(Guarded(each[:-1], self.chat.template_args), generation=True))
            except TemplateRefusal:  # takes no system text
                continue
        return found

    def _guarded(self, messages: Sequence[Message], where: str = "", tools: Sequence[Tool] = ()) -> Guarded:
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
            return len(marks.places(self._apply(guard(borders), generation=False, where=where)))

        guarded = guard(set())
        near = {number for number, turn in enumerate(turns) if any(map(marks.borders, message_texts(turn)))}
        if near and count(set()) != (apart := count(near)):
            # Two texts, or a text and the template's, make a mark where they meet. What need not be cut is not, so that
            # a prompt is cut as it is in its row.
            for number in sorted(near):
                near -= set() if count(near - {number}) != apart else {number}
            guarded = guard(near)
        if guarded.guard and self.chat.marks_in_text == "error":
            self._refuse_mark(next(iter(guarded.guard.words.values())), where)
        return guarded

    def _text_ids(self, text: str, where: str) -> list[int]:
        places = self.marks.places(text)
        if not places:
            return self._ids(text)
        if self.chat.marks_in_text == "error":
            self._refuse_mark(text[slice(*places[0])], where)
        pieces, start = list[tuple[str, bool]](), 0
        for begin, end in places:
            pieces += [(text[start:begin], False), (text[begin:end], True)]
            start = end
        return self.marks.encode(piece for piece in [*pieces, (text[start:], False)] if piece[0])

    def _refuse_mark(self, mark: str, where: str) -> None:
        raise DataError(
            f"the text holds {mark!r}, which is a mark of the base",
            "take it out, or set `chat.marks_in_text: words`",
            where or "chat.marks_in_text",
        )

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

    def _apply(self, turns: Guarded, *, generation: bool, where: str = "") -> str:
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
                [list(turns)], tokenize=False, add_generation_prompt=generation, **arguments
            )
            return str(text)
        except TemplateSyntaxError as error:
            raise BaseError(
                f"the chat template is no Jinja (line {error.lineno}): {error.message}",
                "get the base's files again, or set `chat.template: chatml` (or a Jinja file)",
                where,
            ) from error
        except Exception as error:  # a template is a program that came with the base
            raise TemplateRefusal(
                f"the chat template refuses the conversation: {error or type(error).__name__}",
                "give it the turns that it takes, or set `chat.template: chatml` (or a Jinja file)",
                where,
            ) from error

    def _ids(self, text: str, guard: Guard = NO_GUARD) -> list[int]:
        if guard:
            return self.marks.encode(guard.pieces(text))
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _ids_of_each(self, texts: list[str]) -> list[list[int]]:
        """:meth:`_ids` of each text. Where transformers only passes texts on, its library is asked for ids alone: a
        third faster, and without the place of each token in memory."""
        from transformers import PreTrainedTokenizerFast

        kind, rust = type(self.tokenizer), getattr(self.tokenizer, "backend_tokenizer", None)
        passed_on = isinstance(self.tokenizer, PreTrainedTokenizerFast) and all(
            getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")
        )
        if passed_on and rust and not (rust.truncation or rust.padding or rust.encode_special_tokens):
            return [each.ids for each in rust.encode_batch_fast(texts, add_special_tokens=False)]
        return [self._ids(text) for text in texts]

    def _refuse(self, what: str, where: str, fix: str = "") -> NoReturn:
        if not fix:
            fix = "set `chat.template: chatml` or a Jinja file that ends each answer"
            if self.chat.template == "chatml":
                fix = (
                    "this tokenizer needs a template of its own: a Jinja file that ends each answer with a token of it"
                )
        raise NotRendered(what, fix, where)

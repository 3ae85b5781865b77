"""Messages and texts to token ids and the mask of what is learned.

One renderer for training, evaluation and serving, so that the model is asked in exactly the
words that it was trained on. The mask covers every answer and the end token after it, nothing
of the template and nothing of the question.

    conversation  <|user|>Onde nasceu Ana?<|assistant|>Faro<|end|>
    mask          ..................................LLLLLLLLLLLLL

Text is text: what stands in a content, a system text or an argument is encoded as words, also where it reads like one
of the template's marks, see :mod:`afina.tokenizer.marks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args, get_type_hints

from jinja2.exceptions import TemplateSyntaxError

from afina.errors import BaseError, DataError
from afina.recipe import Chat
from afina.text.document import Message
from afina.tokenizer.marks import IN_ANSWERS, NO_GUARD, Guard, TokenMarks, guard_messages

ROLES: frozenset[str] = frozenset(get_args(get_type_hints(Message)["role"]))
"""Some templates build a mark from a role: another one could be any mark."""


class TemplateRefusal(DataError):
    """The chat template takes no such conversation: many know no system text, or want turns to alternate."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one row and, for each, whether it is a target. The first token never is."""

    ids: list[int]
    mask: list[bool]

    @property
    def targets(self) -> int:
        """How many tokens are learned."""
        return sum(self.mask)


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
        """Tokens after which generation ends: the end token and the one that the template writes after an answer."""
        stops = [self.end_id]
        if self.tokenizer.chat_template:
            end = self._end_after_answer()
            if end is not None and end not in stops:
                stops.append(end)
        return stops

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """The text that the model is asked to continue, for messages that end with the user's."""
        guarded = self._guarded(messages)
        return guarded.guard.restore(self._apply(guarded, generation=True))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of :meth:`prompt_text`: marks inside the messages as words."""
        guarded = self._guarded(messages)
        return self._ids(self._apply(guarded, generation=True), guarded.guard)

    def completion_prompt(self, text: str) -> list[int]:
        """Token ids of a text that is to be continued as it stands, its marks as words; an end token for no text."""
        if not self.marks.places(text):
            ids: list[int] = self.tokenizer(text)["input_ids"]
        else:
            ids = [*([self.tokenizer.bos_token_id] if self.begins_with_bos else []), *self._text_ids(text, "")]
        return ids or [self.end_id]

    def marks_in(self, messages: Sequence[Message], text: str = "") -> list[str]:
        """The marks that stand in messages, or in a plain text, and are encoded as words."""
        said = [(turn["content"], turn["role"] == "assistant") for turn in messages] or [(text, False)]
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

    def conversation(self, messages: Sequence[Message], where: str = "", *, last_only: bool = False) -> Encoded:
        """A conversation: every assistant turn (or the last one alone) and the end token after it is learned.

        Raises:
            DataError: the tokenizer has no chat template, or the template refuses the turns, changes what was said,
                puts no end token after an answer, or rewrites earlier turns.
        """
        guarded = self._guarded(messages, where)
        turns, guard = guarded.turns, guarded.guard
        whole = self._apply(guarded, generation=False, where=where)
        ids: list[int] = []
        mask: list[bool] = []
        done = ""
        for position, message in enumerate(turns):
            if message["role"] != "assistant":
                continue
            prompt = self._apply(guarded.first(position), generation=True, where=where)
            if not whole.startswith(prompt):
                self._refuse("the chat template renders a turn differently once an answer follows it", where)
            end_text, end_id = self._end_text(guarded.first(position + 1), prompt, message["content"], where)
            answer_end = len(prompt) + len(end_text)
            if not whole.startswith(prompt + end_text):
                self._refuse("the chat template rewrites an earlier answer when the conversation goes on", where)
            prompt_ids = self._ids(prompt[len(done) :], guard)
            answer_ids = self._answer_ids(prompt[len(done) :], prompt_ids, end_text, guard)
            if answer_ids[-1] != end_id:
                self._refuse("the end token after the answer is not a token of its own", where)
            ids += prompt_ids + answer_ids
            learned = not last_only or position == len(turns) - 1
            mask += [False] * len(prompt_ids) + [learned] * len(answer_ids)
            done = whole[:answer_end]
        if not any(mask):
            self._refuse("there is no answer in it", where)
        return Encoded(ids, [False, *mask[1:]])

    def _end_text(self, turns: Guarded, prompt: str, answer: str, where: str) -> tuple[str, int]:
        """What the template writes after the prompt up to and including the end token, and that token's id."""
        tail = self._apply(turns, generation=False, where=where)[len(prompt) :]
        if answer.strip() not in tail:
            self._refuse("the chat template does not give the answer back word for word", where)
        for stop in self._stop_tokens():
            found = tail.find(stop)
            while found >= 0:
                if tail[:found].rstrip().endswith(answer.strip()):
                    return tail[: found + len(stop)], int(self.tokenizer.convert_tokens_to_ids(stop))
                found = tail.find(stop, found + 1)
        after = tail.rfind(answer.strip()) + len(answer.strip())
        if not tail[after:].strip():
            self._refuse(
                f"the chat template writes no end token ({self.tokenizer.eos_token}) after the answer: "
                "the model would never learn to stop",
                where,
            )
        return self._refuse(f"after the answer the template writes {tail[after:]!r}, which is no end token", where)

    def _stop_tokens(self) -> list[str]:
        """Special tokens, the tokenizer's own end token first, that may close an answer."""
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        first = self.tokenizer.eos_token
        return [first, *[token for token in added if token != first]]

    def _end_after_answer(self) -> int | None:
        messages: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        turns = Guarded(messages, self.chat.template_args)
        try:
            prompt = self._apply(turns.first(1), generation=True)
            return self._end_text(turns, prompt, "b", "")[1]
        except DataError:
            return None

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

    def _guarded(self, messages: Sequence[Message], where: str = "") -> Guarded:
        """The messages with the recipe's system text, their marks set apart.

        Raises:
            DataError: a role is none of :data:`ROLES`, or a mark is there and the recipe says
                ``chat.marks_in_text: error``.
        """
        turns, arguments, marks = self._with_system(messages), self.chat.template_args, self.marks
        if unknown := [turn["role"] for turn in turns if turn["role"] not in ROLES]:
            raise DataError(f"{unknown[0]!r} is no role", f"known: {', '.join(sorted(ROLES))}", where)

        def guard(borders: set[int]) -> Guarded:
            return Guarded(*guard_messages(turns, arguments, marks, borders=borders))

        def count(borders: set[int]) -> int:
            return len(marks.places(self._apply(guard(borders), generation=False)))

        guarded = guard(set())
        near = {number for number, turn in enumerate(turns) if marks.borders(turn["content"])}
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

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if self.chat.system and (not messages or messages[0]["role"] != "system"):
            return [{"role": "system", "content": self.chat.system}, *messages]
        return list(messages)

    def _apply(self, turns: Guarded, *, generation: bool, where: str = "") -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                "the base's tokenizer has no chat template, and the data holds conversations",
                "set `chat.template: chatml` (or a Jinja file), or start from an instruct model",
                "chat.template",
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(turns.turns), tokenize=False, add_generation_prompt=generation, **turns.arguments
                )
            )
        except TemplateSyntaxError as error:
            what, fix = f"the chat template is no Jinja (line {error.lineno}): {error.message}", "set `chat.template`"
            raise BaseError(what, f"get the base's files again, or {fix}: chatml, or a Jinja file", where) from error
        except Exception as error:  # a template is a program that came with the base
            raise TemplateRefusal(
                f"the chat template refuses the conversation: {error or type(error).__name__}",
                "write it as the template wants it, or set `chat.template`: chatml, or a Jinja file of your own",
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

    def _refuse(self, what: str, where: str) -> Any:
        raise DataError(what, "set `chat.template: chatml` or a Jinja file that ends each answer", where)

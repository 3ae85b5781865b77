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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afina.recipe import Chat
from afina.text.document import Message, Tool, message_texts, value_texts
from afina.tokenizer.answer_end import find_end, left_out
from afina.tokenizer.marks import NO_GUARD, Guard
from afina.tokenizer.template import ChatTemplate, Guarded, NotRendered, WrittenAnswer


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


class Renderer:
    """Turns messages and texts into ids for one tokenizer and one recipe's chat settings."""

    def __init__(self, tokenizer: Any, chat: Chat) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.template = ChatTemplate(tokenizer, chat)
        self.end_id: int = tokenizer.eos_token_id
        self.boundary_merges = 0
        """Conversations in which prompt and answer would have merged into one token; split there instead."""
        probe = tokenizer("a", add_special_tokens=True)["input_ids"]
        self.begins_with_bos: bool = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]
        self._ends_itself: bool = len(probe) > 1 and probe[-1] == self.end_id
        """Whether the tokenizer puts an end token behind every text (``add_eos_token``), prompts too."""

    def with_arguments(self, arguments: Mapping[str, Any]) -> Renderer:
        """The same with further arguments of the template, over the recipe's; itself without any."""
        if not arguments:
            return self
        given = self.chat.template_args | dict(arguments)
        made = Renderer(self.tokenizer, self.chat.model_copy(update={"template_args": given}))
        made.template.marks = self.template.marks
        return made

    def stop_ids(self) -> list[int]:
        """Tokens after which generation ends: the end token and those that the template writes after an answer."""
        ends = self.template.ends_of_answers() if self.tokenizer.chat_template else []
        return list(dict.fromkeys([self.end_id, *ends]))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The text that the model is asked to continue, for messages that end with the user's or with a result."""
        guarded = self.template.guarded(messages, tools=tools)
        return guarded.guard.restore(self.template.apply(guarded, generation=True))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Token ids of :meth:`prompt_text`: marks inside the messages as words."""
        guarded = self.template.guarded(messages, tools=tools)
        return self._ids(self.template.apply(guarded, generation=True), guarded.guard)

    def answer_text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The last answer in a model's words: its calls as the template writes them, no thought, no end token."""
        row = self.rows(messages, tools=tools, last_only=True).rows[0]
        learned = row.ids[row.mask.index(True) :]
        return str(self.tokenizer.decode(learned[:-1])).rpartition("</think>")[2].strip()

    def completion_prompt(self, text: str) -> list[int]:
        """Token ids of a text that is to be continued as it stands, its marks as words; an end token for no text."""
        if not self.template.marks.places(text):
            ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
            ids = ids[:-1] if self._ends_itself else ids
        else:
            ids = [*([self.tokenizer.bos_token_id] if self.begins_with_bos else []), *self._text_ids(text, "")]
        return ids or [self.end_id]

    def marks_in(self, messages: Sequence[Message], text: str = "", tools: Sequence[Tool] = ()) -> list[str]:
        """The marks that stand in messages and functions, or in a plain text, and are encoded as words."""
        said = [(text, False), *((each, False) for each in value_texts(list(tools)))]
        for turn in messages:
            words = {turn["content"], turn.get("reasoning_content", "")} if turn["role"] == "assistant" else set()
            said += [(each, each in words) for each in message_texts(turn)]
        return [
            each[start:end] for each, answer in said for start, end in self.template.marks.places(each, answer=answer)
        ]

    def begun(self, messages: Sequence[Message], said: str) -> list[int]:
        """Token ids of an answer's beginning behind its prompt, as they stand in a row of :meth:`conversation`; of a
        plain text's where there are no messages.

        Raises:
            DataError: the template changes what was said.
        """
        said = said.strip()
        if not messages:
            ids = self.text(said).ids
            return ids[:-1] if self.chat.end_texts else ids
        if not said:
            return self.prompt(messages)
        guarded = self.template.guarded([*messages, {"role": "assistant", "content": said}])
        said = guarded.turns[-1]["content"]
        prompt = self.template.apply(guarded.first(len(guarded.turns) - 1), generation=True)
        ids = self._ids(prompt, guarded.guard)
        tail = self.template.apply(guarded, generation=False)[len(prompt) :]
        if said not in tail:
            self.template.refuse("the chat template does not give the answer back word for word", "")
        # A template may put a space first.
        return ids + self._answer_ids(prompt, ids, tail[: tail.find(said) + len(said)], guarded.guard)

    def text(self, text: str, where: str = "") -> Encoded:
        """A plain text: everything is learned, the end token too (without one where ``chat.end_texts`` is false); marks
        inside it are words.

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
            if self.template.marks.places(text)
        }
        plain = iter(self._ids_of_each([text for number, text in enumerate(texts) if number not in marked]))
        found = [marked[number] if number in marked else next(plain) for number in range(len(texts))]
        begin = [self.tokenizer.bos_token_id] if self.begins_with_bos else []
        end = [self.end_id] if self.chat.end_texts else []
        whole = [[*begin, *ids, *end] for ids in found]
        return [Encoded(ids, [False, *[True] * (len(ids) - 1)][: len(ids)]) for ids in whole]

    def conversation(
        self, messages: Sequence[Message], where: str = "", *, tools: Sequence[Tool] = (), last_only: bool = False
    ) -> Encoded:
        """A conversation as one row: every answer (or the last one alone) and the end token after it is learned.

        Raises:
            NotRendered: the template refuses the turns, changes or leaves out what was said, puts no end token after an
                answer, or writes earlier turns otherwise once the conversation goes on.
            DataError: the tokenizer has no chat template.
        """
        guarded = self.template.guarded(messages, where, tools)
        learned = self._learned(guarded.turns, where)
        if last_only:
            return self._row_of(guarded, learned[-1], where)
        row = self._in_one(guarded, learned, where)
        return self.template.refuse(row, where, "set `chat.turns: each`") if isinstance(row, str) else row

    def rows(
        self, messages: Sequence[Message], where: str = "", *, tools: Sequence[Tool] = (), last_only: bool = False
    ) -> ConversationRows:
        """A conversation as the recipe's ``chat.turns`` has it; without a word of it there, as one row where the
        template writes every answer as it is asked for it, else as a row for each.

        Raises:
            NotRendered, DataError: as :meth:`conversation`.
        """
        guarded = self.template.guarded(messages, where, tools)
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
        return self._joined([self.template.answer(guarded, position, where)], guarded.guard, where)

    def _in_one(self, guarded: Guarded, learned: Sequence[int], where: str) -> Encoded | str:
        """All answers in one row; or why that is not what the model is asked for."""
        answers = [self.template.answer(guarded, position, where) for position in learned]
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
        answers = [self.template.answer(guarded, position, where) for position in learned]
        whole = answers[-1].prompt + answers[-1].text
        made: list[WrittenAnswer] = []
        for number, answer in enumerate(answers):
            border = len(answers[number + 1].prompt) if number + 1 < len(answers) else len(whole)
            tail = whole[len(answer.prompt) : border]
            turn = guarded.turns[learned[number]]
            end = find_end(turn, tail, self.template.stop_tokens(), lambda: "")
            if not whole.startswith(answer.prompt) or left_out(turn, tail) or end is None:
                self.template.refuse(
                    "the chat template writes an earlier answer so that it cannot be learned in its conversation",
                    where,
                    "set `chat.turns: each`",
                )
            lost = bool(answer.thought) and answer.thought not in end.text
            end_id = int(self.tokenizer.convert_tokens_to_ids(end.stop))
            made.append(WrittenAnswer(answer.prompt, end.text, end_id, answer.thought, lost))
        return self._joined(made, guarded.guard, where)

    def _joined(self, answers: Sequence[WrittenAnswer], guard: Guard, where: str) -> Encoded:
        """One row: the prompt of the last of these answers, in which those before it stand."""
        ids: list[int] = []
        mask: list[bool] = []
        done = 0
        for answer in answers:
            between = answer.prompt[done:]
            prompt_ids = self._ids(between, guard)
            answer_ids = self._answer_ids(between, prompt_ids, answer.text, guard)
            if answer_ids[-1] != answer.end_id:
                self.template.refuse("the end token after the answer is not a token of its own", where)
            ids += prompt_ids + answer_ids
            mask += [False] * len(prompt_ids) + [True] * len(answer_ids)
            done = len(answer.prompt) + len(answer.text)
        lost = tuple(answer.thought for answer in answers if answer.lost)
        return Encoded(ids, [False, *mask[1:]], sum(bool(answer.thought) for answer in answers), lost)

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

    def _text_ids(self, text: str, where: str) -> list[int]:
        places = self.template.marks.places(text)
        if not places:
            return self._ids(text)
        if self.chat.marks_in_text == "error":
            self.template.refuse_mark(text[slice(*places[0])], where)
        pieces, start = list[tuple[str, bool]](), 0
        for begin, end in places:
            pieces += [(text[start:begin], False), (text[begin:end], True)]
            start = end
        return self.template.marks.encode(piece for piece in [*pieces, (text[start:], False)] if piece[0])

    def _ids(self, text: str, guard: Guard = NO_GUARD) -> list[int]:
        if guard:
            return self.template.marks.encode(guard.pieces(text))
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

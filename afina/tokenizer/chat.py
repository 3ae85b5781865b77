"""Messages and texts to token ids and the mask of what is learned.

One renderer for training, evaluation and serving, so that the model is asked in exactly the
words that it was trained on. The mask covers every answer and the end token after it, nothing
of the template and nothing of the question.

    conversation  <|user|>Onde nasceu Ana?<|assistant|>Faro<|end|>
    mask          ..................................LLLLLLLLLLLLL
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from afina.errors import DataError
from afina.recipe import Chat
from afina.text.document import Message


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one row and, for each, whether it is a target. The first token never is."""

    ids: list[int]
    mask: list[bool]

    @property
    def targets(self) -> int:
        """How many tokens are learned."""
        return sum(self.mask)


class Renderer:
    """Turns messages and texts into ids for one tokenizer and one recipe's chat settings."""

    def __init__(self, tokenizer: Any, chat: Chat) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.end_id: int = tokenizer.eos_token_id
        self.boundary_merges = 0
        """Conversations in which prompt and answer would have merged into one token; split there instead."""
        probe = tokenizer("a", add_special_tokens=True)["input_ids"]
        self.begins_with_bos: bool = tokenizer.bos_token_id is not None and probe[:1] == [tokenizer.bos_token_id]

    def with_arguments(self, arguments: Mapping[str, bool | str | int]) -> Renderer:
        """The same with further arguments of the template, over the recipe's; itself without any."""
        if not arguments:
            return self
        return Renderer(
            self.tokenizer, self.chat.model_copy(update={"template_args": self.chat.template_args | dict(arguments)})
        )

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
        return self._apply(self._with_system(messages), generation=True)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of :meth:`prompt_text`."""
        return self._ids(self.prompt_text(messages))

    def begun(self, messages: Sequence[Message], said: str) -> list[int]:
        """Token ids of an answer's beginning behind its prompt, as they stand in a row of :meth:`conversation`; of a
        plain text's where there are no messages.

        Raises:
            DataError: the template changes what was said.
        """
        said = said.strip()
        if not messages:
            return self.text(said).ids[:-1]
        turns = self._with_system(messages)
        prompt = self._apply(turns, generation=True)
        ids = self._ids(prompt)
        if not said:
            return ids
        tail = self._apply([*turns, {"role": "assistant", "content": said}], generation=False)[len(prompt) :]
        if said not in tail:
            self._refuse("the chat template does not give the answer back word for word", "")
        return ids + self._answer_ids(
            prompt, ids, tail[: tail.find(said) + len(said)]
        )  # a template may put a space first

    @cached_property
    def takes_system(self) -> bool:
        """Whether the chat template has a place for a system message: some refuse it, some leave it out."""
        turns: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
        try:
            return "be brief" in self._apply(turns, generation=True)
        except TemplateError:
            return False

    def text(self, text: str) -> Encoded:
        """A plain text: everything is learned, the end token too."""
        return self.texts([text])[0]

    def texts(self, texts: Sequence[str]) -> list[Encoded]:
        """Several of them at once: a tokenizer written in Rust gives each core a part."""
        if not texts:
            return []
        found = self._ids_of_each(list(texts))
        begin = [self.tokenizer.bos_token_id] if self.begins_with_bos else []
        whole = [[*begin, *ids, self.end_id] for ids in found]
        return [Encoded(ids, [False, *[True] * (len(ids) - 1)]) for ids in whole]

    def conversation(self, messages: Sequence[Message], where: str = "", *, last_only: bool = False) -> Encoded:
        """A conversation: every assistant turn (or the last one alone) and the end token after it is learned.

        Raises:
            DataError: the tokenizer has no chat template, or the template changes what was said,
                puts no end token after an answer, or rewrites earlier turns.
        """
        turns = self._with_system(messages)
        whole = self._apply(turns, generation=False)
        ids: list[int] = []
        mask: list[bool] = []
        done = ""
        for position, message in enumerate(turns):
            if message["role"] != "assistant":
                continue
            prompt = self._apply(turns[:position], generation=True)
            if not whole.startswith(prompt):
                self._refuse("the chat template renders a turn differently once an answer follows it", where)
            end_text, end_id = self._end_text(turns[: position + 1], prompt, message["content"], where)
            answer_end = len(prompt) + len(end_text)
            if not whole.startswith(prompt + end_text):
                self._refuse("the chat template rewrites an earlier answer when the conversation goes on", where)
            prompt_ids = self._ids(prompt[len(done) :])
            answer_ids = self._answer_ids(prompt[len(done) :], prompt_ids, end_text)
            if answer_ids[-1] != end_id:
                self._refuse("the end token after the answer is not a token of its own", where)
            ids += prompt_ids + answer_ids
            learned = not last_only or position == len(turns) - 1
            mask += [False] * len(prompt_ids) + [learned] * len(answer_ids)
            done = whole[:answer_end]
        if not any(mask):
            self._refuse("there is no answer in it", where)
        return Encoded(ids, [False, *mask[1:]])

    def _end_text(self, turns: Sequence[Message], prompt: str, answer: str, where: str) -> tuple[str, int]:
        """What the template writes after the prompt up to and including the end token, and that token's id."""
        tail = self._apply(turns, generation=False)[len(prompt) :]
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
        turns: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            prompt = self._apply(turns[:1], generation=True)
            return self._end_text(turns, prompt, "b", "")[1]
        except DataError:
            return None

    def _answer_ids(self, prompt: str, prompt_ids: list[int], answer: str) -> list[int]:
        """Ids of the answer such that prompt ids + answer ids is what was said.

        Tokenized together where that keeps the prompt's ids (so that the answer's first word
        looks as it does when the model writes it), apart where the two would merge.
        """
        together = self._ids(prompt + answer)
        if together[: len(prompt_ids)] == prompt_ids:
            return together[len(prompt_ids) :]
        self.boundary_merges += 1
        return self._ids(answer)

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        if self.chat.system and (not messages or messages[0]["role"] != "system"):
            return [{"role": "system", "content": self.chat.system}, *messages]
        return list(messages)

    def _apply(self, messages: Sequence[Message], *, generation: bool) -> str:
        if not self.tokenizer.chat_template:
            raise DataError(
                "the base's tokenizer has no chat template, and the data holds conversations",
                "set `chat.template: chatml` (or a Jinja file), or start from an instruct model",
                "chat.template",
            )
        arguments: Mapping[str, Any] = self.chat.template_args
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation, **arguments
            )
        )

    def _ids(self, text: str) -> list[int]:
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

"""The recipe's own base as teacher (`dataset.teacher: {model: base}`): asked like an endpoint, in this process.

A thread of its own opens the base at the first question and drives the engine, so that the questions of several threads
are answered together. Answers are held to the form that is asked for: a small base writes no JSON by itself.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from afina.dataset.questions.teacher import PURPOSE
from afina.dataset.questions.teacher_prompts import TEMPERATURE, answer_schema
from afina.endpoint.client import Failure, Reply
from afina.errors import AfinaError, ContextOverflow
from afina.model.generate.request import Finished, Request
from afina.recipe import Recipe, Teacher
from afina.run import hash_value
from afina.walk.base import base_files, renderer
from afina.walk.context import Context, once
from afina.walk.models import open_untrained

if TYPE_CHECKING:
    from afina.model.generate.engine_torch import Engine


def base_named(recipe: Recipe, files: Mapping[str, str]) -> Recipe:
    """The recipe with its base's weights in the teacher's name, where the base is the teacher: another base's answers
    are others, and each example says who wrote it.

    Args:
        files: hashes of the base's files.
    """
    teacher = recipe.dataset.teacher
    if teacher is None or not teacher.is_base:
        return recipe
    named = teacher.model_copy(update={"model": f"base {hash_value(dict(files))[:12]}"})
    return recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"teacher": named})})


@once
def taught_recipe(context: Context) -> Recipe:
    """The recipe that the dataset is built by."""
    teacher = context.recipe.dataset.teacher
    return base_named(context.recipe, base_files(context)) if teacher and teacher.is_base else context.recipe


class BaseTeacher:
    """Asked as :class:`~afina.endpoint.client.EndpointClient` is, from many threads. A context manager: it ends its own
    thread."""

    def __init__(self, context: Context, teacher: Teacher) -> None:
        self.context, self.endpoint, self.purpose = context, teacher, PURPOSE
        self.reached = threading.Event()
        self.reached.set()  # no address can be wrong
        self._grammar = ""
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[tuple[Request, Future[Finished]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken: BaseException | None = None
        """Why nothing is answered any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._asked.put(None)
            self._thread.join()

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Reply:
        """One question, answered whole; asked again it is answered otherwise.

        Raises:
            Failure: the section is too long for the base, or nothing was written.
            AfinaError: the base cannot be opened.
        """
        request = self._request(messages)
        future: Future[Finished] = Future()
        with self._lock:
            if self._broken:
                raise self._broken
            self._asked.put((request, future))
        try:
            done = future.result()
        except ContextOverflow as error:
            raise Failure("rejected", str(error), again=False) from error
        if done.finish == "failed":
            raise Failure("wrong_content", "logits are NaN, or no token fits the form", again=False)
        if not done.text.strip():
            raise Failure("empty_answer", "not a word")
        return Reply(done.text, done.prompt_tokens, done.written, cut=done.finish == "length")

    def _request(self, messages: Sequence[Mapping[str, str]]) -> Request:
        with self._lock:
            if self._thread is None:
                from afina.model.generate.grammar import json_grammar

                self._grammar = json_grammar(answer_schema(self.endpoint))
                self._thread = threading.Thread(target=self._drive, name="base teacher", daemon=True)
                self._thread.start()
            key = hash_value(list(messages))
            self._tries[key] += 1
            chat = renderer(self.context)
            turns: list[Any] = list(messages)
            if not chat.template.takes_system:
                turns = [{"role": "user", "content": "\n\n".join(each["content"] for each in messages)}]
            return Request(
                prompt=chat.prompt(turns),
                max_new_tokens=self.endpoint.max_tokens,
                temperature=TEMPERATURE,
                seed=int(hash_value([key, self._tries[key]])[:12], 16),
                grammar=self._grammar,
            )

    # ---- in a thread of its own

    def _drive(self) -> None:
        """Answer until there is nothing more to come; whatever goes wrong is told to whoever asked."""
        under_way: dict[int, Future[Finished]] = {}
        try:
            engine = self._open()
            while True:
                try:
                    asked = self._asked.get(block=not engine.busy)
                except queue.Empty:
                    for produced in engine.step():
                        if produced.done:
                            under_way.pop(produced.id).set_result(produced.done)
                    continue
                if asked is None:
                    return
                try:
                    under_way[engine.submit(asked[0])] = asked[1]
                except AfinaError as error:
                    asked[1].set_exception(error)
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to whoever asked
            with self._lock:
                self._broken = error
                for future in (*under_way.values(), *self._left()):
                    future.set_exception(error)

    def _left(self) -> Iterator[Future[Finished]]:
        """Questions that nobody has looked at."""
        with contextlib.suppress(queue.Empty):
            while True:
                if asked := self._asked.get_nowait():
                    yield asked[1]

    def _open(self) -> Engine:
        from afina.model.generate.engine_torch import Engine

        chat = renderer(self.context)
        model, places = open_untrained(self.context), self.endpoint.concurrency
        return Engine(model, chat.tokenizer, chat.stop_ids(), places=places, say=self.context.tell)

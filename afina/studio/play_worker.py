"""The process that holds the models of the playground: ``python -m afina.studio.play_worker``.

It reads one JSON object a line and writes one a line (:mod:`afina.studio.play_process` is the other end):

    {"do": "open", "run": PATH or null, "base": PATH, name or null}     say*, then opened or error
    {"do": "answer", "question": TEXT, "turns": [...], ...}             piece*, then done or error
    {"do": "stop"}                                                      the answer that is being written is done
    the end of the input                                                the process ends
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from afina.errors import AfinaError
from afina.model.base import check_same_base, find_base, hash_model
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import BASE
from afina.run import parse_json, read_stages
from afina.serve.opened import Models, Target, find_target, open_models
from afina.serve.terminal_chat import Settings, Voice, write_answers
from afina.text.document import Message
from afina.tokenizer.chat import Renderer
from afina.train.flops_torch import memory_bytes

UNTRAINED, TRAINED = "base", "adapter"
"""The sides, by the names of the page's events."""
Tell = Callable[[dict[str, Any]], None]
"""Is told every event."""


class OpenPlayground:
    """What is open: the base and what a run made of it, or a base alone, ready to be asked."""

    def __init__(self, run: Path | None, base: str | None, say: Callable[[str], None]) -> None:
        """
        Raises:
            AfinaError: the run holds nothing trained, the base is not there or another one than it was.
        """
        given = str(run) if run else str(base)
        target = find_target(given, [f"base={base}"] if run and base else ())
        models, self.warnings = open_models(target, {}, say=say)
        self.renderer = list(models.served.values())[-1].renderer
        own = _engine(models, self.renderer, say)
        if target.adapter:
            _, adapter = models.served.values()
            self.voices = [Voice(UNTRAINED, own, BASE), Voice(TRAINED, own, adapter.inside)]
            names = list(models.served)
        elif target.run and target.recipe and target.recipe.base:
            before = _base_of(target, say)
            self.voices = [Voice(UNTRAINED, _engine(before, self.renderer, say)), Voice(TRAINED, own)]
            names = [*before.served, *models.served]
        else:
            self.voices = [Voice(TRAINED if target.run else UNTRAINED, own)]
            names = [*models.served]
        self.about = {
            "sides": [{"side": voice.name, "name": name} for voice, name in zip(self.voices, names, strict=True)],
            "numbers": own.dtype,
            "context": own.context,
            "memory_bytes": _memory_of(models),
            "warnings": self.warnings,
        }

    def answer(self, asked: Mapping[str, Any], stopped: threading.Event) -> Iterator[dict[str, Any]]:
        """The pieces of every side's answer as they come, each side with the same seed; what was cut at the end.

        Raises:
            ContextOverflow: the conversation leaves no room for an answer.
        """
        for voice in self.voices:
            voice.turns = _conversation(voice.name, asked["turns"], asked["question"])
        settings = Settings(
            temperature=asked["temperature"], max_new_tokens=asked["max_new_tokens"], seed=asked["seed"]
        )
        shown = dict.fromkeys((voice.name for voice in self.voices), "")
        remarks: list[str] = []
        with contextlib.closing(write_answers(self.voices, self.renderer, settings, remarks.append)) as answers:
            for texts in answers:
                for side, text in texts.items():
                    if new := text[len(shown[side]) :]:
                        yield {"event": "piece", "side": side, "text": new}
                shown = texts
                if stopped.is_set():
                    break
        yield {"event": "done", "texts": shown, "remarks": remarks, "stopped": stopped.is_set()}


def _engine(models: Models, renderer: Renderer, say: Callable[[str], None]) -> Engine:
    return Engine(models.model, models.tokenizer, renderer.stop_ids(), places=2, say=say)


def _base_of(target: Target, say: Callable[[str], None]) -> Models:
    """The base of a run that trained every weight: a second model beside the trained one.

    Raises:
        BaseError: it is not there, or not the one that was trained from.
    """
    assert target.recipe and target.recipe.base and target.run
    recipe = target.recipe
    base = str(recipe.base)
    trained_on = read_stages(target.run / "stages.json").get("train", {}).get("inputs", {}).get("base")
    folder = find_base(base, revision=recipe.base_revision, trust_remote_code=recipe.trust_remote_code, say=say)
    check_same_base(hash_model(folder), trained_on, base)
    return open_models(Target(Path(base).name, str(folder), target.chat, target.root), {}, say=say)[0]


def _conversation(side: str, turns: list[dict[str, str]], question: str) -> list[Message]:
    """The turns as they went for a side, and the question behind them."""
    said: list[Message] = []
    for turn in turns:
        said.append({"role": "user", "content": turn["question"]})
        said.append({"role": "assistant", "content": turn[side]})
    return [*said, {"role": "user", "content": question}]


def _memory_of(models: Models) -> int:
    import torch

    weight = next(models.model.parameters(), None) if hasattr(models.model, "parameters") else None
    return memory_bytes(weight.device if weight is not None else torch.device("cpu"))


def work(orders: Iterator[str], tell: Tell) -> None:
    """Do what is ordered until the orders end.

    Args:
        orders: lines of JSON. A thread of its own reads them, so that an answer can be stopped.
    """
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def read() -> None:
        for line in orders:
            order = parse_json(line)
            if order["do"] == "stop":
                stopped.set()
                continue
            stopped.clear()
            waiting.put(order)
        stopped.set()
        waiting.put(None)

    threading.Thread(target=read, name="orders", daemon=True).start()
    opened: OpenPlayground | None = None
    while (order := waiting.get()) is not None:
        try:
            if order["do"] == "open":
                run = Path(order["run"]) if order["run"] else None
                opened = OpenPlayground(run, order["base"], lambda text: tell({"event": "say", "text": text}))
                tell({"event": "opened", **opened.about})
            else:
                assert opened is not None, "nothing is open"
                for event in opened.answer(order, stopped):
                    tell(event)
        except AfinaError as error:
            tell({"event": "error", **error.as_json()})


def main() -> None:
    """Take orders from stdin; events go to what was stdout, and what libraries print goes to stderr."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: dict[str, Any]) -> None:
        events.write(json.dumps(event, ensure_ascii=False) + "\n")
        events.flush()

    with contextlib.suppress(BrokenPipeError):  # the studio has ended
        work(iter(sys.stdin), tell)


if __name__ == "__main__":
    main()

"""Which questions a run's models are asked: the same before training, when they are committed to, and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from afina.errors import DataError, Problem
from afina.recipe import Recipe
from afina.text.example import read_examples
from afina.walk.base import renderer
from afina.walk.context import Context
from afina.walk.gone import still_there

if TYPE_CHECKING:
    from afina.evaluate.probes import ProbeSet


def probes_asked(context: Context, recipe: Recipe) -> tuple[list[ProbeSet], list[str]]:
    """The recipe's probes and those made of the dataset, in their order; and what a reader has to know of them.

    Args:
        recipe: the context's, or as much of it as there are still files of.

    Raises:
        DataError: rows that are no questions with an answer.
    """
    from afina.evaluate.derive import derive_probes
    from afina.evaluate.probes import read_probes

    derived = derive_probes(context.recipe, context.folder / "dataset", renderer(context))
    return [*read_probes(recipe), *derived.probes], derived.notes


def check_asked(context: Context) -> None:
    """That all that is asked beside the probes can be asked, tasks, prompts and known strings: said before hours of
    training, not after. The dataset is built.

    Raises:
        RecipeError, DataError: as the evaluation would.
    """
    from afina.evaluate.safety.known import read_strings, strings_file

    recipe, problems = still_there(context).recipe, dict[str, Problem]()
    read_strings(strings_file(recipe))
    for where, put in _put_to(context, recipe):
        try:
            put()
        except DataError as error:  # the first place of each kind: thousands of rows may be refused alike
            problems |= {each.what: replace(each, where=where) for each in error.problems if each.what not in problems}
    if problems:
        raise DataError(problems=list(problems.values()))


def _put_to(context: Context, recipe: Recipe) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Each question of a task and each prompt: where it stands, and what makes tokens of it."""
    from afina.evaluate.prompts import prompts_file, read_prompts
    from afina.evaluate.tasks import read_tasks

    chat = renderer(context)
    for task in read_tasks(recipe, read_examples(context.folder / "dataset/train.jsonl")):
        for item in task.items:
            yield f"{task.task.path}:{item.line}", partial(chat.prompt, item.messages)
    if file := prompts_file(recipe):
        yield from ((str(file), partial(chat.completion_prompt, prompt)) for prompt in read_prompts(file))

"""Which questions of a dataset's ``prose.jsonl`` are asked, and what they will be able to tell: known before anything
is trained, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.evaluate.intervals import FEWEST_TURNED, least_gain
from afina.evaluate.scores import FACTS, WAYS
from afina.recipe import Recipe
from afina.record import read_rows
from afina.text.example import read_examples
from afina.text.prose_question import PROSE_FILE, ProseQuestion, read_prose

UNSEEN_FILE = "probes-unseen.jsonl"
"""Facts asked in phrasings that are held out."""


@dataclass(frozen=True)
class AskedProse:
    """The questions of each way to mark them."""

    choice: tuple[ProseQuestion, ...] = ()
    control: tuple[ProseQuestion, ...] = ()
    """To choose, of sections that were held out."""
    free: tuple[ProseQuestion, ...] = ()
    changes: tuple[ProseQuestion, ...] = ()
    """What replaced what."""


def choose_prose(dataset: Path, most: int) -> AskedProse:
    """At most so many questions of each kind, of as many sections as there are, the same ones every time.

    Args:
        dataset: the dataset folder; without questions about prose nothing is asked.
    """
    found: dict[str, list[ProseQuestion]] = {"choice": [], "control": [], "free": [], "changes": []}
    for question in read_prose(dataset / PROSE_FILE) if (dataset / PROSE_FILE).is_file() else ():
        if question.wrong:
            found["control" if question.held_out else "choice"].append(question)
        elif not question.held_out:
            found["changes" if question.outdated else "free"].append(question)
    return AskedProse(**{way: tuple(_of_many_sections(questions, most)) for way, questions in found.items()})


def _of_many_sections(questions: Sequence[ProseQuestion], most: int) -> list[ProseQuestion]:
    """One of each section first, then a second of each, by their hashes."""
    taken: dict[str, int] = {}
    order = []
    for question in sorted(questions, key=lambda each: each.id):
        taken[question.section] = taken.get(question.section, 0) + 1
        order.append((taken[question.section], question.id, question))
    return [question for *_, question in sorted(order, key=lambda each: each[:2])[:most]]


def describe_power(recipe: Recipe, dataset: Path) -> list[str]:
    """What the dataset's own questions will be able to tell of a training, in lines for a person.

    Six sections at least have to turn right, and none wrong, for a sign test to be sure; so it is said of a share of
    the sections, whatever the number of questions about each. Empty for a dataset without questions about prose and
    without phrasings held out, whose questions are the recipe's.
    """
    if not recipe.asks_prose:
        return []
    lines = []
    counted = list(_things_asked(recipe, dataset))
    for way, things, what in counted:
        least = least_gain(things)
        if least is None:
            lines.append(f"{way}, {things} of {FEWEST_TURNED} {what} that it takes: not enough to tell")
        else:
            lines.append(f"{way}, {things} {what}: a gain in less than {_percent(least)} of them is none beyond chance")
    if counted and all(least_gain(things) is None for _, things, _ in counted) and not _asks_more(recipe, dataset):
        lines.append("not enough to tell whether this training teaches anything; it can be trained all the same")
    return [f"measured by: {line}" if number < len(counted) else line for number, line in enumerate(lines)]


def _asks_more(recipe: Recipe, dataset: Path) -> bool:
    """Whether something else can tell: questions that the recipe names, or conversations that are trained."""
    named = {probe.role for probe in recipe.evaluate.probes}
    trained = dataset / "train.jsonl"
    rows = read_examples(trained) if trained.is_file() else ()
    return bool(named & {"recall", *FACTS}) or any(row.kind == "messages" and not row.replay for row in rows)


def _things_asked(recipe: Recipe, dataset: Path) -> Iterator[tuple[str, int, str]]:
    """Per way to tell: its name, how many facts or sections it asks about, and what these are."""
    asked = choose_prose(dataset, recipe.evaluate.questions)
    named = {probe.role for probe in recipe.evaluate.probes}
    if (dataset / UNSEEN_FILE).is_file() and "generalization" not in named:
        facts = {row.text("fact") or str(number) for number, row in enumerate(read_rows(dataset / UNSEEN_FILE) or [])}
        yield WAYS["recall"], len(facts), "facts in phrasings held out"
    if asked.changes and "versions" not in named:
        yield "what replaced what", len({question.section for question in asked.changes}), "sections"
    for way, questions in ("choice", asked.choice), ("coverage", asked.free):
        if questions:
            yield WAYS[way], len({question.section for question in questions}), "sections"


def _percent(share: float) -> str:
    """
    >>> _percent(6 / 74), _percent(1.0)
    ('8.1 %', '100 %')
    """
    return f"{round(100 * share, 1):g} %"

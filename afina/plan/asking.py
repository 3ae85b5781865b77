"""What evaluation writes and reads besides the held-out rows: probes, samples, tasks, choices, passages, prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from afina.plan.tokens import ProseCount, TokenCount
from afina.recipe import PROMPT_SEEDS, PROMPT_TOKENS, SKILL_TOKENS, Recipe, expand_path
from afina.recipe.probe import TELL_OF_LEARNING


@dataclass(frozen=True)
class AskedTokens:
    """Most tokens that evaluation asks for.

    Args:
        written: one by one, by the model before and after training.
        read: at once: sentences to choose among, and passages before a question.
        notes: what is not in them.
    """

    written: float = 0.0
    read: float = 0.0
    notes: list[str] = field(default_factory=list)


def asked_tokens(recipe: Recipe, tokens: TokenCount) -> AskedTokens:
    """Of the rows of probes and tasks, the samples, the questions about prose, and what is written behind prompts.

    Of the probes taken from the dataset the size is not known before it is built: as many as they may ask at most,
    where there is anything to take them from. Trained claims to know are few, and not counted.

    Args:
        tokens: what the dataset holds.
    """
    evaluate, notes = recipe.evaluate, list[str]()
    prose = tokens.prose if recipe.asks_prose else ProseCount()
    probes = [(str(role), evaluate.questions) for role in recipe.roles_from_dataset if role != "claims"]
    for probe in evaluate.probes:
        found = [file for file in expand_path(Path(recipe.root), probe.path) if file.is_file()]
        probes += [(probe.role, _lines(file)) for file in found]
        if not found:
            notes.append(f"probe {probe.path}: a folder; its questions are not in the time")
    answered = evaluate.samples + sum(count for _, count in probes) + prose.free
    written = answered * evaluate.max_new_tokens + recipe.most_skills * SKILL_TOKENS
    for task in evaluate.tasks:
        rows = list(
            _rows_of_task(Path(recipe.root) / task.path, task.sample * len(task.seeds) if task.sample else None)
        )
        written += min(rows, default=0) * (task.max_new_tokens or evaluate.max_new_tokens)
        if not rows:
            notes.append(f"task {task.name}: how many rows it has is not known before it is read")
    times = 1 if recipe.train.method == "scratch" else 2
    written, read = times * written, times * prose.choices * prose.choice_tokens
    if evaluate.retrieval:  # the base alone, with the passages found and with the section that is asked about
        told = [count for role, count in probes if role in TELL_OF_LEARNING] + [prose.free]
        most = evaluate.retrieval.questions
        free, choices = sum(min(most, count) for count in told), min(most, prose.choices)
        read += (free + choices) * (evaluate.retrieval.passages + 1) * tokens.mean_length
        read += 2 * choices * prose.choice_tokens
        written += 2 * free * evaluate.max_new_tokens
    if evaluate.prompts and (file := Path(recipe.root) / evaluate.prompts).is_file():
        written += _lines(file) * (1 + len(PROMPT_SEEDS)) * PROMPT_TOKENS
    return AskedTokens(float(written), float(read), notes)


def _rows_of_task(file: Path, drawn: int | None) -> Iterator[int]:
    """What is known of how many rows a task asks."""
    if drawn is not None:
        yield drawn
    if file.suffix == ".jsonl" and file.is_file():
        yield _lines(file)


def _lines(file: Path) -> int:
    """Lines that hold something."""
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())

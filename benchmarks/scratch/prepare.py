"""The rows of the ladder's adapter: questions of Canarim with a short answer, so that right and wrong can be told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from afina.errors import RecipeError
from afina.whole import write_whole

MOST_WORDS, LONGEST_WORD, MOST_CHARS = 3, 30, 400
LEARNED, ASKED = "short-answers.jsonl", "questions.jsonl"
"""What the adapter learns, and the task that it is measured by."""


def check_inputs(root: Path) -> None:
    """Say what is not there.

    Raises:
        RecipeError: a folder or file is missing.
    """
    needed = ("machado", "canarim/train.jsonl", "canarim/test.jsonl", "monograph/prompts.txt")
    if missing := [name for name in needed if not (root / name).exists()]:
        raise RecipeError(
            f"the texts are not here: {', '.join(missing)}",
            "name the folder that has them: make scratch ROOT=FOLDER (the recipes say where they come from)",
            str(root),
        )


def prepare(root: Path, folder: Path, say: Callable[[str], None], most: int | None = None) -> None:
    """Write the adapter's rows and questions; cheap, and the same each time.

    Args:
        root: where `../shared/data/ptbr` or a copy of it is.
        folder: what the adapter's recipe reads.
        most: rows of each; None: all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("train", LEARNED), ("test", ASKED)):
        left_out: Counter[str] = Counter()
        rows = list(short_answers((root / f"canarim/{part}.jsonl").read_text(encoding="utf-8"), left_out))[:most]
        write_whole(folder / name, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        say(f"scratch: {len(rows)} rows of canarim/{part}.jsonl have a short answer; not taken: {reasons or 'none'}")


def short_answers(text: str, left_out: Counter[str]) -> Iterator[dict[str, str]]:
    """The rows whose answer has at most three words and whose question is short; what is left out is counted.

    >>> row = '{"instruction": "Certo?", "input": "", "output": "%s"}'
    >>> counted = Counter()
    >>> list(short_answers("\\n".join([row % "Sim", row % "Talvez um outro dia"]), counted)), dict(counted)
    ([{'prompt': 'Certo?', 'completion': 'Sim'}], {'with a longer answer': 1})
    """
    for line in text.split("\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        question = "\n".join(part for part in (row["instruction"], row["input"]) if part.strip())
        answer = row["output"].strip()
        if not answer:
            left_out["with no answer"] += 1
        elif len(answer.split()) > MOST_WORDS:
            left_out["with a longer answer"] += 1
        elif max(map(len, answer.split())) > LONGEST_WORD:
            left_out["with noise for an answer"] += 1
        elif len(question) > MOST_CHARS:
            left_out["with a longer question"] += 1
        else:
            yield {"prompt": question, "completion": answer}

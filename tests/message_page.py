"""Writes the second half of docs/troubleshooting.md: every message of an error, by topic, with what to do.

python tests/message_page.py docs/troubleshooting.md
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from advice_sites import HOLE
from message_sites import Message, every_message

from afina.page_marks import write_between

TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # heading -> how the names of its modules begin; the first that fits
    ("Apple chips (MLX)", (
        "model/mlx/", "train/snapshot_mlx", "train/backend_mlx", "model/skeleton", "model/back_ends")),
    ("Several processes and GPUs", ("train/ranks", "train/shard", "walk/follower_rank", "cli/opened")),
    ("A teacher or a judge", ("endpoint/", "dataset/questions/", "evaluate/judge", "walk/base_teacher")),
    ("Programs that are compiled and run", ("sandbox/", "recipe/code", "evaluate/code", "dataset/build/code")),
    ("The recipe and the command line", ("recipe/", "cli/", "errors", "units", "remedies/")),
    ("Rows and conversations", (
        "sources/row", "sources/turns", "sources/tool", "sources/preferences", "sources/tables", "sources/conversions",
        "sources/exports", "sources/unpack")),
    ("Websites and datasets of the hub", ("sources/web", "sources/fetch", "sources/hub")),
    ("Files and documents", ("sources/", "text/")),
    ("The audit", ("dataset/audit/", "walk/audit")),
    ("The dataset", ("dataset/",)),
    ("Tokenizers and chat templates", ("tokenizer", "model/named_tokenizer", "walk/tokenizer", "walk/rows")),
    ("GGUF and llama.cpp", ("model/gguf", "llamacpp/")),
    ("Memory, time and money", ("plan/", "machine", "walk/plan", "walk/scaling", "walk/memory")),
    ("Serving and talking", ("serve/", "model/generate/")),
    ("The base", ("model/base", "model/shape", "base_", "model/load", "model/stored", "model/proven")),
    ("Training", ("train/", "model/", "walk/start", "walk/chosen", "walk/trainings", "walk/to_train")),
    ("Measuring and scores", (
        "evaluate/", "score/", "temper/", "why/", "walk/skills", "walk/benchmarks", "walk/describe")),
    ("Export", ("export/", "verify/")),
    ("Launching elsewhere", ("launch/",)),
    ("The studio", ("studio/", "run_process")),
    ("Agents", ("mcp_server/",)),
    ("Rounds of a recipe", ("improve/",)),
    ("Runs, reports and figures", (
        "run", "whole", "record", "manifest", "outcome", "walk/", "report/", "watch/", "plot/")),
)  # fmt: skip
ELSEWHERE = "Elsewhere"
OF_LIBRARIES = tuple(
    Message("recipe/load.py", 0, what, "`afina recipe schema` lists what is allowed", 2)
    for what in (
        f"Input should be {HOLE}", f"Input should be {HOLE} (given: {HOLE})", f"List should have {HOLE}",
        f"String should {HOLE}", f"Dictionary should have {HOLE}", f"Decimal input should {HOLE}",
    )
)  # fmt: skip
"""What pydantic says of a value in a recipe, in its own words."""


def topic_of(module: str) -> str:
    """The heading below which a module's messages stand."""
    return next((title for title, starts in TOPICS if module.startswith(starts)), ELSEWHERE)


def reference(messages: Iterable[Message]) -> str:
    """The lists, as Markdown: each message once, in the order of its words."""
    topics: dict[str, dict[tuple[str, str, int | None], None]] = defaultdict(dict)
    for message in messages:
        if not message.said:  # it hands on the words of another
            continue
        what = " ".join(message.what.split())
        topics[topic_of(message.module)][what, message.fix, message.code] = None
    blocks = []
    for title in (*(title for title, _ in TOPICS), ELSEWHERE):
        if title in topics:
            lines = sorted(
                topics[title], key=lambda entry: (re.sub(r"[\W_]+", " ", entry[0]).casefold(), *map(str, entry))
            )
            blocks.append("\n".join([f"### {title}", "", *(_line(*entry) for entry in lines), ""]))
    return "\n".join(blocks)


def _line(what: str, fix: str, code: int | None) -> str:
    told = f"exit code {code}" if code else ""
    advice = "" if not fix.strip(HOLE + " ,;") else _escaped(fix)
    return f"- {as_code(what)}" + "".join(f": {text}" for text in [" · ".join(filter(None, (advice, told)))] if text)


def as_code(text: str) -> str:
    """A text as Markdown shows it letter by letter, its backticks too.

    >>> as_code("unknown key `x`")
    '`` unknown key `x` ``'
    """
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escaped(text: str) -> str:
    """A text with what Markdown would read as its own marks escaped, but for what stands between backticks."""
    if text.count("`") % 2:
        return as_code(text)
    parts = " ".join(text.split()).split("`")
    return "`".join(
        part if number % 2 else re.sub(r"([\\*_\[\]<>#|])", r"\\\1", part) for number, part in enumerate(parts)
    )


def lists() -> str:
    """Those of the page."""
    return reference([*every_message(), *OF_LIBRARIES])


if __name__ == "__main__":
    write_between(Path(sys.argv[1]), "messages", lists())

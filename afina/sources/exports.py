"""Files of other programs that hold rows: InstructLab's ``qna.yaml``, the ZIP of an exported chat history."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml.error import MarkedYAMLError, YAMLError

from afina.errors import DataError
from afina.recipe.yaml_text import parse_yaml
from afina.sources.files import SourceReading, open_packed, read_text
from afina.sources.saved import CONVERSATIONS
from afina.sources.tables import OpenedRows, Row, RowProblems, converted, drop_values, list_rows
from afina.sources.unpack import LARGEST_UNPACKED_BYTES


def open_qna(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """InstructLab's questions: a row for each, and the context of knowledge as a text of its own.

    A context that stands beside one question (a skill) is what the question is about, and goes before it.

    Raises:
        DataError: it is no YAML, or holds no `seed_examples`.
    """
    opened = read_text(reading, full)
    try:
        whole = parse_yaml(opened.text, round_trip=True)
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{problems.path}:{mark.line + 1 if mark else 1}"
        raise DataError(f"not YAML: {str(error).splitlines()[0]}", "fix the file", where) from None
    seeds = whole.get("seed_examples") if isinstance(whole, dict) else None
    if not isinstance(seeds, list):
        raise DataError("no list `seed_examples`", "exclude the file, or write the questions there", problems.path)
    for name, value in whole.items():
        if name != "seed_examples":
            drop_values(opened.entry, f"beside the questions: `{name}`", _plain(value))
    return opened.entry, _seed_rows(seeds, problems)


def _seed_rows(seeds: list[Any], problems: RowProblems) -> Iterator[Row]:
    for place, seed in enumerate(seeds):
        line = seeds.lc.item(place)[0] + 1  # type: ignore[attr-defined]
        if not isinstance(seed, dict):
            problems.add("an entry of `seed_examples` is no mapping", "give it a question and an answer", line)
            continue
        context, pairs = seed.get("context"), seed.get("questions_and_answers")
        if pairs is None:
            pair = {name: _plain(seed[name]) for name in ("question", "answer") if name in seed}
            if isinstance(context, str) and isinstance(pair.get("question"), str):
                pair["question"] = f"{context.strip()}\n\n{pair['question']}"
            yield line, pair
            continue
        if isinstance(context, str) and context.strip():
            yield line, {"text": str(context)}
        for pair in pairs if isinstance(pairs, list) else [pairs]:
            at = pair.lc.line + 1 if hasattr(pair, "lc") else line
            yield at, _plain(pair) if isinstance(pair, dict) else {"questions_and_answers": _plain(pair)}


def _plain(value: Any) -> Any:
    """A value of ruamel's as one of Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, str) else value


def open_zip(reading: SourceReading, full: Path, problems: RowProblems, wanted: Collection[str]) -> OpenedRows:  # noqa: ARG001
    """The conversations of an exported chat history, as it comes.

    Raises:
        DataError: there is none in it, it is damaged, or larger than is read at once.
    """
    entry = open_packed(reading, full)
    try:
        with zipfile.ZipFile(full) as packed:
            infos = [info for info in packed.infolist() if CONVERSATIONS.fullmatch(info.filename)]
            if not infos:
                raise DataError("a .zip without conversations.json", "unpack it", problems.path)
            if sum(info.file_size for info in infos) > LARGEST_UNPACKED_BYTES:
                size = LARGEST_UNPACKED_BYTES >> 20
                raise DataError(f"more than {size} MiB when unpacked", "unpack it, and name the file", problems.path)
            texts = [packed.read(info).decode("utf-8") for info in infos]
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"a damaged .zip: {error}", "fetch it again", problems.path) from error
    for text in texts:
        if not text.lstrip().startswith("["):
            raise DataError("conversations.json is no list", "unpack it, and see what it holds", problems.path)
    return entry, converted((row for text in texts for row in list_rows(text, problems)), entry, problems)

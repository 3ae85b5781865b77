"""Texts that models wrote, as anybody keeps them, and reports on such texts.

What is known: JSONL or a JSON list of ``{"prompt": ..., "output": ...}`` (with `seed` and `stopped` if they are told),
a mapping of such lists by the name of a model, the folder of a run (what `evaluate.prompts` made it write, with the
tokens that it produced), what `afina guardrails --json` printed, and the monograph's guardrail reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afina.errors import DataError, RecipeError
from afina.evaluate.prompts import CONTINUATIONS_FILE
from afina.evaluate.text_scores import CorpusFigures, TextFigures
from afina.record import Record, read_rows
from afina.run import parse_json
from afina.text.clean import mend
from afina.tokenizer.ratios import PieceCounts

FORMS = (
    'give JSONL or a JSON list of {"prompt": ..., "output": ...}, a mapping of such lists, a run that has continued '
    "prompts, or what `afina guardrails --json` printed"
)


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text as it is kept."""

    output: str
    """Mended where it was kept in a wrong encoding."""
    prompt: str
    seed: int | None
    stopped: bool | None
    """Whether it ended by itself; None where nothing tells."""
    mended: bool
    """Whether it was kept in a wrong encoding."""
    pieces: PieceCounts | None = None
    """Of the tokens that the model produced, where they were counted."""


@dataclass(frozen=True)
class SampleSet:
    """The texts of one model."""

    name: str
    texts: Sequence[StoredText]
    tokenizer: str | None = None
    """Hash of the tokenizer whose tokens were counted as they were produced."""


@dataclass(frozen=True)
class StoredReport:
    """What was measured of a set before, and by what."""

    name: str
    figures: TextFigures
    tokenizer: str
    """Its hash; of a report that has none what it calls it."""
    prompts_left_in: bool | None
    """None where the report does not say, or no text began with its prompt: both are then the same text."""
    echoed: int | None
    corpus: CorpusFigures | None = None
    """What its broken words were looked up in."""


def read_samples(path: Path) -> list[SampleSet | StoredReport]:
    """The sets of texts in a file or a run, or the reports on such sets.

    Raises:
        RecipeError: there is no such file, or the run has continued no prompts.
        DataError: the file holds none of the forms (it says what it holds), no text, or half of a character.
    """
    if path.is_dir():
        return _of_run(path)
    if not path.is_file():
        raise RecipeError("there is no such file or folder", "check the path", str(path))
    content = path.read_bytes()
    try:
        value = parse_json(content)
    except ValueError as error:
        return [SampleSet(path.name, _of_lines(content, str(path), error))]
    if isinstance(value, dict) and isinstance(value.get("output"), str):  # JSONL of one line
        value = [value]
    if isinstance(value, list):
        return [_set(path.name, value, str(path))]
    if not isinstance(value, dict):
        raise DataError(f"holds {_seen(value)} and no texts that a model wrote", FORMS, str(path))
    if "sets" in value:
        return _own_reports(Record(value, str(path)))
    if "aggregate" in value and "per_sample" in value:
        return [_monograph_report(Record(value, str(path)))]
    if not value or not all(isinstance(rows, list) for rows in value.values()):
        raise DataError(f"holds {_seen(value)} and no texts that a model wrote", FORMS, str(path))
    return [_set(name, rows, f"{path}, {_whole(name, 'a name', str(path))}") for name, rows in value.items()]


def _set(name: str, rows: Sequence[Any], where: str) -> SampleSet:
    """The texts of a list."""
    if not rows:
        raise DataError("is empty", FORMS, where)
    return SampleSet(name, [_text(row, f"{where}, row {number}") for number, row in enumerate(rows, 1)])


def _whole(text: str, what: str, where: str) -> str:
    """A text of whole characters.

    Raises:
        DataError: it holds half of one, which no tokenizer takes and no file could keep.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds half of a character (a lone surrogate, {text[error.start]!a})",
            "write the text again, in UTF-8 or with both halves",
            where,
        ) from None
    return text


def _of_lines(content: bytes, where: str, why: ValueError) -> list[StoredText]:
    found = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError:
            what = f"is neither JSON ({why}) nor JSONL: {line[:60]!r}"
            raise DataError(what, FORMS, f"{where}:{number}") from why
        found.append(_text(row, f"{where}:{number}"))
    if not found:
        raise DataError("is empty", FORMS, where)
    return found


def _text(row: Any, where: str) -> StoredText:
    if not isinstance(row, Mapping) or not isinstance(row.get("output"), str):
        raise DataError(f"holds {_seen(row)} where a text with its `output` belongs", FORMS, where)
    record = Record(row, where)
    texts = {key: _whole(record.text(key) or "", f"`{key}`", where) for key in ("output", "prompt")}
    misread, pieces = False, None
    if "tokenizer" in row:  # written by a run: whatever stands there is what the model wrote
        pieces = PieceCounts(*(record.required_whole(key) for key in ("tokens", "fallback", "short")))
    else:
        cleaned = {key: mend(text) for key, text in texts.items()}
        wrong = [key for key, each in cleaned.items() if "wrong_encoding" in each.cut]
        texts |= {key: cleaned[key].text for key in wrong}
        misread = "output" in wrong
    return StoredText(texts["output"], texts["prompt"], record.whole("seed"), record.flag("stopped"), misread, pieces)


def _of_run(folder: Path) -> list[SampleSet | StoredReport]:
    rows = read_rows(folder / CONTINUATIONS_FILE)
    if not rows:
        raise RecipeError(
            f"has no {CONTINUATIONS_FILE}",
            "name a run whose recipe has `evaluate.prompts`, or a file of texts",
            str(folder),
        )
    name, tokenizer = folder.resolve().name, rows[0].required_text("tokenizer")
    texts = [_text(row.values, row.where) for row in rows]
    sampled, greedy = ([text for text in texts if (text.seed is None) is wanted] for wanted in (False, True))
    return [SampleSet(f"{name}, sampled", sampled, tokenizer), SampleSet(f"{name}, greedy", greedy, tokenizer)]


def _own_reports(report: Record) -> list[SampleSet | StoredReport]:
    asked, corpus = report.required_text("prompts"), report.record("corpus")
    return [
        StoredReport(
            each.required_text("name"),
            TextFigures.of(each),
            each.text("tokenizer") or "",
            (each.text("prompts") or asked) == "left in" if each.whole("echoed") else None,
            each.whole("echoed"),
            CorpusFigures.of(corpus) if corpus else None,
        )
        for each in report.records("sets")
    ]


def _monograph_report(report: Record) -> StoredReport:
    total = report.required_record("aggregate")
    keys = ("samples_count", "total_chars", "total_tokens", "fallback_tokens", "short_alpha_tokens")
    texts, characters, tokens, fallback, short = map(total.required_whole, keys)
    figures = TextFigures(texts, characters, tokens, fallback, short, None, {})
    return StoredReport(report.required_text("model_key"), figures, report.required_text("tokenizer"), None, None)


def _seen(value: Any) -> str:
    """What stands somewhere, in a few words.

    >>> _seen({"text": "x", "n": 1}), _seen(["a"]), _seen(3)
    ('a mapping with the keys text, n', 'a list', '3')
    """
    if isinstance(value, Mapping):
        keys = ", ".join([str(key)[:20] for key in value][:8]) + (", ..." if len(value) > 8 else "")
        return f"a mapping with the keys {keys}" if value else "an empty mapping"
    return "a list" if isinstance(value, list) else f"{value!r:.60}"


def without_echo(output: str, prompt: str) -> tuple[str, bool]:
    """A text without the prompt that it begins with, in whatever case and white space; whether it did.

    >>> without_echo(" Onde  nasceu Ana? Em Faro.", "onde nasceu Ana?"), without_echo("Em Faro.", "Onde?")
    (('Em Faro.', True), ('Em Faro.', False))
    """
    words = prompt.split()
    if not words:
        return output, False
    found = re.match(r"\s*" + r"\s+".join(map(re.escape, words)), output, re.IGNORECASE)
    return (output[found.end() :].lstrip(), True) if found else (output, False)

"""Pairs: a problem's text is the question, the solution's code is the answer.

Files are matched by the first group of the source's `stem` on their names. A problem usually
includes its own solution: the include is left out of the question, or the answer would stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from afina.errors import DataError, Problem, RecipeError
from afina.sources.code import fence
from afina.sources.files import SourceFile, SourceReading, expand, read_text
from afina.sources.markdown import first_heading, include_files
from afina.text.document import Document, Message, visible
from afina.text.formats import ending, language_of
from afina.text.front_matter import front_matter

_EMPTY_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n`]*\n(?:[ \t]*\n)*^ {0,3}\1[ \t]*(?:\n|\Z)", re.M)

Pair = tuple[SourceFile, SourceFile]


def match_pairs(reading: SourceReading) -> list[Pair]:
    """Problems with their solutions, in order of the problems; what is left alone is in the ledger.

    Raises:
        DataError: two solutions of one stem, or no pair at all.
        RecipeError: where `stem` is no regular expression.
    """
    source = reading.source
    assert source.solutions is not None  # the recipe refuses pairs without
    try:
        stem = re.compile(source.stem)
    except re.error as error:
        where = f"sources.{reading.position}.stem"
        raise RecipeError(f"not a regular expression: {error}", "e.g. '^(\\d+-\\d+)'", where) from None
    found = expand(reading, source.path, "pairs")
    problems = [file for file in found if file.kind in ("markdown", "text")]
    paths = {file.path for file in problems}
    solutions = [file for file in expand(reading, source.solutions, "pairs") if file.path not in paths]
    answers: dict[str, list[SourceFile]] = {}
    for file in solutions:
        if key := _stem(stem, file):
            answers.setdefault(key, []).append(file)
        else:
            reading.skip(file.path, f"solution: no match of stem {source.stem!r}")
    double = [
        Problem(
            f"two solutions of {key}: {', '.join(file.path for file in files)}",
            "exclude one, or make `stem` tell them apart",
            files[0].path,
        )
        for key, files in answers.items()
        if len(files) > 1
    ]
    if double:
        raise DataError(problems=double)
    pairs: list[Pair] = []
    for file in problems:
        key = _stem(stem, file)
        if not key:
            reading.skip(file.path, f"problem: no match of stem {source.stem!r}")
        elif key not in answers:
            reading.skip(file.path, f"problem {key} has no solution")
        else:
            pairs.append((file, answers[key][0]))
    if not pairs:
        raise DataError(
            f"no problem in {source.path!r} ({len(problems)} files) has a solution in {source.solutions!r}"
            f" ({len(solutions)} files) by the pattern {source.stem!r}",
            "fix `stem`: its first group must give the same text on both file names",
            f"sources.{reading.position}.stem",
        )
    used = {solution.path for _, solution in pairs}
    for file in solutions:
        if file.path not in used and (key := _stem(stem, file)):
            reading.skip(file.path, f"solution {key} has no problem")
    for file in found:
        if file.kind not in ("markdown", "text") and file.path not in used:
            reading.skip(file.path, "not a problem: neither Markdown nor text")
    return pairs


def read_pair(pair: Pair, pairs: list[Pair], reading: SourceReading) -> Iterator[Document]:
    """One conversation: the problem's text, then the solution as a code block.

    `pairs` are all of the source: an include of any solution is left out of a question, and counted
    apart where it is not the problem's own.
    """
    problem, solution = pair
    opened, answer = read_text(reading, problem.full), read_text(reading, solution.full)
    question, answered = opened.entry, answer.entry
    question.chars_in += visible(opened.text)
    answered.chars_in += visible(answer.text)
    all_solutions = {other.full.resolve(): other for _, other in pairs}

    def leave_out(target: Path, found: re.Match[str]) -> str | None:
        included = all_solutions.get(target.resolve())
        if included is None:
            return None
        own = included.full.resolve() == solution.full.resolve()
        question.drop("include of the solution" if own else "include of another solution", found[0])
        return ""

    front = front_matter(opened.text)
    if front:
        question.drop("front matter", front)
    line = 1 + front.count("\n")
    text = include_files(opened, reading, opened.text[len(front) :], line, leave_out)

    def drop_fence(found: re.Match[str]) -> str:
        question.drop("empty fence", found[0])
        return ""

    text = re.sub(r"\n{3,}", "\n\n", _EMPTY_FENCE.sub(drop_fence, text)).strip()
    code = answer.text.strip("\n")
    if not code.strip():
        reading.skip(problem.path, f"its solution {solution.path} is empty")
        question.drop("its solution is empty", text)
        return
    language = language_of(solution.path) or ending(solution.path).lstrip(".")
    opening, closing = fence(code, language)
    answered.add("Markdown: code fence", opening + closing)
    content = f"{opening}\n{code}\n{closing}"
    question.chars_out += visible(text)
    answered.chars_out += visible(content)
    question.documents += 1
    yield Document(
        opened.path,
        opened.sha256,
        line=line,
        kind="messages",
        title=first_heading(text),
        messages=(Message(role="user", content=text), Message(role="assistant", content=content)),
        meta={"language": language, "solution": answer.path, "solution_sha256": answer.sha256},
        source=reading.position,
    )


def _stem(stem: re.Pattern[str], file: SourceFile) -> str:
    found = stem.search(file.full.name)
    return "" if found is None else (found[1] if stem.groups else found[0]) or ""

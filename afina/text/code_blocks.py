"""Code in documents and examples: files of code, and fenced blocks of Markdown texts and answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from afina.text.document import Document
from afina.text.example import Example
from afina.text.formats import LANGUAGES, has_own_lines, language_of
from afina.text.lines import file_lines

_OPENING = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_SAME = {ending.lstrip("."): language for ending, language in LANGUAGES.items()} | {
    "golang": "go",
    "python3": "python",
    "shell": "sh",
    "c++": "cpp",
}
_NOT_FOR_BUILDING = frozenset({"ignore", "compile_fail", "should_panic", "diff"})

_WHOLE: dict[str, re.Pattern[str]] = {
    "zig": re.compile(r"@import\s*\(|\bfn\s+main\s*\("),
    "python": re.compile(r"^(?:import|from)\s+\w|^if\s+__name__\b|\A#!", re.MULTILINE),
    "go": re.compile(r"^package\s+\w+", re.MULTILINE),
}
_WHOLE_ELSE = re.compile(
    r"\bmain\s*\(|\A#!|^#include\b|^(?:import|package|using|module|use)\s+[\w\"'<{*]", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A piece of code and where its first line stands."""

    language: str
    code: str
    path: str
    line: int
    whole: bool
    """Whether the document says that this is a program or a file: see :func:`claims_to_be_whole`."""
    shown_after: str = ""
    """The block that follows in the same text: where a manual shows the compiler's answer."""

    @property
    def where(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.line}"


def claims_to_be_whole(code: str, language: str) -> bool:
    """Whether a fenced block presents itself as a file of its own: it holds ``main`` or imports what it uses.

    >>> claims_to_be_whole('const std = @import("std");', "zig"), claims_to_be_whole("x += 1;", "zig")
    (True, False)
    """
    return bool(_WHOLE.get(language, _WHOLE_ELSE).search(code))


def fenced_blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """``(language, code, line of its first line from 1)`` of every fenced block; one that never closes goes on to
    the end.

    >>> list(fenced_blocks("A:\\n```py\\nx = 1\\n```\\n"))
    [('python', 'x = 1\\n', 3)]
    """
    opened: re.Match[str] | None = None
    kept: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if opened is None:
            opened = _OPENING.match(line)
            kept, first = [], number + 1
        elif _closes(line, opened["marks"]):
            yield _language(opened["info"]), "".join(kept), first
            opened = None
        else:
            indent = len(opened["indent"])
            kept.append((line[indent:] if not line[:indent].strip() else line) + "\n")
    if opened is not None:
        yield _language(opened["info"]), "".join(kept), first


def open_fence(text: str) -> int | None:
    """The line (from 1) of a fence that is never closed; None where all are.

    >>> open_fence("```\\na\\n```"), open_fence("a\\n```zig\\nb")
    (None, 2)
    """
    opened, at = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not opened:
            found = _OPENING.match(line)
            opened, at = (found["marks"], number) if found else ("", 0)
        elif _closes(line, opened):
            opened = ""
    return at if opened else None


def without_fences(text: str) -> str:
    """The text with the code in fenced blocks blanked out; every line stays where it was.

    >>> without_fences("a\\n```\\nx{{y}}\\n```\\nb")
    'a\\n\\n\\n\\nb'
    """
    if "```" not in text and "~~~" not in text:
        return text
    opened, kept = "", []
    for line in text.split("\n"):
        if not opened:
            found = _OPENING.match(line)
            opened = found["marks"] if found else ""
            kept.append("" if found else line)
        else:
            opened = "" if _closes(line, opened) else opened
            kept.append("")
    return "\n".join(kept)


def document_blocks(document: Document, root: Path) -> Iterator[CodeBlock]:
    """The code of a document: the whole of a code file, else the fenced blocks of its text or of its answers."""
    if document.kind == "code":
        language = document.meta.get("language") or language_of(document.path) or ""
        yield CodeBlock(language, document.text, document.path, document.line, True)
    elif document.kind == "messages":
        for message in document.messages:
            if message["role"] == "assistant":
                yield from _text_blocks(message["content"], document.path, document.line, one_line=True)
    else:
        in_file = file_lines(document, root)
        for block in _text_blocks(document.text, document.path, 1, one_line=False):
            line = block.line + document.line - 1
            placed = in_file(line)
            yield CodeBlock(block.language, block.code, block.path, placed, block.whole, block.shown_after)


def example_blocks(example: Example) -> Iterator[CodeBlock]:
    """The fenced blocks of an example's text or answers. A section of a code file is no block of its own."""
    if example.messages:
        for message in example.messages:
            if message["role"] == "assistant":
                yield from _text_blocks(message["content"], example.path, example.line, one_line=True)
    elif not language_of(example.path):
        text = example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text
        yield from _text_blocks(text, example.path, example.line, one_line=not has_own_lines(example.path))


def _text_blocks(text: str, path: str, line: int, *, one_line: bool) -> Iterator[CodeBlock]:
    if "```" not in text and "~~~" not in text:
        return
    blocks = list(fenced_blocks(text))
    after = [code for _, code, _ in blocks[1:]] + [""]
    for (language, code, below), following in zip(blocks, after, strict=True):
        if language and code.strip():
            place = line if one_line else line + below - 1
            yield CodeBlock(language, code, path, place, claims_to_be_whole(code, language), following)


def _closes(line: str, marks: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(marks) and stripped == marks[0] * len(stripped)


def _language(info: str) -> str:
    """The language that a fence names, under the name that recipes use; empty where it is not meant to build.

    >>> _language("py title=a.py"), _language("{.zig}"), _language("rust,ignore"), _language("")
    ('python', 'zig', '', '')
    """
    words = re.split(r"[\s,{}]+", info.strip().strip("{}").lower())
    if _NOT_FOR_BUILDING & set(words):
        return ""
    name = words[0].lstrip(".")
    return _SAME.get(name, name)

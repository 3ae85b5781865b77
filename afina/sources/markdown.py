"""Markdown: one document per file, unchanged but for front matter, mdBook includes and the marks of documentation
systems (:mod:`afina.sources.dialects`), MDX among them.

Front matter between ``---`` (or ``+++``) lines is left out and counted. ``{{#include path}}`` is
replaced by the file that it names (or its lines ``:2:10``, or its anchor), which gets a line of
its own in the ledger.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from afina.errors import DataError, Problem
from afina.sources.dialects import front_title, plain_markdown
from afina.sources.files import FileText, SourceReading, inside, read_text
from afina.text.document import Document, visible
from afina.text.formats import ending, kind_of

INCLUDE = re.compile(r"(?<!\\)\{\{\s*#(?:rustdoc_)?include\s+([^}\s]+)\s*\}\}")
_FRONT = re.compile(r"\A(---|\+\+\+)[ \t]*\n(?=[^\n]*[^\s])(.*?)^(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.S | re.M)
_FRONT_KEY = re.compile(r"^[\w-]+\s*[:=]", re.M)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}#{1,6}(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*")
_SETEXT = re.compile(r" {0,3}(?:=+|-+)[ \t]*")
_MARKS = re.compile(r"`+|\*+|(?<!\w)_+|_+(?!\w)|!?\[([^\]]*)\]\([^)]*\)")

Resolve = Callable[[Path, re.Match[str]], str | None]
"""Given an include's target and match: the text put in its place, or None to read the target."""


def read_markdown(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one document of kind ``markdown``; its title is the first heading, or that of its front matter.

    Where lines were left out, ``meta["moved"]`` is a JSON object from a line of the text (the first one is the
    document's `line`) to the file's, for the first of each run of lines that stand as they did.

    Raises:
        DataError: for an include that is missing, leads outside, or includes itself; all at once.
    """
    entry = opened.entry
    entry.chars_in += visible(opened.text)
    front = front_matter(opened.text)
    if front:
        entry.drop("front matter", front)
    body = opened.text[len(front) :]
    first_line = 1 + front.count("\n")
    whole = include_files(opened, reading, body, first_line)
    text, lines = plain_markdown(whole, entry, mdx=ending(opened.path) == ".mdx")
    if not text.strip():
        reading.skip(opened.path, "no text beside front matter and marks")
        return
    first = lines[0]
    moved = [at for at in range(1, len(lines)) if lines[at] != lines[at - 1] + 1]
    meta = {str(first_line + first + at): first_line + lines[at] for at in (0, *moved)} if moved else {}
    document = Document(
        opened.path,
        opened.sha256,
        line=first_line + first,
        kind="markdown",
        title=first_heading(text) or front_title(front),
        text=text,
        meta={"moved": json.dumps(meta)} if meta else {},
        source=reading.position,
    )
    entry.chars_out += visible(document.text)
    entry.documents += 1
    yield document


def front_matter(text: str) -> str:
    """The front matter that a text begins with; empty where there is none.

    >>> front_matter("---\\ntitle: A\\n---\\nText")
    '---\\ntitle: A\\n---\\n'
    >>> front_matter("---\\n\\nA rule, then text.\\n")
    ''
    """
    found = _FRONT.match(text)
    return found[0] if found and _FRONT_KEY.search(found[2]) else ""


def first_heading(text: str) -> str:
    """The first heading of a Markdown text, without marks; empty where there is none.

    >>> first_heading("```sh\\n# no\\n```\\n\\n## The `@as` *builtin* ##")
    'The @as builtin'
    >>> first_heading("Title\\n=====")
    'Title'
    """
    open_fence, above = "", ""
    for line in text.split("\n"):
        fenced = _FENCE.match(line)
        if open_fence:
            if fenced and fenced[1].startswith(open_fence) and not line.strip(" `~"):
                open_fence = ""
            above = ""
        elif fenced:
            open_fence, above = fenced[1], ""
        elif heading := _ATX.fullmatch(line):
            if title := _without_marks(heading[1] or ""):
                return title
            above = ""
        elif above.strip() and _SETEXT.fullmatch(line):
            return _without_marks(above)
        else:
            above = line if not line.startswith(("    ", "\t", ">", "-", "*", "+", "|")) else ""
    return ""


def _without_marks(heading: str) -> str:
    return " ".join(_MARKS.sub(lambda found: found[1] or "", heading).split())


def include_files(
    opened: FileText, reading: SourceReading, body: str, first_line: int = 1, resolve: Resolve | None = None
) -> str:
    """Replace each mdBook include in `body` by the text of its file.

    Marks and files are counted in the ledger: the directive as dropped, the file's text as added.
    """
    problems: list[Problem] = []
    text = _include(opened, reading, body, first_line, (opened.full.resolve(),), resolve, problems)
    if problems:
        raise DataError(problems=problems)
    return text


def _include(
    opened: FileText,
    reading: SourceReading,
    body: str,
    first_line: int,
    above: tuple[Path, ...],
    resolve: Resolve | None,
    problems: list[Problem],
) -> str:
    entry = opened.entry

    def put(found: re.Match[str]) -> str:
        where = f"{opened.path}:{first_line + body.count(chr(10), 0, found.start())}"
        name, *selector = found[1].split(":")
        target = opened.full.parent / name
        if resolve:
            instead = resolve(target, found)
            if instead is not None:
                return instead
        if not target.is_file():
            fix = f"put the file there, or exclude {opened.path}"
            problems.append(Problem(f"the included file {name!r} does not exist", fix, where))
            return ""
        if not inside(reading, opened.full, target):
            problems.append(Problem(f"the included file {name!r} lies outside `root`", "set `root` higher", where))
            return ""
        if target.resolve() in above:
            problems.append(Problem(f"{name!r} includes itself", "remove one of the includes", where))
            return ""
        entry.drop("include directive", found[0])
        included = read_text(reading, target)
        included.entry.chars_in += visible(included.text)
        chosen = _select(included.text, selector)
        if chosen is None:
            problems.append(Problem(f"{found[1]!r} selects no lines of {name!r}", "fix the line numbers", where))
            return ""
        if selector:
            outside = visible(included.text) - visible(chosen)
            reasons = included.entry.dropped
            reasons["outside the included lines"] = reasons.get("outside the included lines", 0) + outside
        included.entry.drop(f"included in {opened.path}", chosen)
        entry.add("included file", chosen)
        if kind_of(target.name) == "markdown":
            # Its own includes count in this file's ledger: the text ends up here.
            nested = FileText(target, included.path, included.sha256, chosen, entry)
            chosen = _include(nested, reading, chosen, 1, (*above, target.resolve()), resolve, problems)
        return chosen.rstrip("\n")

    return INCLUDE.sub(put, body)


def _select(text: str, selector: list[str]) -> str | None:
    """The lines that ``:start:end`` or ``:anchor`` of an include name, counted from 1.

    >>> _select("a\\nb\\nc\\n", ["2", "3"]), _select("a\\nb\\n", ["2"])
    ('b\\nc\\n', 'b\\n')
    >>> _select("x\\nANCHOR: k\\ny\\nANCHOR_END: k", ["k"])
    'y\\n'
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if not selector:
        return text
    if selector[0] and not selector[0].isdigit():
        edges = [re.compile(rf"\b{mark}:\s*{re.escape(selector[0])}\b") for mark in ("ANCHOR", "ANCHOR_END")]
        begin, end = (next((i for i, line in enumerate(lines) if edge.search(line)), None) for edge in edges)
        return None if begin is None or end is None else "".join(lines[begin + 1 : end])
    start = int(selector[0] or 1)
    if len(selector) == 1:
        end_line = start
    elif selector[1] == "":
        end_line = len(lines)
    elif selector[1].isdigit():
        end_line = int(selector[1])
    else:
        return None
    return "".join(lines[start - 1 : end_line]) or None

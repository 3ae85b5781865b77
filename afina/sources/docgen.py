"""Zig's documentation templates: ``{#header_open|Title#}`` and the like, rewritten to HTML.

| directive | becomes |
|---|---|
| ``{#header_open|Title|anchor#}`` .. ``{#header_close#}`` | a heading, one level per depth below ``<h1>`` |
| ``{#syntax#}`` .. ``{#endsyntax#}`` | Zig code, inline or in ``<pre>`` |
| ``{#syntax_block|language|name#}`` .. ``{#end_syntax_block#}`` | a code block with its caption |
| ``{#code|file#}`` | the file beside the page, in the folder named like it, as a code block |
| ``{#link|Text|Target#}`` | the text |
| ``{#see_also|A|B#}`` | a list |
| ``{#nav#}``, ``{#builtin#}`` | nothing |

The marks are counted as dropped, included files as added; what stands between is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from afina.errors import DataError, Problem
from afina.recipe import nearest
from afina.recipe.home import in_roots
from afina.sources.files import FileText, SourceReading, read_text
from afina.text.document import FileLedger, visible
from afina.text.formats import language_of

_CODE = (
    r"\{#(?P<syntax>syntax)#\}(?P<inline>.*?)\{#endsyntax#\}"
    r"|\{#syntax_block\|(?P<language>[^|#]*)(?:\|(?P<name>[^#]*))?#\}(?P<block>.*?)\{#end_syntax_block#\}"
)
_DIRECTIVE = re.compile(rf"<!--.*?-->|{_CODE}|\{{#(?P<verb>\w+)(?:\|(?P<args>(?:(?!#\}}).)*))?#\}}", re.S)
_KNOWN: tuple[str, ...] = (
    "header_open",
    "header_close",
    "syntax",
    "endsyntax",
    "syntax_block",
    "end_syntax_block",
    "code",
    "link",
)
_KNOWN += ("see_also", "nav", "builtin")
_NOT_ANCHOR = re.compile(r"[^\w.@~-]+")


def is_docgen(text: str) -> bool:
    """Whether a page is a template that was never expanded."""
    return "{#header_open|" in text


def expand_docgen(opened: FileText, reading: SourceReading) -> tuple[str, str]:
    """The page with every directive expanded, and the page to count characters in.

    The second is the page as it came, code between directives escaped, so that a parser sees the
    ``<`` of ``1 << 4`` as text and not as the start of an element.

    Raises:
        DataError: for unknown or unbalanced directives and missing files, all at once.
    """
    problems: list[Problem] = []
    expanded = "".join(_expand(opened, reading, problems))
    if problems:
        raise DataError(problems=problems)
    counted = _DIRECTIVE.sub(lambda found: found[0] if found[0].startswith("<!--") else escape(found[0]), opened.text)
    return expanded, counted


def _expand(opened: FileText, reading: SourceReading, problems: list[Problem]) -> Iterator[str]:
    text, entry = opened.text, opened.entry
    open_lines: list[int] = []
    position = 0
    for found in _DIRECTIVE.finditer(text):
        yield text[position : found.start()]
        position = found.end()
        line = text.count("\n", 0, found.start()) + 1
        where = f"{opened.path}:{line}"
        if found[0].startswith("<!--"):
            yield found[0]
        elif found["syntax"]:
            _drop(entry, found[0], found["inline"])
            yield f'<code class="language-zig">{escape(found["inline"], quote=False)}</code>'
        elif found["block"] is not None:
            name, language = found["name"] or "", found["language"].strip()
            _drop(entry, found[0], found["block"] + name)
            yield _figure(found["block"], language, name)
        else:
            verb, args = found["verb"], (found["args"] or "").split("|")
            kept = ""
            if verb == "header_open":
                open_lines.append(line)
                kept = args[0]
                level = min(len(open_lines) + 1, 6)
                anchor = args[1] if len(args) > 1 else _NOT_ANCHOR.sub("-", kept.strip())
                yield f'<h{level} id="{escape(anchor)}">{escape(kept, quote=False)}</h{level}>'
            elif verb == "header_close":
                if not open_lines:
                    problems.append(Problem("{#header_close#} without {#header_open#}", "remove it", where))
                else:
                    open_lines.pop()
            elif verb == "link":
                kept = args[0]
                yield escape(kept, quote=False)
            elif verb == "see_also":
                kept = "".join(args)
                yield "<ul>" + "".join(f"<li>{escape(arg, quote=False)}</li>" for arg in args) + "</ul>"
            elif verb == "code":
                included = _included(opened, reading, args[0], where, problems)
                kept = args[0]
                if included is not None:
                    entry.add("included file", included.text)
                    yield _figure(included.text, language_of(args[0]) or "", args[0])
            elif verb not in ("nav", "builtin"):
                guess = nearest(verb, _KNOWN)
                fix = f"did you mean `{guess}`?" if guess and guess != verb else "known here: " + ", ".join(_KNOWN)
                problems.append(Problem(f"docgen directive {found[0]!r} is unknown or not closed", fix, where))
            _drop(entry, found[0], kept)
    yield text[position:]
    for line in open_lines:
        problems.append(
            Problem("{#header_open#} is never closed", "add {#header_close#} where it ends", f"{opened.path}:{line}")
        )


def _drop(entry: FileLedger, whole: str, kept: str) -> None:
    """Count the marks of a directive: all of it but what goes on into the page."""
    reason = "docgen directive"
    entry.dropped[reason] = entry.dropped.get(reason, 0) + visible(whole) - visible(kept)


def _figure(code: str, language: str, name: str) -> str:
    caption = f'<figcaption class="{escape(language)}-cap"><cite class="file">{escape(name)}</cite></figcaption>'
    shown = escape(code, quote=False)
    return (
        f'<figure>{caption if name else ""}<pre><code class="language-{escape(language)}">{shown}</code></pre></figure>'
    )


def _included(
    opened: FileText, reading: SourceReading, name: str, where: str, problems: list[Problem]
) -> FileText | None:
    folder = opened.full.with_suffix("")
    target = folder / name
    if not (target.resolve().is_relative_to(folder.resolve()) and in_roots(target.resolve())):
        problems.append(Problem(f"{{#code|{name}#}} leads outside of {folder.name}/", "move the file there", where))
        return None
    if not target.is_file():
        shown = reading.relative(target)
        problems.append(Problem(f"the code file {shown} does not exist", "put it there, or exclude the page", where))
        return None
    included = read_text(reading, target)
    included.entry.chars_in += visible(included.text)
    included.entry.drop(f"included in {opened.path}", included.text)
    return included

"""What documentation systems write into Markdown beside the text: MDX, and the marks of Hugo, Jekyll, GitBook,
Docusaurus, VitePress and MkDocs.

Left out and counted: imports, exports, comments, tags of components, expressions, shortcodes, badges, marks of
containers. Text stays: what stands in a component, and its title, label or caption (bold, on a line of its own).
An expression is filled in where the file itself says its value. Code is not touched, in fences and in backticks.

Two passes. The first goes from character to character and keeps every line end, the second from line to line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from afina.text.document import FileLedger, visible

_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(`+)(?!`)(?:(?!\n[ \t]*\n).)*?(?<!`)\1(?!`)", re.S)
_PLAIN = re.compile(r"`+|[^\\`<{\[!\n]+")
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_BLOCK = re.compile(r"<(script|style)\b[^>]*>.*?</\1\s*>", re.S | re.I)
_SHORTCODE = re.compile(r"\{\{([<%])(?!/\*)\s*(/?)\s*([\w./-]+)(.*?)/?\s*[%>]\}\}", re.S)
_LIQUID = re.compile(r"\{%-?\s*(end)?([a-z][\w-]*)([^%]*?)-?%\}", re.S)
_LIQUID_COMMENT = re.compile(r"\{%-?\s*comment\s*-?%\}.*?\{%-?\s*endcomment\s*-?%\}", re.S)
_HIGHLIGHT_END = re.compile(r"\{\{[<%]\s*/\s*highlight\s*[%>]\}\}|\{%-?\s*endhighlight\s*-?%\}")
_BLANK_LINE = re.compile(r"\n[ \t]*(?=\n|\Z)")
_TAG_END = re.compile(r"\s*/?>")
_BADGE = re.compile(r"\[?!\[[^\]\n]*\]\(([^)\s]*)[^)\n]*\)(?:\]\([^)\n]*\))?")
_BADGE_ADDRESS = re.compile(
    r"shields\.io|badge|travis-ci|codecov\.io|coveralls|circleci\.com/gh|appveyor|fury\.io", re.I
)
_IMPORT = re.compile(r"import\b(?=[^;\n]*(?:\bfrom\b|[{'\"]|\*))")
_WHOLE_IMPORT = re.compile(r"import\s+(?:[\w*{}\s,$]+?\s+from\s+)?['\"][^'\"\n]+['\"]\s*;?[ \t]*(?=\n|\Z)")
_EXPORT = re.compile(r"export\s+(?:default|const|let|var|function|async|class|type|interface|[{*])")
_CONSTANT = re.compile(
    r"""export\s+(?:const|let|var)\s+(\w+)\s*(?::\s*\w+\s*)?=\s*("[^"\n]*"|'[^'\n]*'|-?\d[\d._]*)\s*;?[ \t]*$""", re.M
)
_TAG = re.compile(r"<(/?)([A-Za-z][\w.:-]*)?(?=[\s/>{])")
_ATTRIBUTE = re.compile(r"\s*(?:([\w:.@#-]+)(?:\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'{}<>=`]+|(?=\{)))?|(?=\{))")
_STRING = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|`([^`$]*)`)\s*""")
_PAIRS = re.compile(r"""([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')|"([^"]*)\"""")
_SHOWN = ("title", "label", "summary", "question", "heading", "header", "caption", "text", "alt", "description")
"""Attributes that a reader of the page sees."""
_NAMED_BY_POSITION = frozenset({"tab", "details", "expand", "accordion", "collapse", "tabitem"})
_HTML_MARKS = {
    "b": "**", "strong": "**", "i": "*", "em": "*", "code": "`", "li": "- ", "td": "| ", "th": "| ", "br": " ",
    "h1": "# ", "h2": "## ", "h3": "### ", "h4": "#### ", "h5": "##### ", "h6": "###### ", "sup": "^",
}  # fmt: skip
_AROUND = frozenset({"b", "strong", "i", "em", "code"})
_KINDS = (
    "note|tip|info|warning|caution|danger|important|details|success|example|question|abstract|failure|bug|quote|hint"
    "|attention|error|seealso|todo|summary|nota|dica|aviso|cuidado|perigo"
)
_CONTAINER = re.compile(r"([ \t>]*):{3,}[ \t]*(?:\{?([\w-]+)\}?)?(?:\[(.*?)\])?[ \t]*(?:\{[^}]*\})?[ \t]*(.*)")
_ADMONITION = re.compile(r"""([ \t]*)(?:!!!|\?\?\?\+?)[ \t]+([\w-]+)(?:[ \t]+[\w -]+?)??(?:[ \t]+"(.*)")?[ \t]*""")
_TAB = re.compile(r"""([ \t]*)===[!+]?[ \t]+"(.+)"[ \t]*""")
_ALERT = re.compile(rf"((?:[ \t]*>)+[ \t]*)\[!({_KINDS})\][+-]?[ \t]*(.*)", re.I)
_CONTENTS = re.compile(r"[ \t]*(?:\[TOC\]|\[\[_?toc_?\]\]|\{:\s*toc\s*\}|\$\{toc\})[ \t]*", re.I)
_ATTRIBUTES = re.compile(r"[ \t]*\{:[^}]*\}[ \t]*")
_HEADING_ATTRIBUTES = re.compile(r"([ \t]*#{1,6}[ \t].*?)[ \t]*\{[#.:][^}]*\}[ \t]*")


def plain_markdown(body: str, entry: FileLedger, *, mdx: bool) -> tuple[str, list[int]]:
    """The text without the marks of a documentation system, and per line which line of `body` it was (from 0).

    Args:
        body: Markdown.
        entry: gets what is left out, and what is written instead.
        mdx: whether it is MDX, where every tag is a component's and braces hold expressions. A file that imports is
            taken for MDX in any case.
    """
    scan = _Scan(body, entry, mdx or _imports(body))
    scan.run()
    before, lines = body.split("\n"), _Lines("".join(scan.out).split("\n"), entry)
    assert len(before) == len(lines.texts)
    lines.dedent(scan.regions)
    lines.read(own=scan.own_lines)
    return lines.joined(before)


def front_title(front: str) -> str:
    """The title that front matter gives a page; empty where it gives none.

    >>> front_title('---\\ntitle: "The tides"\\n---\\n'), front_title("+++\\ntitle = 'Faro'\\n+++\\n")
    ('The tides', 'Faro')
    """
    found = re.search(r"^title\s*[:=]\s*(.+?)\s*$", front, re.M)
    return found[1].strip("\"'") if found and not found[1].startswith(("|", ">", "{", "[")) else ""


def _imports(body: str) -> bool:
    """Whether a line of a text imports as MDX does; code in fences does not count."""
    if "import" not in body:
        return False
    open_fence = ""
    for at, line in _line_starts(body):
        open_fence, fenced = _fence_state(open_fence, line)
        if not fenced and line.startswith("import") and _WHOLE_IMPORT.match(body, at):
            return True
    return False


def _line_starts(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    for line in text.split("\n"):
        yield at, line
        at += len(line) + 1


def _fence_state(open_fence: str, line: str) -> tuple[str, bool]:
    """The fence that is open after a line, and whether the line belongs to one."""
    found = _FENCE.match(line)
    if open_fence:
        closes = found and found[1].startswith(open_fence) and not line.strip(" \t>`~")
        return "" if closes else open_fence, True
    if found and not ("`" in found[1] and "`" in line[found.end() :]):
        return found[1], True
    return "", False


@dataclass
class _Scan:
    """The first pass. `out` keeps every line end of the body, so that its lines are still those of the file."""

    body: str
    entry: FileLedger
    mdx: bool
    out: list[str] = field(default_factory=list)
    at: int = 0
    line: int = 0
    open: list[tuple[str, int]] = field(default_factory=list)
    """Names and lines of tags that wait for their end."""
    regions: list[tuple[int, int]] = field(default_factory=list)
    """First and last line between the tags of a component."""
    own_lines: set[int] = field(default_factory=set)
    """Lines that titles of components became."""
    constants: dict[str, str] = field(default_factory=dict)
    """What the file exports as a plain value."""

    def run(self) -> None:
        if self.mdx:
            self.constants = {name: value.strip("\"'") for name, value in _CONSTANT.findall(self.body)}
        open_fence, fresh, indented = "", True, False
        while self.at < len(self.body):
            end = self.body.find("\n", self.at)
            line = self.body[self.at : end if end >= 0 else len(self.body)]
            open_fence, fenced = _fence_state(open_fence, line)
            indented = (
                not self.mdx and bool(re.match(r" {4}|\t", line)) and (fresh or indented) and self._is_code_here()
            )
            if fenced or indented:
                self._copy(len(line))
            elif not (self.mdx and line[:1] in "ei" and fresh and self._module_code()):
                self._prose(line)
            if self.body[self.at : self.at + 1] == "\n":
                before = self.body[self.body.rfind("\n", 0, self.at) + 1 : self.at]
                fresh = not before.strip() or (self.mdx and fresh and before[:1] in "ei}" and not self._last_line())
                self._copy(1)

    def _last_line(self) -> str:
        """What has been written since the last line end."""
        return "".join(self.out[-40:]).rpartition("\n")[2]

    def _is_code_here(self) -> bool:
        """Whether an indented line is code: nothing above it, further left, opens a list or an admonition."""
        above = self.body[: self.at].rstrip()
        for line in reversed(above.split("\n")[-40:]):
            if line.strip() and not line.startswith(("    ", "\t")):
                return not re.match(r"[ \t]*(?:[-*+]|\d+[.)]|!!!|\?\?\?|===|\[\^|:)", line)
        return True

    def _copy(self, length: int) -> None:
        text = self.body[self.at : self.at + length]
        self.out.append(text)
        self.line += text.count("\n")
        self.at += length

    def _drop(self, length: int, reason: str, instead: str = "", kept: str = "") -> None:
        """Leave out `length` characters but for `kept`, which `instead` holds beside marks of our own; their line ends
        stay."""
        text = self.body[self.at : self.at + length]
        if dropped := visible(text) - visible(kept):
            self.entry.dropped[reason] = self.entry.dropped.get(reason, 0) + dropped
        if marks := visible(instead) - visible(kept):
            self.entry.added["Markdown: " + reason] = self.entry.added.get("Markdown: " + reason, 0) + marks
        self.out.append(instead + "\n" * text.count("\n"))
        self.line += text.count("\n")
        self.at += length
        after = self.body[self.at : self.at + 1]
        if not instead and after == " " and self._last_line()[-1:] in ("", " "):
            self.at += 1  # the space before it is enough

    def _prose(self, line: str) -> None:
        """One line of prose, with all that begins on it."""
        ends = self.at + len(line)
        while self.at < ends:
            letter = self.body[self.at]
            if letter == "\\":
                self._copy(min(2, ends - self.at))
            elif found := (_CODE_SPAN.match(self.body, self.at) if letter == "`" else None) or _PLAIN.match(
                self.body, self.at
            ):
                self._copy(len(found[0]))
            elif not self._special(letter):
                self._copy(1)

    def _special(self, letter: str) -> bool:
        """Whether a mark that is left out or replaced begins here; it is behind us then."""
        if letter == "<":
            return self._angle()
        if letter == "{":
            return self._expression() if self.mdx else self._template()
        return self._badge()

    def _badge(self) -> bool:
        found = _BADGE.match(self.body, self.at)
        if not found or not _BADGE_ADDRESS.search(found[1]):
            return False
        self._drop(len(found[0]), "badge")
        return True

    def _module_code(self) -> bool:
        """An import or export of MDX: up to the blank line after which its brackets are closed."""
        if not (_IMPORT.match(self.body, self.at) or _EXPORT.match(self.body, self.at)):
            return False
        end = self.at
        while True:
            blank = _BLANK_LINE.search(self.body, end)
            end = blank.start() if blank else len(self.body)
            code = self.body[self.at : end]
            if not blank or all(code.count(a) <= code.count(b) for a, b in ("()", "[]", "{}")):
                break
            end += 1
        self._drop(end - self.at, "MDX: imports and exports")
        return True

    def _angle(self) -> bool:
        if found := _COMMENT.match(self.body, self.at):
            self._drop(len(found[0]), "comment")
            return True
        if found := _BLOCK.match(self.body, self.at):
            self._drop(len(found[0]), found[1].lower())
            return True
        if self.mdx and self.body.startswith(("<>", "</>"), self.at):
            self._drop(3 if self.body[self.at + 1] == "/" else 2, "component")
            return True
        found = _TAG.match(self.body, self.at)
        end, attributes = self._attributes(found.end()) if found and found[2] else (0, {})
        if not found or not end:
            return False
        name, closes = found[2], bool(found[1])
        alone = not self._last_line().strip() and not self.body[end : (self.body + "\n").index("\n", end)].strip()
        empty = self.body[end - 2] == "/"
        if not self.mdx and not (name[0].isupper() and (alone or (empty and attributes))):
            return False  # HTML is part of Markdown, and Vec<String> of prose
        self._track(name, closes=closes, empty=empty or name.lower() in ("br", "img", "hr", "input"))
        shown = " – ".join(text for key in _SHOWN if (text := attributes.get(key, "").strip())) if not closes else ""
        if shown and alone and name[0].isupper():
            self.own_lines.add(self.line)
            self._drop(end - self.at, "component", f"**{shown}**", shown)
        elif shown:
            self._drop(end - self.at, "component", shown, shown)
        else:
            mark = _HTML_MARKS.get(name, "") if not closes or name in _AROUND else ""
            self._drop(end - self.at, "component", mark)
        return True

    def _track(self, name: str, *, closes: bool, empty: bool) -> None:
        if closes:
            for place in range(len(self.open) - 1, -1, -1):
                if self.open[place][0] == name:
                    self.regions.append((self.open[place][1] + 1, self.line - 1))
                    del self.open[place:]
                    break
        elif not empty:
            self.open.append((name, self.line))

    def _attributes(self, at: int) -> tuple[int, dict[str, str]]:
        """Where a tag ends (0: it is none), and what its attributes say as far as that is text."""
        found: dict[str, str] = {}
        while True:
            end = _TAG_END.match(self.body, at)
            if end:
                return end.end(), found
            each = _ATTRIBUTE.match(self.body, at)
            if not each or (each.end() == at and self.body[at : at + 1] != "{"):
                return 0, {}
            at, value = each.end(), each[2] or ""
            if self.body[at : at + 1] == "{":
                closing = _closing_brace(self.body, at)
                if not closing:
                    return 0, {}
                text = _STRING.fullmatch(self.body[at + 1 : closing - 1])
                value, at = next((part for part in text.groups() if part), "") if text else "", closing
            if each[1]:
                found[each[1]] = value.strip("\"'")

    def _expression(self) -> bool:
        """An expression of MDX, replaced by its value where the file says it."""
        end = _closing_brace(self.body, self.at)
        if not end:
            return False
        inner = self.body[self.at + 1 : end - 1].strip()
        if inner.startswith("/*") and inner.endswith("*/"):
            self._drop(end - self.at, "comment")
        elif text := _STRING.fullmatch(inner):
            value = next((part for part in text.groups() if part), " ")
            self._drop(end - self.at, "MDX: expression", value, value)
        else:
            self._drop(end - self.at, "MDX: expression", self.constants.get(inner, ""))
        return True

    def _template(self) -> bool:
        """Shortcodes of Hugo, tags of Liquid; a block of code that they open becomes a fence."""
        if found := _LIQUID_COMMENT.match(self.body, self.at):
            self._drop(len(found[0]), "comment")
            return True
        if found := _SHORTCODE.match(self.body, self.at):
            name, rest, closes, reason = found[3].lower(), found[4], bool(found[2]), "shortcode"
        elif found := _LIQUID.match(self.body, self.at):
            name, rest, closes, reason = found[2], found[3], bool(found[1]), "template tag"
        else:
            return False
        if name == "highlight" and not closes:
            return self._highlighted(len(found[0]), rest, reason)
        by_place = name in _NAMED_BY_POSITION
        words = [] if closes else [
            (key, double or single or alone) for key, double, single, alone in _PAIRS.findall(rest)
            if key in _SHOWN or (by_place and key in ("", "name"))
        ]  # fmt: skip
        shown = " – ".join(text for _, text in words if text)
        alone = not self._last_line().strip()
        if shown and alone:
            self.own_lines.add(self.line)
        self._drop(len(found[0]), reason, f"**{shown}**" if shown and alone else shown, shown)
        return True

    def _highlighted(self, length: int, rest: str, reason: str) -> bool:
        end = _HIGHLIGHT_END.search(self.body, self.at)
        if not end:
            return False
        language = (rest.split() or [""])[0].strip("\"'")
        self._drop(length, reason, f"```{language}", language)
        self._copy(end.start() - self.at)
        self._drop(len(end[0]), reason, "```")
        return True


def _closing_brace(text: str, at: int) -> int:
    """The place after the brace that closes the one at `at`; 0 where none does. Braces in strings do not count."""
    depth, quote, place = 0, "", at
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1
        elif quote:
            quote = "" if letter == quote or (letter == "\n" and quote != "`") else quote
        elif letter == "`" or (letter in "\"'" and not (place and text[place - 1].isalnum())):
            quote = letter
        elif letter in "{}":
            depth += 1 if letter == "{" else -1
            if not depth:
                return place + 1
        place += 1
    return 0


class _Lines:
    """The second pass: marks that are lines, and indents that only marks asked for."""

    def __init__(self, texts: list[str], entry: FileLedger) -> None:
        self.texts = texts
        self.entry = entry
        self.own: set[int] = set()

    def dedent(self, regions: list[tuple[int, int]]) -> None:
        """Take the indent that all lines between two tags share; it is the author's, not Markdown's."""
        indents = [0] * len(self.texts)
        for first, last in regions:
            inside = [self.texts[at] for at in range(first, last + 1) if self.texts[at].strip()]
            shared = min((len(text) - len(text.lstrip(" \t")) for text in inside), default=0)
            for at in range(first, last + 1):
                indents[at] = max(indents[at], shared)
        self.texts = [
            text[min(indent, len(text) - len(text.lstrip(" \t"))) :]
            for text, indent in zip(self.texts, indents, strict=True)
        ]

    def read(self, own: set[int]) -> None:
        """Read line after line; `own` are those that became titles, each to stand by itself."""
        self.own = set(own)
        for at in own:
            self.texts[at] = self.texts[at].lstrip(" \t")
        open_fence = ""
        for at in range(len(self.texts)):
            open_fence, fenced = _fence_state(open_fence, self.texts[at])
            if not fenced:
                self._line(at)

    def _line(self, at: int) -> None:
        text = self.texts[at]
        if found := _CONTAINER.fullmatch(text):
            title = found[3] or found[4].strip() or (found[2] if re.fullmatch(_KINDS, found[2] or "", re.I) else "")
            self._title(at, "container", found[1], title or "")
        elif (found := _ADMONITION.fullmatch(text)) or (found := _TAB.fullmatch(text)):
            title = (found[3] if found[3] is not None else found[2]) if found.re is _ADMONITION else found[2]
            self._title(at, "container", found[1], title)
            self._outdent(at, len(found[1]))
        elif found := _ALERT.fullmatch(text):
            self._title(at, "container", found[1], found[3].strip() or found[2])
        elif _CONTENTS.fullmatch(text):
            self._put(at, "table of contents", "", "")
        elif _ATTRIBUTES.fullmatch(text):
            self._put(at, "attributes", "", "")
        elif found := _HEADING_ATTRIBUTES.fullmatch(text):
            self._put(at, "attributes", found[1], found[1])

    def _title(self, at: int, reason: str, before: str, title: str) -> None:
        if title:
            self.own |= {at} if ">" not in before else set()
            self._put(at, reason, f"{before}**{title}**", before + title)
        else:
            self._put(at, reason, before.rstrip(), before)

    def _put(self, at: int, reason: str, instead: str, kept: str) -> None:
        if dropped := visible(self.texts[at]) - visible(kept):
            self.entry.dropped[reason] = self.entry.dropped.get(reason, 0) + dropped
        if marks := visible(instead) - visible(kept):
            self.entry.added["Markdown: " + reason] = self.entry.added.get("Markdown: " + reason, 0) + marks
        self.texts[at] = instead

    def _outdent(self, opened: int, indent: int) -> None:
        """Take four spaces from the lines that belong to an admonition or a tab."""
        for at in range(opened + 1, len(self.texts)):
            text = self.texts[at]
            if not text.strip():
                continue
            if not text.startswith(" " * (indent + 4)):
                break
            self.texts[at] = text[:indent] + text[indent + 4 :]

    def joined(self, before: list[str]) -> tuple[str, list[int]]:
        """The text, and the line of the body that each of its lines was.

        A line that lost all it had is gone, with the blank lines that would follow one another then; a title of its own
        line has blank ones around it.
        """
        if self.texts == before:
            return "\n".join(before), list(range(len(before)))
        out: list[tuple[str, int]] = []
        gap = True
        """Whether a blank line here would be one too many: at the start, or where a line is gone."""
        for at, text in enumerate(self.texts):
            changed = text != before[at]
            if changed and not text.strip() and before[at].strip():
                gap = not out or not out[-1][0].strip()
                continue
            if not text.strip() and gap and (not out or not out[-1][0].strip()):
                continue
            title = at in self.own or (out and out[-1][1] in self.own)
            if text.strip() and title and out and out[-1][0].strip():
                out.append(("", out[-1][1]))
            out.append((text.rstrip() if changed and text.strip() else text, at))
            gap = gap and not text.strip()
        while len(out) > 1 and not out[-1][0].strip() and not out[-2][0].strip():
            out.pop()
        return "\n".join(text for text, _ in out), [at for _, at in out] or [0]

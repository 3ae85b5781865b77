"""The page as Markdown: the same words and tables in the same order, without its pictures.

It is made of the page itself, so that nothing stands in one and not in the other. What models and people wrote stands
in fences that it cannot end, and everything else is escaped: rendered again, it is the text it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import html
from lxml.html import HtmlElement

from afina.report.language import in_language, tr

_BLOCKS = frozenset(["main", "section", "header", "footer", "article", "div", "details", "figure"])
_LEFT_OUT = frozenset(["nav", "fieldset", "style", "svg"])
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)")
_AT_THE_START = re.compile(r"^(?=[#+=-])|^(\d+)(?=[.)])")


def as_markdown(page: str) -> str:
    """A page of the report or of a comparison as Markdown (CommonMark with GitHub's tables)."""
    root = html.document_fromstring(page)
    with in_language(root.get("lang", "en")):
        blocks = [block for block in _blocks(root.find(".//main")) if block.strip()]
    return "\n\n".join(blocks) + "\n"


def _blocks(element: HtmlElement) -> Iterator[str]:
    """The blocks inside an element, each without the empty line behind it."""
    for child in element:
        tag, kind = child.tag, child.get("class", "")
        if tag in _LEFT_OUT or not isinstance(tag, str):
            continue
        if "text" in kind.split() or tag == "pre":
            yield _fence(child.text_content())
        elif "chart" in kind.split():
            title = " ".join(child.xpath("string(.//svg/title)").split())
            drawn = tr("Drawn in the HTML page: {what}.", what=title)
            yield f"*{_escaped(drawn)}*"
        elif tag in ("h1", "h2", "h3", "h4", "h5"):
            yield f"{'#' * int(tag[1])} {_line(child)}"
        elif tag == "table":
            yield _table(child)
        elif tag == "ul":
            yield "\n".join(f"- {_line(item)}" for item in child)
        elif tag == "dl":
            yield "\n".join(f"- {_line(pair[0])}: {_line(pair[1])}" for pair in child)
        elif tag == "summary":
            yield f"**{_line(child)}**"
        elif tag == "p" and "stamp" in kind:
            yield f"**{_line(child)}**"
        elif tag in _BLOCKS and not (child.text or "").strip():
            yield from _blocks(child)
        else:
            yield _line(child)


def _line(element: HtmlElement) -> str:
    """What stands in an element, on one line, which begins no list and no heading."""
    return _AT_THE_START.sub(lambda found: f"{found[1] or ''}\\", _one_line(element))


def _one_line(element: HtmlElement) -> str:
    return " ".join("".join(_inline(element)).split())


def _inline(element: HtmlElement) -> Iterator[str]:
    yield _escaped(element.text or "")
    for child in element:
        inside = "".join(_inline(child))
        if child.tag in _LEFT_OUT or not isinstance(child.tag, str):
            pass
        elif child.tag == "code":
            yield _code(child.text_content())
        elif child.tag in ("b", "strong") and inside.strip():
            yield f"**{inside.strip()}** "
        elif child.tag == "q":
            yield f"“{inside}”"
        elif child.tag == "small":
            yield f" ({inside})"
        elif child.tag in ("dl", "div", "dt", "dd", "p", "table", "tr", "td", "th"):
            yield f"{inside}{': ' if child.tag == 'dt' else ' '}"
        else:
            yield inside
        yield _escaped(child.tail or "")


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", text)


def _code(text: str) -> str:
    """A span of code, in as many backticks as it takes."""
    text = " ".join(text.split())
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    room = " " if "`" in text else ""
    return f"{marks}{room}{text}{room}{marks}" if text else ""


def _fence(text: str) -> str:
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{marks}text\n{text.rstrip()}\n{marks}"


def _cell(cell: HtmlElement) -> str:
    """A bar ends a cell, in code too."""
    return re.sub(r"(?<!\\)\|", r"\|", _one_line(cell))


def _table(table: HtmlElement) -> str:
    rows = [[_cell(cell) for cell in row.xpath("./td|./th")] for row in table.xpath(".//tr[not(ancestor::td)]")]
    head, *body = rows
    aligned = ["---:" if "num" in cell.get("class", "") else "---" for cell in table.xpath("./thead/tr/th")]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *body))

"""LaTeX as Markdown: the text of the document, its sections, code and lists. Formulas stay as they are written.

Only what changes how a text looks is known by name. A command that is not known stays, so that nothing said is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from afina.sources.files import FileText, SourceReading
from afina.sources.rewriting import (
    OTHERWISE,
    MarkdownWriter,
    Numbered,
    Piece,
    Rule,
    block_until,
    kept,
    numbered,
    pieces_of,
)
from afina.text.document import Document

_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
_SECTION = re.compile(
    r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?(?:\[[^\]]*\])?\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_CODE = re.compile(r"\\begin\{(verbatim\*?|lstlisting|minted)\}(?:\[[^\]]*\])?(?:\{(\w+)\})?(.*)")
_COMMENT = re.compile(r"(?<!\\)%.*")
_TITLE = re.compile(r"\\title\{((?:[^{}]|\{[^{}]*\})*)\}")
_BREAKS = re.compile(r"(?<!^)(?=\\(?:part|chapter|section|subsection|subsubsection|paragraph|item|begin|end)\b)")


def _command(names: str, before: str, after: str) -> Rule:
    return (
        re.compile(rf"\\(?:{names})\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}"),
        lambda hit: [(hit[0][: hit.start(1) - hit.start()], before), *pieces_of(hit[1], _RULES), ("}", after)],
    )


_RULES: tuple[Rule, ...] = (
    (re.compile(r"\$[^$]+\$|\\\(.*?\\\)|\\\[.*?\\\]"), lambda hit: [kept(hit[0])]),
    _command("textbf|bf", "**", "**"),
    _command("emph|textit|textsl", "*", "*"),
    _command("texttt|code|verb|lstinline", "`", "`"),
    _command("textrm|textsf|textsc|text|mbox|underline", "", ""),
    _command("footnote", " (", ")"),
    _command("url", "", ""),
    (re.compile(r"\\href\{([^{}]*)\}\{([^{}]*)\}"), lambda hit: [(hit[0], f"[{hit[2]}]({hit[1]})")]),
    (
        re.compile(
            r"\\(?:label|cite\w*|ref|eqref|pageref|autoref|index|includegraphics|bibliography\w*|input|include|vspace\*?|hspace\*?"
            r"|caption\*?(?=\[))(?:\[[^\]]*\])?\{[^{}]*\}"
        ),
        lambda hit: [(hit[0], "")],
    ),
    (
        re.compile(
            r"\\(?:maketitle|tableofcontents|centering|noindent|newpage|clearpage|bigskip|medskip|smallskip|par|hline)\b"
        ),
        lambda hit: [(hit[0], "")],
    ),
    (re.compile(r"\\(?:begin|end)\{[^{}]*\}(?:\[[^\]]*\])?(?:\{[^{}]*\})?"), lambda hit: [(hit[0], "")]),
    (re.compile(r"\\(?:ldots|dots)\b(?:\{\})?"), lambda hit: [(hit[0], "...")]),
    (re.compile(r"\\([&%_#${}])"), lambda hit: [("\\", ""), kept(hit[1])]),
    (re.compile(r"\\\\(?:\[[^\]]*\])?"), lambda hit: [(hit[0], "")]),
    (re.compile(r"``|''"), lambda hit: [(hit[0], '"')]),
    (re.compile(r"(?<!\\)~"), lambda hit: [(hit[0], " ")]),
)


def read_latex(opened: FileText, reading: SourceReading) -> Iterator[Document]:
    """The file as one Markdown document; what stands before ``\\begin{document}`` is left out but for the title."""
    writer = MarkdownWriter(opened, _RULES)
    lines = numbered(opened.text)
    begin = block_until(lines, 0, lambda line: r"\begin{document}" in line)
    at = 0
    if begin < len(lines):
        before, _, after = lines[begin][1].partition(r"\begin{document}")
        _preamble(writer, [*lines[:begin], (lines[begin][0], before)])
        writer.drop("commands that show nothing", r"\begin{document}")
        lines = [(lines[begin][0], after), *lines[begin + 1 :]]
    end = block_until(lines, 0, lambda line: r"\end{document}" in line)
    if end < len(lines):
        last, mark, rest = lines[end][1].partition(r"\end{document}")
        writer.drop("commands that show nothing", "\n".join([mark + rest, *(text for _, text in lines[end + 1 :])]))
        lines = [*lines[:end], (lines[end][0], last)]
    while at < len(lines):
        at = _step(writer, lines, at)
    yield from writer.document(reading)


def _preamble(writer: MarkdownWriter, lines: Sequence[Numbered]) -> None:
    text = "\n".join(line for _, line in lines)
    title = _TITLE.search(text)
    if title:
        number = lines[0][0] + text.count("\n", 0, title.start())
        writer.heading((number, " ".join(title[1].split())), 1)
        text = text[: title.start(1)] + text[title.end(1) :]
    writer.drop("what stands before the document", text)


def _step(writer: MarkdownWriter, lines: Sequence[Numbered], at: int) -> int:
    number, text = lines[at]
    if code := _CODE.search(text):
        _prose(writer, number, text[: code.start()])
        closing = rf"\end{{{code[1]}}}"
        end = block_until(lines, at, lambda line: closing in line)
        before, mark, rest = lines[end][1].partition(closing) if end < len(lines) else ("", "", "")
        first = code[3].partition(closing)[0] if end == at else code[3]
        opening = text[code.start() : code.start(3)]
        writer.drop(OTHERWISE, opening + mark)
        body = [(number, first)] if end == at else [(number, first), *lines[at + 1 : end], (number, before)]
        writer.code([line for line in body if line[1].strip() or len(body) > 2], code[2] or "", number)
        if rest.strip():
            _prose(writer, number, rest)
        return end + 1
    _prose(writer, number, text)
    return at + 1


def _prose(writer: MarkdownWriter, number: int, text: str) -> None:
    """A line of prose; headings and items in it are put on lines of their own."""
    if comment := _COMMENT.search(text):
        writer.drop("comments", comment[0])
        text = text[: comment.start()]
    if not text.strip():
        writer.blank(number)
        return
    for piece in _BREAKS.split(text):
        if section := _SECTION.match(piece):
            before = piece[: section.start(2)] + "}"
            writer.heading((number, section[2]), _LEVELS[section[1]], before)
            if piece[section.end() :].strip():
                writer.prose((number, piece[section.end() :].strip()))
        elif item := re.match(r"\s*\\item(?:\[([^\]]*)\])?\s*", piece):
            marks: list[Piece] = [(item[0], f"- **{item[1]}** " if item[1] else "- ")]
            writer.prose((number, piece[item.end() :]), marks)
        elif piece.strip():
            writer.prose((number, piece))

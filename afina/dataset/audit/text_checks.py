"""Damage that a learned text brings along from where it was kept: pages, tables, JSON, programs, other tools.

Each check looks at the prose of one answer or text, code in fences aside, and returns where, or None.
"""

from __future__ import annotations

import re

from afina.dataset.audit.answer_checks import AnswerCheck
from afina.dataset.audit.exchange import Exchange
from afina.text.language import language_of_text

_SPAN = re.compile(r"`[^`\n]+`")
_ABOUT_CODE = re.compile(
    r"html|xml|css\b|tag|código|code|program|script|função|function|python|javascript|template|regex|sql|json|excel"
    r"|string|escap|algorit|spreadsheet|planilha|f[óo]rmula|markdown|latex|url|link|endere[çc]o"
    r"|site\b|website|base ?64|hex",
    re.IGNORECASE,
)
"""What a question says whose answer may well hold such marks."""


def _prose(said: Exchange) -> str:
    """Without code between backticks; empty where the question asks for marks."""
    if said.prompt and _ABOUT_CODE.search(said.prompt):
        return ""
    return _SPAN.sub("", said.prose) if "`" in said.prose else said.prose


_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|nbsp|apos|[rl]squo|[rl]dquo|hellip|mdash|ndash|[a-z]{1,6}acute|#x?[\da-f]+);", re.I
)
_TAG = re.compile(
    r"</(?:p|div|span|li|ul|ol|td|tr|table|strong|em|font|h[1-6]|a|b|i)>|<br ?/?>|<(?:p|div|span)[ >]", re.I
)


def html_leftover(said: Exchange) -> int | None:
    """Entities (``&amp;``, ``&#39;``) or tags of a page."""
    if "&" not in said.prose and "<" not in said.prose:
        return None
    text = _prose(said)
    found = _ENTITY.search(text) or (_TAG.search(text) if said.asked else None)
    return found.start() if found else None


_ADDRESS = re.compile(r"\s*(?:https?://|www\.)\S+\s*")


def address_only(said: Exchange) -> int | None:
    """Nothing but an address of the web: the model would learn to invent them."""
    if not said.asked or not _ADDRESS.fullmatch(said.answer):
        return None
    return 0 if _prose(said) else None


_SLOT = re.compile(r"(?<![\w${\\])\{[a-z][a-z]*(?:_[a-z]+)*\}(?!\})|\$\{\w+\}|(?<!\w)%\(\w+\)s")


def unfilled_slot(said: Exchange) -> int | None:
    """A place that a program was to fill in: ``{name}``, ``${city}``, ``%(day)s``."""
    if ("{" not in said.prose and "%" not in said.prose) or "\\" in said.prose:
        return None
    text = _prose(said)
    found = _SLOT.search(text) if not said.prompt or not _SLOT.search(said.prompt) else None
    return found.start() if found else None


_BLOB = re.compile(r"[A-Za-z0-9+/_-]{120,}={0,2}")


def encoded_blob(said: Exchange) -> int | None:
    """A run of base 64 or hex: an image or a file that lay in the text."""
    if max(map(len, said.answer.split()), default=0) < 120:
        return None
    for found in _BLOB.finditer(said.answer):
        run = found[0]
        if len(set(run)) > 12 and any(map(str.isdigit, run)) and run.count("-") + run.count("_") < len(run) // 8:
            return found.start()
    return None


_FOLDED = re.compile(
    r"\b(?:nao|voce|voces|sao|tambem|entao|ate|ja|esta[os]|porem|alem|atraves|pais|unic[oa]|numer[oa]s?|ultim[oa]"
    r"|proxim[oa]|historia|seculo|musica|familia|noticia|politic[oa]|public[oa]s?|\w{2,}[cs](?:ao|oes)|\w{3,}encia)\b",
    re.IGNORECASE,
)
_FOLDED_FOR_SURE = re.compile(r"\b(?:nao|voces?|tambem|entao|\w{3,}(?:cao|coes))\b", re.IGNORECASE)


def accents_lost(said: Exchange) -> int | None:
    """Portuguese without any of its accents: "nao", "voce", "fundacao"."""
    text = said.prose
    if not text.isascii() or ("ao" not in text and "oes" not in text and "voce" not in text):
        return None
    sure = _FOLDED_FOR_SURE.search(text)
    if not sure or len({found.lower() for found in _FOLDED.findall(text)}) < 2:
        return None
    return sure.start()


_APART = re.compile(r"(?<=\w) (?:[,.](?= |$)|n't\b|'(?:s|re|ve|ll|d|m)\b)|-[LR]RB-|(?<!`)``(?!`) \w", re.MULTILINE)


def tokenized_text(said: Exchange) -> int | None:
    """Words and marks set apart by a tokenizer: "do n't go , he said ."."""
    if " ," not in said.prose and " ." not in said.prose and " n't" not in said.prose and "RB-" not in said.prose:
        return None
    apart = list(_APART.finditer(said.prose))
    if len(apart) < 3 or len(apart) < 0.6 * len(re.findall(r"[,.](?=\s|$)", said.prose)):
        return None
    return apart[0].start()


_TABLE_RULE = re.compile(r"^ {0,3}\|?(?: *:?-{2,}:? *\|)+(?: *:?-{2,}:? *)?\|? *$", re.MULTILINE)


def broken_table(said: Exchange) -> int | None:
    """A Markdown table whose rows have more cells than its head: what is beyond is not shown."""
    if "|" not in said.prose:
        return None
    lines = said.prose.split("\n")
    for place, line in enumerate(lines):
        if place == 0 or "-" not in line or not _TABLE_RULE.match(line):
            continue
        wanted = _cells(line)
        rows = []
        for row in lines[place + 1 :]:
            if "|" not in row:
                break
            rows.append(row)
        if _cells(lines[place - 1]) != wanted or any(_cells(row) > wanted for row in rows):
            return said.prose.find(lines[place - 1])
    return None


def _cells(row: str) -> int:
    """
    >>> _cells("| a | b \\\\| c |"), _cells("a | b")
    (2, 2)
    """
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


_SHEET = re.compile(
    r"#(?:REF|N/A|NAME\?|DIV/0|VALUE|NUM|NULL)!?(?=[\s.,;)]|$)|(?<![\w#])#{5,}(?![\w#])|\b\d[.,]\d+E\+\d{2,}\b"
)


def spreadsheet_damage(said: Exchange) -> int | None:
    """What a spreadsheet leaves where a value was: ``#REF!``, ``#N/A``, ``1,23457E+12``, ``########``."""
    if "#" not in said.prose and "E+" not in said.prose:
        return None
    found = _SHEET.search(_prose(said))
    return found.start() if found else None


PARAGRAPH_CHARS = 60


def repeated_paragraph(said: Exchange) -> int | None:
    """A paragraph that stands in one answer twice."""
    if "\n" not in said.prose:
        return None
    seen: set[str] = set()
    for line in said.prose.split("\n"):
        text = line.strip()
        if len(text) < PARAGRAPH_CHARS or text.startswith("|"):
            continue
        if text in seen:
            return said.prose.rfind(text)
        seen.add(text)
    return None


def line_ends(said: Exchange) -> int | None:
    """Line ends of Windows (CR LF) or CR alone inside the text: the model would learn to write them."""
    at = said.answer.find("\r")
    return at if at >= 0 else None


_ESCAPED = re.compile(r"\\n(?=[A-Z\d\s\\*-])|\\u[\da-fA-F]{4}|(?<=\w)\\\"|\\t(?=[A-Z\d\\])")


def escaped_text(said: Exchange) -> int | None:
    r"""A text that was escaped twice: ``\n`` and ``\u00e3`` as characters."""
    if "\\" not in said.prose:
        return None
    found = _ESCAPED.search(_prose(said))
    return found.start() if found else None


def reversed_text(said: Exchange) -> int | None:
    """Letters from right to left, as some readers of PDF give them."""
    if language_of_text(said.prose) is not None or len(said.prose) < 60:
        return None
    return 0 if language_of_text(said.prose[::-1]) is not None else None


_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LANGUAGES = {
    "python": re.compile(
        r"^\s*(?:def \w+\(.*\).*:|class \w+.*:|from [\w.]+ import |elif .*:|print\(.*\)\s*$|import \w+\s*$)", re.M
    ),
    "javascript": re.compile(
        r"^\s*(?:const|let|var) \w+ = .*;\s*$|\bfunction \w*\([^)]*\) \{|console\.log\(|=== ", re.M
    ),
    "c": re.compile(r"^\s*#include\s*[<\"]|\bprintf\(\"", re.M),
    "java": re.compile(r"\bpublic (?:static |final )*(?:class|void) \w+|System\.out\.print"),
    "sql": re.compile(r"^\s*(?:SELECT\b.*\bFROM|INSERT INTO|CREATE TABLE|UPDATE \w+ SET)\b", re.M | re.I | re.S),
    "bash": re.compile(r"^#!/bin/(?:ba)?sh|^\s*\$ \w|^\s*(?:sudo|apt-get|echo \"\$|export \w+=)", re.M),
    "html": re.compile(r"^\s*<(?:!DOCTYPE|html|head|body|div|p|ul)\b", re.M | re.I),
    "go": re.compile(r"^package \w+$|^func \w*\(.*\{$", re.M),
    "rust": re.compile(r"\bfn \w+\([^)]*\)(?: -> \w+)? \{|\blet mut "),
}
_SAME = {"py": "python", "python3": "python", "js": "javascript", "jsx": "javascript", "typescript": "javascript",
         "ts": "javascript", "cpp": "c", "sh": "bash", "shell": "bash", "mysql": "sql", "rs": "rust", "golang": "go",
         "htm": "html"}  # fmt: skip


def fence_language(said: Exchange) -> int | None:
    """Code in a fence of another language than it is in: no mark of the one that is named, and marks of another."""
    if "```" not in said.answer:
        return None
    for found in _FENCE.finditer(said.answer):
        named = found[1].lower()
        named = _SAME.get(named, named)
        if named not in _LANGUAGES or _LANGUAGES[named].search(found[2]):
            continue
        if any(pattern.search(found[2]) for pattern in _LANGUAGES.values()):
            return found.start()
    return None


_CHATBOT = re.compile(
    r"【\d+(?::\d+)?†[^】]*】|:contentReference\[oaicite|oai_citation|\bturn\d(?:search|view|news)\d+"
    r"|utm_source=(?:chatgpt|openai)|sandbox:/mnt/data|\[citation needed\]|\bRegenerate response\b"
)


def chatbot_leftover(said: Exchange) -> int | None:
    """Marks of a chatbot's page: ``【4†source】``, ``oaicite``, "Regenerate response"."""
    if not any(mark in said.prose for mark in ("†", "oai", "turn", "utm_", "sandbox:", "[citation", "Regenerate")):
        return None
    found = _CHATBOT.search(said.prose)
    return found.start() if found else None


TEXT_CHECKS: dict[str, AnswerCheck] = {
    "html_leftover": html_leftover,
    "address_only": address_only,
    "unfilled_slot": unfilled_slot,
    "encoded_blob": encoded_blob,
    "accents_lost": accents_lost,
    "tokenized_text": tokenized_text,
    "broken_table": broken_table,
    "spreadsheet_damage": spreadsheet_damage,
    "repeated_paragraph": repeated_paragraph,
    "line_ends": line_ends,
    "escaped_text": escaped_text,
    "reversed_text": reversed_text,
    "fence_language": fence_language,
    "chatbot_leftover": chatbot_leftover,
}

"""Facts that stand in the structure of a document: labels with values, tables, the line below the title.

Nothing is understood, only read: what is found is a label, its value as it stands there, and whom the
document is about (its title, before a colon). :mod:`afina.dataset.questions.from_structure` asks for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from afina.dataset.questions.fact import Fact, typed
from afina.dataset.questions.labels import LABELS, NAMES, PERSONAL, fold, label_key
from afina.dataset.questions.records import record_facts
from afina.dataset.questions.values import RULE, clean_value, date_and_place, is_position, plain, words_of
from afina.run import parse_json
from afina.text.document import Document

_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_BOLD_LABEL = re.compile(r"\s*(?:(?:[-*+]|\d+[.)])\s+)?\*\*([^*:]{2,60})(?::\s*\*\*|\*\*\s*:)\s*(.*)$")
_INNER_COLON = re.compile(r"\*\*[^*:]{2,60}:\s*\*\*")
_PLAIN_LABEL = re.compile(r"\s*(?:[-*+]\s+)?([^*:|<>#`]{2,50}?)\s*:\s+(\S.*)$")
_ITEM = re.compile(r"(\s*)(?:[-*+]|\d+[.)])\s+(\S.*)$")
_ROW = re.compile(r"\s*\|(.+)\|\s*$")
_OPENING = re.compile(r"\*\*[^*\n]+\*\*(?:\s*\|\s*[^|\n]+)*\s*$")
_DEFINITION = re.compile(r":\s{1,3}(\S.*)$")
_QUOTED = re.compile(r"""["“«](.+?)["”»]$""")
_BORN = re.compile(
    r"\*\*([^*]*\d{4})\*\*\. Nascia em (\*\*[^*]+\*\*|[^*,(]+?)(?:, [^*,(]+?)?,?(?: \([^)]*\))? \*\*([^*]+)\*\*"
)
_NAMED = re.compile(
    r"\*\*([^*:|\d]+)\*\*"
    r"(?:, (?:conhecid|nascid)| (?:começou|fez|jogou|passou|iniciou|chegou|formou|nasceu|ganhou|era)\b)"
)
_KNOWN_AS = re.compile(r"conhecid[oa][^.*]{0,40}? (?:por|como) \*\*([^*]+)\*\*(?: ou \*\*([^*]+)\*\*)?")
_DIED = "✝"
MOST_NAME_WORDS = 9


def subject_of(document: Document) -> tuple[str, str]:
    """Whom or what a document is about, and what its title says beside: ``("Adelmiro", "Tricampeão Distrital")``.

    The title is that of the document, or else the first line (a Markdown heading, or a short line
    with a blank one below it). Empty where there is none.
    """
    title = document.title
    if not title and document.kind != "code":
        lines = document.text.lstrip("\ufeff").lstrip().split("\n", 2)
        heading = _HEADING.match(lines[0])
        if heading:
            title = heading[2]
        elif len(lines) > 1 and not lines[1].strip() and len(lines[0]) <= 80 and lines[0][:1] not in "{[<|":
            title = lines[0]
    name, colon, rest = plain(title).partition(": ")
    return (name.strip(), clean_value(rest)) if colon else (plain(title), "")


def find_facts(document: Document, language: str) -> Iterator[Fact]:
    """The facts of one text document, in order.

    >>> page = Document("a.md", "0" * 64, kind="markdown", title="Ana: Pioneira",
    ...                 text="# Ana: Pioneira\\n\\n**18/02/1975, Faro**\\n\\n**Clubes:**\\n- Farense\\n- Silves\\n")
    >>> [(fact.kind, fact.items) for fact in find_facts(page, "pt-PT")][1:]
    [('birth_date', ('18 de fevereiro de 1975',)), ('birth_place', ('Faro',)), ('clubs', ('Farense', 'Silves'))]
    """
    stripped = document.text.lstrip("\ufeff \n")
    if stripped.startswith("{"):
        try:
            record = parse_json(stripped)
        except ValueError:
            return
        yield from record_facts(record, language, document)
        return
    subject, said = subject_of(document)
    if not subject or len(subject.split()) > MOST_NAME_WORDS:
        return
    if said and document.kind == "markdown":
        yield Fact(subject, "title", (said,), 1)
    reader = _Reader(document.text, subject, language)
    called = False
    for kind, label, items, line, heading in reader.labelled():
        if kind == "nickname":
            if [fold(item) for item in items] == [fold(subject)]:
                continue
            called, items = True, [reader._quotes(item) for item in items]
        yield from typed(subject, kind, label, items, line, heading, language)
    if language.startswith("pt"):
        yield from (fact for fact in reader.first_sentences() if fact.kind != "nickname" or not called)


@dataclass
class _Reader:
    """The lines of a document and the place in them."""

    text: str
    subject: str
    language: str

    def __post_init__(self) -> None:
        self.lines = self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.words: Counter[str] = words_of(self.text)

    def clean(self, value: str) -> str:
        cleaned = clean_value(value, self.words)
        word = cleaned.split(" ", 1)[0].strip(",;")
        starts = self.language.startswith("pt") and word.replace("-", "").isalpha() and not value.startswith("`")
        return cleaned[:1].upper() + cleaned[1:] if starts else cleaned

    def labelled(self) -> Iterator[tuple[str, str, list[str], int, str]]:
        """(kind, label, items, line, heading) of every label with a value."""
        heading, fenced, personal = "", False, False
        position, lines = 0, self.lines
        opened = False
        while position < len(lines):
            line, number = lines[position], position + 1
            position += 1
            if line.lstrip().startswith(("```", "~~~")):
                fenced = not fenced
            if RULE.match(line):
                heading, personal = "", False
                continue
            if fenced or not line.strip() or line.lstrip().startswith(">"):
                continue
            if found := _HEADING.match(line):
                heading = plain(found[2])
                opened = opened or len(found[1]) > 1
                personal = label_key(heading) in PERSONAL
                if label_key(heading) in LABELS and len(found[1]) > 1:
                    items, after = self._items(position)
                    if items:
                        yield LABELS[label_key(heading)], heading, items, number, heading
                        if not self._has_labels(position, after):
                            position = after
                continue
            if not opened and _OPENING.match(line.strip()):
                opened = True
                yield from self._opening(line, number)
                continue
            if row := _ROW.match(line):
                cells = [self.clean(cell) for cell in row[1].split("|")]
                if len(cells) == 2 and all(cells) and position < len(lines) and self._in_table(position - 1):
                    yield self._kind(cells[0]), cells[0], [cells[1]], number, heading
                continue
            if position < len(lines) and (defined := _DEFINITION.match(lines[position])):
                label = plain(line)
                if len(label.split()) <= 6:
                    yield self._kind(label), label, [self.clean(defined[1])], number, heading
                    position += 1
                    continue
            if found := _BOLD_LABEL.match(line):
                label, value = plain(found[1]), found[2]
                kind = self._kind(label)
                if not self._is_label(label, _INNER_COLON.search(line) is not None, kind):
                    continue
                personal = personal or label_key(label) in PERSONAL
                if label_key(label) in PERSONAL:
                    continue
                items, after = self._items(position, deeper_than=self._indent(line))
                if value.strip():
                    items, after = (
                        ([self.clean(value)], position) if not items else ([self.clean(value), *items], after)
                    )
                elif not items and kind != "other":
                    items, after = self._nested(position)
                if items and items[0]:
                    yield kind, label, items, number, heading
                    position = max(position, after)
                continue
            if found := _PLAIN_LABEL.match(_without_pictographs(line)):
                label, value = plain(found[1]), self.clean(found[2])
                known = label_key(label) in LABELS
                if value and (known or (personal and self._is_label(label, True, "other"))) and "**" not in found[1]:
                    yield self._kind(label), label, [value], number, heading

    def _kind(self, label: str) -> str:
        key = label_key(label)
        return "name" if key in NAMES else LABELS.get(key, "other")

    def _is_label(self, label: str, colon_inside: bool, kind: str) -> bool:
        """A known label, or a short one without figures whose colon stands inside the bold mark."""
        if kind != "other":
            return True
        short = 1 <= len(label.split()) <= 5 and not any(letter.isdigit() for letter in label)
        return short and colon_inside and label[:1].isupper()

    @staticmethod
    def _indent(line: str) -> int:
        return len(line) - len(line.lstrip())

    def _items(self, position: int, deeper_than: int = -1) -> tuple[list[str], int]:
        """The list that follows (after at most one blank line) and the position after it."""
        while position < len(self.lines) and not self.lines[position].strip():
            position += 1
        items: list[str] = []
        start = position
        while position < len(self.lines):
            line = self.lines[position]
            found = _ITEM.match(line)
            if (
                not found
                or RULE.match(line)
                or (self._indent(line) <= deeper_than and deeper_than >= 0 and _is_item(self.lines, start - 1))
            ):
                break
            value = self.clean(found[2])
            if value.endswith(":"):
                value = value[:-1]
            if value:
                if items and len(found[1]) >= 2 and self._indent(self.lines[start]) < len(found[1]):
                    items[-1] += ("; " if ": " in items[-1] else ": ") + value
                else:
                    items.append(value)
            position += 1
        return items, position

    def _nested(self, position: int) -> tuple[list[str], int]:
        """Labels with lists below a label without a value (**Clubes:** then **Brasil:** ...), each as one item."""
        items: list[str] = []
        while position < len(self.lines):
            line = self.lines[position]
            if not line.strip():
                position += 1
                continue
            found = _BOLD_LABEL.match(line)
            if not found or self._kind(plain(found[1])) != "other":
                break
            inner, after = self._items(position + 1)
            values = ([self.clean(found[2])] if found[2].strip() else []) + inner
            if not values:
                break
            items.append(f"{plain(found[1])}: {'; '.join(values)}")
            position = after
        return items, position

    def _has_labels(self, start: int, end: int) -> bool:
        return any(_BOLD_LABEL.match(line) for line in self.lines[start:end])

    def _in_table(self, position: int) -> bool:
        """Whether a row stands below the line that separates a table's head."""
        while position > 0 and _ROW.match(self.lines[position - 1]):
            position -= 1
            if re.fullmatch(r"[\s|:-]+", self.lines[position]):
                return True
        return False

    def _opening(self, line: str, number: int) -> Iterator[tuple[str, str, list[str], int, str]]:
        """The line below the title: date and place of birth, position, a saying or a cross with the year of death."""
        for place, field in enumerate(part.strip() for part in line.split("|")):
            value = self.clean(field)
            if _DIED in field:
                yield "died", "", [value.strip("()† ")], number, ""
            elif not value:
                yield "unread", "", [field], number, ""
            elif place == 0:
                yield "born", "", [value], number, ""
            elif place == 1:
                yield ("position" if is_position(value) else "role"), "", [value], number, ""
            elif _QUOTED.match(value):
                inside = fold(value.strip('"“”«»'))
                if inside != fold(self.subject):
                    kind = "nickname" if inside in fold(self.subject) else "epithet"
                    yield kind, "", [self._quotes(value)], number, ""
            else:
                yield "unread", "", [value], number, ""

    def _quotes(self, value: str) -> str:
        """Sayings in the quotation marks of the language, two of them joined by a word."""
        if not self.language.startswith("pt"):
            return value
        return re.sub(r"""["“]([^"”]*)["”]""", r"«\1»", value).replace("» / «", "» ou «")

    def first_sentences(self) -> Iterator[Fact]:
        """Birth and full name from the fixed first sentences of a life.

        ``**5 de abril de 1918**. Nascia em Faro **Ana Luz**``, or ``**Ana Luz**, conhecida como **Lu**, começou...``.
        """
        for number, line in enumerate(self.lines, start=1):
            if found := _BORN.match(line):
                date, _, read = date_and_place(plain(found[1]), self.language)
                yield Fact(self.subject, "birth_date", (date,), number, date=read)
                place = found.group(0).split("Nascia em ", 1)[1].split(f"**{found[3]}**")[0]
                place = plain(re.sub(r"\s*\([^)]*\)", "", place)).strip(" ,")
                yield Fact(self.subject, "birth_place", (place,), number)
                yield from self._name(found[3], number)
                yield from self._called(line, number)
                return
            if (found := _NAMED.match(line)) and len(plain(found[1]).split()) > 1:
                yield from self._name(found[1], number)
                yield from self._called(line, number)
                return

    def _name(self, text: str, number: int) -> Iterator[Fact]:
        name = " ".join(re.sub(r"""["“«][^"”»]*["”»]""", "", plain(text)).split())
        words = name.split()
        capital = all(word[:1].isupper() or fold(word) in ("de", "da", "do", "dos", "das", "e") for word in words)
        if 2 <= len(words) <= MOST_NAME_WORDS and capital and fold(name) not in fold(self.subject):
            yield Fact(self.subject, "full_name", (name,), number)

    def _called(self, line: str, number: int) -> Iterator[Fact]:
        if found := _KNOWN_AS.search(line):
            names = [plain(part).strip("\"“”«»' ") for part in found.groups() if part]
            names = [name for name in names if fold(name) != fold(self.subject)]
            if names:
                yield Fact(self.subject, "nickname", (" ou ".join(f"«{name}»" for name in names),), number)


def _is_item(lines: list[str], position: int) -> bool:
    while position >= 0 and not lines[position].strip():
        position -= 1
    return position >= 0 and _ITEM.match(lines[position]) is not None


def _without_pictographs(line: str) -> str:
    item = _ITEM.match(line)
    return plain(item[2]) if item else line

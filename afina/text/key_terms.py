"""Key terms: what of a text tells that somebody has read it. Identifiers, numbers with what they count, dates, names.

Terms are read by their form alone, in any language that writes names with capitals; the words that Portuguese and
English put around them are listed here. Nothing is understood, so that the same text has the same terms everywhere.
:class:`TermTable` says which of them are rare among the sections of some documents.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from afina.text.identity import normal

RARE_SECTIONS, RARE_SHARE = 3, 0.05
"""A rare term stands in at most so many sections, or in that share of all where it is more."""
MOST_CODE_CHARS = 60
"""Longer code between backticks is no term."""

_MONTHS = (
    "janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro|"
    "january|february|march|april|may|june|july|august|september|october|november|december"
)
_NAME_WORD = r"(?:[A-ZÀ-ÖØ-Þ][\w’']*(?:-[\w’']+)*|[A-ZÀ-ÖØ-Þ]\.)"
NAME = rf"{_NAME_WORD}(?:\ (?:d[aeo]s?\ |of\ |the\ )?{_NAME_WORD})*"
"""Pattern of a name: words with capitals, and what joins them."""
_TERM = re.compile(
    rf"""
      `(?P<code>[^`\n]+)`
    | (?P<date>\b\d{{1,2}}(?:\.?º)?\ (?:de\ )?(?i:{_MONTHS}),?\ (?:de\ )?\d{{4}}\b
        | \b(?i:{_MONTHS})\ \d{{1,2}},\ \d{{4}}\b
        | \b\d{{1,2}}[/.]\d{{1,2}}[/.](?:1[5-9]|20)\d\d\b | \b(?:1[5-9]|20)\d\d-\d\d-\d\d\b)
    | (?P<years>\b(?:1[5-9]|20)\d\d\s?[/–-]\s?(?:(?:1[5-9]|20)\d\d|\d\d)\b)
    | (?P<version>\bv?\d+\.\d+\.\d+(?:[-.+]\w+)*\b | \bv\d+(?:\.\d+)+\b)
    | (?P<word>(?<![\w@.\\/-])(?:@[A-Za-z_]\w{{2,}} | --[A-Za-z][\w-]+ | [A-Za-z_]\w*(?:\.\w+)*\(\)
        | [A-Za-z]\w*_\w+ | [a-z][a-z0-9]*[A-Z]\w* | [A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+(?!\w)))
    | (?P<number>(?<![\w.,/–-])\d{{1,3}}(?:[.\ ]\d{{3}})+(?![\w.]) | (?<![\w.,/–-])\d+(?:[.,]\d+)?)
        (?P<mark>\s?%|[ªº°](?=\W))?
        (?P<unit>\ [^\W\d_][^\W\d_-]*)?
    | (?P<name>(?<![\w`]){NAME})
    """,
    re.VERBOSE,
)
_MONTH_CASE = re.compile(_MONTHS, re.I)
_WORD = re.compile(r"[^\W_]+")
_SMALL_WORD = re.compile(r"(?<![\w`@.])[a-zà-öø-ÿ][^\W\d_]+(?!\w)")
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_SENTENCE_START = re.compile(r"(?:^|[.!?…:;]\s|[\"“«(‘•–—|]\s?|\s[-–—]\s)$")
_NO_UNIT_WORDS = """
a à ao aos as às com da das de do dos e é em foi mas na nas no nos o os ou para pela pelo por que se sem um uma
and are as at be but by can for from has have if in into is it of on or than that the then to was were when which will
with
"""
_NO_UNIT = frozenset(_NO_UNIT_WORDS.split())
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d")
_BEFORE_YEAR_WORDS = """
em de desde até entre e a ao por in since from until and to of by before after between ano época temporada verão
inverno primavera outono year summer winter spring autumn janeiro fevereiro março abril maio junho julho agosto
setembro outubro novembro dezembro january february march april may june july august september october november
december para
"""
_BEFORE_YEAR = frozenset(_BEFORE_YEAR_WORDS.split())
_FRAMES = {
    **dict.fromkeys(("o", "no", "do", "ao", "pelo"), "o"),
    **dict.fromkeys(("a", "na", "da", "à", "pela"), "a"),
    **dict.fromkeys(("os", "nos", "dos", "aos", "pelos"), "os"),
    **dict.fromkeys(("as", "nas", "das", "às", "pelas"), "as"),
    **dict.fromkeys(("em", "in", "at"), "in"),
    "the": "the",
}
"""Word before a name -> what it says of it: articles of gender and number, a place, or nothing."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term at its place in a text. Two terms of one `kind` can stand in each other's place."""

    text: str
    """As it stands there, backticks included."""
    kind: str
    """``year``, ``date``, ``number:golos``, ``code:builtin``, ``name:2`` (words) and so on."""
    start: int
    frame: str = ""
    """For a name: what the word before it says, see :data:`_FRAMES`."""

    @property
    def key(self) -> str:
        """The same for two ways of writing it: without backticks and brackets of a call, in small letters."""
        return term_key(self.text)

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def term_key(text: str) -> str:
    """See :attr:`Term.key`.

    >>> term_key("`std.Io()`"), term_key("Hassan  Nader")
    ('std.io', 'hassan nader')
    """
    return normal(text.strip("`").removesuffix("()")).casefold()


def find_terms(text: str, common: Iterable[str] = ()) -> list[Term]:
    """All terms of a sentence or an answer, in order.

    Args:
        text: one passage; code between backticks.
        common: words that the documents write small: at a sentence's beginning they are no names. A set, for speed.

    >>> [(term.text, term.kind) for term in find_terms("Em 1987, aos 23 anos, Hajry saiu do Raja Casablanca.")]
    [('1987', 'year'), ('23 anos', 'number:anos'), ('Hajry', 'name:1'), ('Raja Casablanca', 'name:2')]
    >>> [(term.text, term.kind) for term in find_terms("Use `@branchHint` of Zig 0.14.0 or --watch.")]
    [('`@branchHint`', 'code:builtin'), ('Zig', 'name:1'), ('0.14.0', 'version'), ('--watch', 'word:flag')]
    """
    words = common if isinstance(common, (set, frozenset)) else frozenset(common)
    return [term for found in _TERM.finditer(text) for term in _term(found, text, words)]


def _term(found: re.Match[str], text: str, common: set[str] | frozenset[str]) -> Iterator[Term]:
    group, start = found.lastgroup, found.start()
    if found["code"] is not None:
        yield Term(found[0], f"code:{code_form(found['code'])}", start)
    elif found["word"] is not None:
        yield Term(found[0], f"word:{code_form(found[0])}", start)
    elif found["number"] is not None:
        yield _number(found, text)
    elif found["name"] is not None:
        yield from _names(found, text, common)
    elif group in ("date", "years"):
        yield Term(found[0], f"{group}:{_shape(found[0])}", start)
    else:
        yield Term(found[0], "version", start)


def code_form(code: str) -> str:
    """The form of an identifier; ``other`` for an expression.

    >>> [code_form(code) for code in ("@as", "std.mem.eql", "--watch", "x86_64-linux", "ArrayList", "a + b", "0x1f")]
    ['builtin', 'dotted', 'flag', 'dashed', 'pascal', 'other', 'number']
    """
    if len(code) > MOST_CODE_CHARS or not re.fullmatch(r"[@.#$-]{0,2}\w[\w.:/-]*(?:\(\))?", code):
        return "other"
    if re.fullmatch(r"-?\d[\w.]*", code):
        return "number"
    for form, pattern in (
        ("builtin", r"@.*"), ("flag", r"-.*"), ("member", r"\..*"), ("path", r".*/.*"), ("call", r".*\(\)"),
        ("dotted", r".*\..*"), ("dashed", r".*-.*"), ("caps", r"[A-Z0-9_]{2,}"), ("snake", r".*\w_\w.*"),
        ("pascal", r"[A-Z].*"), ("camel", r".*[A-Z].*"),
    ):  # fmt: skip
        if re.fullmatch(pattern, code):
            return form
    return "small"


def _number(found: re.Match[str], text: str) -> Term:
    number, mark, unit = found["number"], found["mark"] or "", found["unit"] or ""
    start = found.start()
    before = text[:start].rstrip(' ([“"«').rsplit(None, 1)
    last = before[-1].strip('(“"«,').casefold() if before else ""
    if not mark and _YEAR.fullmatch(number) and (last in _BEFORE_YEAR or text[start - 1 : start] in ("(", "[")):
        return Term(number, "year", start)
    if unit.strip().casefold() in _NO_UNIT or (mark.strip() == "%"):
        unit = ""
    if not mark and not unit and re.fullmatch(r"\d+\.\d+", number) and last[:1].isalpha():
        return Term(number, "version", start)
    return Term(number + mark + unit, f"number:{mark.strip()}{unit.casefold()}".replace(": ", ":"), start)


def _names(found: re.Match[str], text: str, common: set[str] | frozenset[str]) -> Iterator[Term]:
    words, start = found["name"].split(" "), found.start()
    if not start or _SENTENCE_START.search(text, max(0, start - 4), start):
        # A capital says nothing here: the first word is a name where the documents never write it small.
        while words and (words[0].casefold() in common or len(words[0]) == 1 or (len(words) == 1 and not common)):
            start += len(words.pop(0)) + 1
    while words and words[0] == words[0].lower():  # what joined it to a word that is gone
        start += len(words.pop(0)) + 1
    name = " ".join(words)
    if not words or (len(name) < 3 and not name.isupper()) or _MONTH_CASE.fullmatch(name):
        return
    before = text[:start].rstrip().rsplit(None, 1)
    frame = _FRAMES.get(before[-1].casefold(), "") if before and text[start - 1 : start] == " " else ""
    form = "caps" if name.isupper() and len(words) == 1 else len(words)
    yield Term(name, f"name:{form}", start, frame)


def _shape(text: str) -> str:
    return re.sub(
        r"\d+", lambda digits: "9" * len(digits[0]) if len(digits[0]) > 2 else "9", _MONTH_CASE.sub("m", text)
    )


@dataclass
class TermTable:
    """The terms of all sections of some documents.

    >>> table = TermTable.of(["Hassan Nader jogou no Farense.", "Em 1990 chegou ao Farense.", "E saiu do Farense."])
    >>> [(term.text, table.sections(term)) for term in table.find("Hassan Nader jogou no Farense em 1990.")]
    [('Hassan Nader', 1), ('Farense', 3), ('1990', 1)]
    >>> [table.nowhere(term) for term in table.find("Hassan e Celso chegaram ao Farense.")]
    [False, True, False]
    """

    common: set[str] = field(default_factory=set)
    """Words that stand somewhere with a small letter."""
    words: set[str] = field(default_factory=set)
    """All words, in small letters, those of code too."""
    count: int = 0
    """Of sections."""
    _in: Counter[str] = field(default_factory=Counter)
    """Term -> how many sections hold it."""

    @classmethod
    def of(cls, sections: Sequence[str]) -> TermTable:
        """The table of some sections' texts, code blocks included."""
        table = cls()
        for text in sections:
            table.learn_words(text)
        for text in sections:
            table.add({term.key for term in table.find(text)})
        return table

    def learn_words(self, text: str) -> None:
        """Note a section's words; of all sections before the first :meth:`find`."""
        self.common.update(_SMALL_WORD.findall(_CODE_SPAN.sub("``", text)))
        self.words.update(word.casefold() for word in _WORD.findall(normal(text)))

    def find(self, text: str) -> list[Term]:
        """The terms of a text."""
        return find_terms(text, self.common)

    def add(self, keys: set[str]) -> None:
        """Count one section's terms."""
        self.count += 1
        self._in.update(keys)

    def sections(self, term: Term) -> int:
        """How many sections hold a term."""
        return self._in[term.key]

    def rare(self, term: Term) -> bool:
        """Whether few sections hold it."""
        return self._in[term.key] <= max(RARE_SECTIONS, RARE_SHARE * self.count)

    def nowhere(self, term: Term) -> bool:
        """Whether a word of it stands nowhere in the documents: it is from elsewhere, or made up."""
        return not self.words.issuperset(_WORD.findall(term.key))

    def key_terms(self, text: str, besides: str = "") -> list[Term]:
        """:meth:`rare_of` the terms of a text."""
        return self.rare_of(self.find(text), besides)

    def rare_of(self, terms: Iterable[Term], besides: str = "") -> list[Term]:
        """The rare ones of some terms that tell something: each once, the rarest first, none that stands in
        `besides` (the question)."""
        asked = set(_WORD.findall(normal(besides).casefold()))
        found: dict[str, Term] = {}
        for term in terms:
            tells = term.kind not in ("code:other", "code:number", "code:small", "number:")
            if tells and self.rare(term) and not asked.issuperset(_WORD.findall(term.key)):
                found.setdefault(term.key, term)
        order = {key: place for place, key in enumerate(found)}
        return sorted(found.values(), key=lambda term: (self._in[term.key], order[term.key]))

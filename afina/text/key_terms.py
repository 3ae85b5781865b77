"""Key terms: what of a text tells that somebody has read it. Identifiers, numbers with what they count, dates, names.

Terms are read by their form alone, in any language that writes names with capitals; the words that Portuguese and
English put around them are listed here. Nothing is understood, so that the same text has the same terms everywhere.
:class:`TermTable` says which of them are rare among the sections of some documents.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
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
_NAME_WORD = r"(?:[A-ZÀ-ÖØ-Þ]\.(?=\s)|[A-ZÀ-ÖØ-Þ][\w’']*(?:-[\w’']+)*)"
NAME = rf"{_NAME_WORD}(?:\ (?:d[aeo]s?\ |of\ |the\ )?{_NAME_WORD})*"
"""Pattern of a name: words with capitals, and what joins them."""
_WORD_TERM = r"""
    | (?P<word>(?<![\w@.\\/-])(?:@[A-Za-z_]\w{2,} | --[A-Za-z][\w-]+ | [A-Za-z_]\w*(?:\.\w+)*\(\)
        | [A-Za-z]\w*_\w+ | [a-z][a-z0-9]*[A-Z]\w* | [A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+(?!\w)))
"""
_MAY_HOLD_WORD = re.compile(r"[@_(]|--|[a-z0-9][A-Z]")


def _term_pattern(word: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
          `(?P<code>[^`\n]+)`
        | (?P<date>\b\d{{1,2}}(?:\.?º)?\ (?:de\ )?(?i:{_MONTHS}),?\ (?:de\ )?\d{{4}}\b
            | \b(?i:{_MONTHS})\ \d{{1,2}},\ \d{{4}}\b
            | \b\d{{1,2}}[/.]\d{{1,2}}[/.](?:1[5-9]|20)\d\d\b | \b(?:1[5-9]|20)\d\d-\d\d-\d\d\b)
        | (?P<years>\b(?:1[5-9]|20)\d\d\s?[/–-]\s?(?:(?:1[5-9]|20)\d\d|\d\d)\b)
        | (?P<version>\bv?\d+\.\d+\.\d+(?:[-.+]\w+)*\b | \bv\d+(?:\.\d+)+\b)
        {word}
        | (?P<number>(?<![\w.,/–-])\d{{1,3}}(?:[.\ ]\d{{3}})+(?![\w.]) | (?<![\w.,/–-])\d+(?:[.,]\d+)?)
            (?P<mark>\s?%|[ªº°](?=\W))?
            (?P<unit>\ [^\W\d_][^\W\d_-]*)?
        | (?P<name>(?<![\w`]){NAME})
        """,
        re.VERBOSE,
    )


_TERM, _TERM_OF_PROSE = _term_pattern(_WORD_TERM), _term_pattern("")
"""The second is the quicker one, for texts without identifiers outside of backticks."""
_MONTH_CASE = re.compile(_MONTHS, re.I)
_WORD = re.compile(r"[^\W_]+")
_SMALL_WORD = re.compile(r"(?<![\w`@.])[a-zà-öø-ÿ][^\W\d_]+(?!\w)")
_CAPITAL_WITHIN = re.compile(rf"(?<=[a-zà-öø-ÿ,] )(?:\*\*)?({_NAME_WORD})")
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_SENTENCE_START = re.compile(r"(?:^|[.!?…:;]\s|[\"“«(‘•–—|]\s?|\s[-–—]\s)$")
_NO_UNIT_WORDS = """
a à ao aos as às com da das de do dos e é em foi mas na nas no nos o os ou para pela pelo por que se sem um uma
and are as at be but by can for from has have if in into is it of on or than that the then to was were when which will
with
"""
_NO_UNIT = frozenset(_NO_UNIT_WORDS.split())
_BEFORE = 40
"""Characters in which the word before a term is looked for."""
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
"""Word before a name -> what it says of it: articles of gender and number, or a place. Any other word says ``bare``; no
word says nothing."""
_TELLS_NOTHING = ("code:other", "code:number", "code:small", "number:", "number:ª", "number:º", "title:1", "title:caps")
"""Kinds that a text on anything could hold."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term at its place in a text. Two terms of one `kind` can stand in each other's place."""

    text: str
    """As it stands there, backticks included."""
    kind: str
    """``year``, ``date``, ``number:golos``, ``code:builtin``, ``name:2`` (words; ``title:2`` where one of them is
    written small elsewhere) and so on."""
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


def _bare(text: str) -> str:
    """In small letters without accents, as a file's name may write a title."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def find_terms(text: str, common: Container[str] = (), proper: Container[str] = ()) -> list[Term]:
    """All terms of a sentence or an answer, in order.

    Args:
        text: one passage; code between backticks.
        common: words that the documents write small: with a capital they are part of a title, or begin a sentence.
        proper: words that the documents write with a capital within sentences: at a beginning only these are names.

    >>> [(term.text, term.kind) for term in find_terms("Em 1987, aos 23 anos, Hajry saiu do Raja Casablanca.")]
    [('1987', 'year'), ('23 anos', 'number:anos'), ('Hajry', 'name:1'), ('Raja Casablanca', 'name:2')]
    >>> [(term.text, term.kind) for term in find_terms("Use `@branchHint` of Zig 0.14.0 or --watch.")]
    [('`@branchHint`', 'code:builtin'), ('Zig', 'name:1'), ('0.14.0', 'version:2'), ('--watch', 'word:flag')]
    """
    pattern = _TERM if _MAY_HOLD_WORD.search(text) else _TERM_OF_PROSE
    return [term for found in pattern.finditer(text) for term in _term(found, text, common, proper)]


def _term(found: re.Match[str], text: str, common: Container[str], proper: Container[str]) -> Iterator[Term]:
    group, start = found.lastgroup, found.start()
    if found["code"] is not None:
        yield Term(found[0], f"code:{code_form(found['code'])}{_root(found['code'])}", start)
    elif group == "word":
        yield Term(found[0], f"word:{code_form(found[0])}", start)
    elif found["number"] is not None:
        yield _number(found, text)
    elif found["name"] is not None:
        yield from _names(found, text, common, proper)
    elif group in ("date", "years"):
        yield Term(found[0], f"{group}:{_shape(found[0])}", start)
    else:
        yield Term(found[0], _version(found[0]), start)


def code_form(code: str) -> str:
    """The form of an identifier; ``other`` for an expression.

    >>> [code_form(code) for code in ("@as", "std.mem.eql", "--watch", "x86_64-linux", "ArrayList", "a + b", "0x1f")]
    ['builtin', 'dotted', 'flag', 'dashed', 'pascal', 'other', 'number']
    """
    if not 1 < len(code) <= MOST_CODE_CHARS or not re.fullmatch(r"[@.#$-]{0,2}\w[\w.:/-]*(?:\(\))?", code):
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


def _root(code: str) -> str:
    """What a dotted name begins with: it tells ``std.mem`` from ``error.Full``."""
    return ":" + code.split(".")[0] if code_form(code) == "dotted" else ""


def _number(found: re.Match[str], text: str) -> Term:
    number, mark, unit = found["number"], found["mark"] or "", found["unit"] or ""
    start = found.start()
    before = text[max(0, start - _BEFORE) : start].rstrip(' ([“"«').rsplit(None, 1)
    last = before[-1].strip('(“"«,').casefold() if before else ""
    if not mark and _YEAR.fullmatch(number) and (last in _BEFORE_YEAR or text[start - 1 : start] in ("(", "[")):
        return Term(number, "year", start)
    numbered = bool(before) and before[-1][:1].isupper() and len(before) > 1  # "Tier 1 being ..."
    if unit.strip().casefold() in _NO_UNIT or mark.strip() == "%" or numbered:
        unit = ""
    if not mark and not unit and re.fullmatch(r"\d+\.\d+", number) and last[:1].isalpha():
        return Term(number, _version(number), start)
    return Term(number + mark + unit, f"number:{mark.strip()}{unit.casefold()}".replace(": ", ":"), start)


def _version(text: str) -> str:
    return f"version:{text.count('.')}{'v' * text.startswith('v')}"


def _names(found: re.Match[str], text: str, common: Container[str], proper: Container[str]) -> Iterator[Term]:
    words, start = found["name"].split(" "), found.start()
    if not start or _SENTENCE_START.search(text, max(0, start - 4), start):
        # A capital says nothing of the first word.
        if len(words) == 1 and words[0] not in proper:
            return
        while words and _is_common(words[0], common):
            start += len(words.pop(0)) + 1
    while words and words[0] == words[0].lower():  # what joined it to a word that is gone
        start += len(words.pop(0)) + 1
    name = re.sub(r"['’]s$|[.'’]$", "", " ".join(words))
    if len(name) < (2 if name.isupper() else 3) or _MONTH_CASE.fullmatch(name):
        return
    before = text[max(0, start - _BEFORE) : start].rstrip().rsplit(None, 1)
    after_word = bool(before) and text[start - 1 : start] == " " and before[-1][-1].isalpha()
    frame = _FRAMES.get(before[-1].casefold(), "bare") if after_word else ""
    kind = "title" if any(_is_common(word, common) for word in words if word != word.lower()) else "name"
    if len(words) > 1 and any(word.isupper() for word in words):
        kind += ":initials"  # a club, a company: people's names have none, but for letters with a full stop
    yield Term(name, f"{kind}:{'caps' if name.isupper() and len(words) == 1 else len(words)}", start, frame)


def _is_common(word: str, common: Container[str]) -> bool:
    """Whether a word with a capital is no name of its own: a part of it stands somewhere with a small letter."""
    return len(word) == 1 or any(part.casefold() in common for part in _WORD.findall(word))


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
    >>> [(term.text, table.nowhere(term)) for term in table.find("Ali Celso chegou ao Farense com Hassan.")]
    [('Ali Celso', True), ('Farense', False), ('Hassan', False)]
    """

    common: set[str] = field(default_factory=set)
    """Words that stand somewhere with a small letter."""
    proper: set[str] = field(default_factory=set)
    """Words that stand somewhere with a capital within a sentence."""
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
        plain = _CODE_SPAN.sub("``", text)
        self.common.update(_SMALL_WORD.findall(plain))
        self.proper.update(_CAPITAL_WITHIN.findall(plain))
        self.words.update(word.casefold() for word in _WORD.findall(normal(text)))

    def find(self, text: str) -> list[Term]:
        """The terms of a text."""
        return find_terms(text, self.common, self.proper)

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
        """The rare ones of some terms that tell something: each once, the rarest first, none that stands in `besides`
        (the question), nor a span of which one year does."""
        asked = set(_WORD.findall(_bare(besides)))
        found: dict[str, Term] = {}
        for term in terms:
            words = _WORD.findall(_bare(term.key))
            told = asked.issuperset(words) or any(_YEAR.fullmatch(word) and word in asked for word in words)
            if term.kind not in _TELLS_NOTHING and self.rare(term) and not told:
                found.setdefault(term.key, term)
        order = {key: place for place, key in enumerate(found)}
        return sorted(found.values(), key=lambda term: (self._in[term.key], order[term.key]))

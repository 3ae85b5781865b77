"""Whether a section says what an answer says.

Three things are asked of an answer, all of them without any model:

1. its quote stands in the section, letter by letter but for white space, case, Unicode forms and Markdown marks;
2. every number and every name in it stands in the section;
3. ``supported content words / content words >= support``. Content words are those longer than one letter that are
   no stop words of Portuguese or English.

This refuses some true answers (``three`` where the section says 3) and lets through some wrong ones (the right words
in a wrong order). What it refuses can be read back.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_PORTUGUESE = """
a à às ao aos as o os um uma uns umas de do da dos das dum duma em no na nos nas num numa por pelo pela pelos pelas
para pra com sem sob sobre entre até desde após ante contra e ou nem mas porém que quem qual quais cujo cuja onde
quando como porque porquê pois se não sim já ainda também só muito mais menos tão foi foram era eram é são ser sido
sendo seja está estão estava estavam estar há havia ter tem têm teve tinha tinham este esta estes estas esse essa
esses essas isto isso aquele aquela aqueles aquelas aquilo ele ela eles elas eu tu você vocês nós vós me te lhe lhes
seu sua seus suas meu minha nosso nossa dele dela deles delas todo toda todos todas cada outro outra outros outras
mesmo mesma pode podem deve devem vai vão
"""
_ENGLISH = """
 an the of in on at by for with without to from into onto over under between and or nor but so yet not no yes that
this these those which who whom whose what where when how why if then than as is are was were be been being am has
have had having do does did done can could may might must shall should will would it its he she they them his her
their there here we you your our my me him us also only very more most less such each every all any both other
another same own just about
"""
STOP_WORDS = frozenset((_PORTUGUESE + _ENGLISH).split())

_SAME_SIGN = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'", "‐": "-", "‑": "-", "–": "-"}
    | {"—": "-", "−": "-", "*": "", "`": "", "\xad": "", "\u200b": "", "\u200c": "", "\u200d": "", "\ufeff": ""}
)
_ESCAPE = re.compile(r"\\([^\w\s])")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_LINE_MARK = re.compile(r"^[ \t]*(?:(?:[-*+]|>+|#{1,6}|\d+[.)])[ \t]+)+", re.MULTILINE)
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPED = re.compile(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*")
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d.,])")
_TOKEN = re.compile(r"(?P<stop>[.!?…:;\n\"“«]+|^\s*[-*+]\s)|(?P<word>\w+)", re.MULTILINE)


def plain(text: str) -> str:
    """Text for comparing: Unicode form NFKC, lower case, single spaces, plain quotation marks, no Markdown emphasis.

    >>> plain("**Zé**  marcou\\n“dois” ﬁns")
    'zé marcou "dois" fins'
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_ESCAPE.sub(r"\1", folded.translate(_SAME_SIGN)).split())


def stands_in(quote: str, section: str) -> bool:
    """Whether a quote stands in a section; link addresses and marks at the start of a line may be left out.

    >>> stands_in("nasceu em faro", "- Nasceu em [Faro](x.md).\\n"), stands_in("", "Faro")
    (True, False)
    """
    if not _WORD.search(quote):
        return False
    return any(part in whole for part in _forms(quote) for whole in _forms(section))


def _forms(text: str) -> set[str]:
    return {plain(text), plain(_LINE_MARK.sub("", _LINK.sub(r"\1", text)))}


def unsupported(answer: str, section: str, support: float, asked: Iterable[str] = ()) -> str:
    """Why an answer is not supported by a section, in words; empty where it is.

    Args:
        answer: what the teacher wrote.
        section: the section, with its path of headings.
        support: least share of content words.
        asked: the question in all its phrasings, to know names by.

    >>> section = "Rui Costa nasceu em Faro em 1910 e jogou a guarda-redes."
    >>> unsupported("Nasceu em Faro, em 1910.", section, 0.6)
    ''
    >>> unsupported("Nasceu em Faro, em 1911.", section, 0.6)
    'numbers that the section does not hold: 1911'
    >>> unsupported("O Rui nasceu em Lagos.", section, 0.6)
    'names that the section does not hold: Lagos'
    >>> unsupported("Era um avançado muito rápido.", section, 0.6)
    '0 of 2 content words stand in the section: lacking avançado, rápido'
    """
    known = set(_words(section))
    numbers = _numbers(section)
    strange = [number for number in _NUMBER.findall(_nfkc(answer)) if _number(number) not in numbers]
    if strange:
        return "numbers that the section does not hold: " + ", ".join(dict.fromkeys(strange))
    foreign = [name for name in names(answer, asked) if _fold(name) not in known]
    if foreign:
        return "names that the section does not hold: " + ", ".join(dict.fromkeys(foreign))
    content = [word for word in _words(answer) if (len(word) > 1 and word not in STOP_WORDS) or word.isdigit()]
    if not content:
        return "no content word to look for"
    lacking = [word for word in content if word not in known]
    held = len(content) - len(lacking)
    # In whole words, so that 3 of 5 are not less than 0.6 by the last bit of a float.
    if held < support * len(content) - 1e-9:
        return f"{held} of {len(content)} content words stand in the section: lacking {', '.join(lacking)}"
    return ""


def names(text: str, asked: Iterable[str] = ()) -> list[str]:
    """Words written as names: a capital inside a sentence, or a capital, digit or ``_`` inside the word.

    The first word of a sentence has a capital anyway. It counts when the next one has one too, or when it is a name
    elsewhere in the text or in the questions.

    >>> names("Nasceu em Faro. Rui Costa usou ArrayList e u8."), names("Rui marcou.", ["Quando é que Rui marcou?"])
    (['Faro', 'Rui', 'Costa', 'ArrayList', 'u8'], ['Rui'])
    """
    elsewhere = {name for question in asked for name in names(question)}
    tokens = [(found["word"], found["stop"]) for found in _TOKEN.finditer(_nfkc(text))]
    inside: list[tuple[str, bool]] = []
    starts = True
    for position, (word, stop) in enumerate(tokens):
        if stop:
            starts = True
            continue
        following = tokens[position + 1][0] if position + 1 < len(tokens) else None
        doubtful = starts and not (following and following[0].isupper() and following.casefold() not in STOP_WORDS)
        starts = False
        if word.isdigit() or _fold(word) in STOP_WORDS:
            continue
        odd = any(letter.isupper() or letter.isdigit() or letter == "_" for letter in word[1:])
        if odd or (word[0].isupper() and len(word) > 1):
            inside.append((word, doubtful and not odd))
    certain = {word for word, doubtful in inside if not doubtful} | elsewhere
    return [word for word, doubtful in inside if not doubtful or word in certain]


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _fold(word: str) -> str:
    return _nfkc(word.casefold())


def _words(text: str) -> list[str]:
    return _WORD.findall(plain(text))


def _numbers(section: str) -> set[str]:
    """The numbers of a section; a version ``0.14.0`` is one of ``0.14`` as well."""
    text = _nfkc(section)
    written = _NUMBER.findall(text)
    versions = [found.split(".") for found in written if found.count(".") > 1 and not _GROUPED.fullmatch(found)]
    return (
        {_number(found) for found in written}
        | {found.replace(" ", "") for found in _SPACED.findall(text)}
        | {".".join(parts[:end]) for parts in versions for end in range(2, len(parts))}
    )


def _number(written: str) -> str:
    """``1.910`` and ``1910`` are one number, ``03`` and ``3`` too; ``1.5`` and ``15`` are not.

    >>> _number("1.910"), _number("03"), _number("1.5"), _number("0.14.0")
    ('1910', '3', '1.5', '0.14.0')
    """
    if _GROUPED.fullmatch(written):
        written = re.sub("[.,]", "", written)
    return written.lstrip("0") or "0" if written.isdecimal() else written

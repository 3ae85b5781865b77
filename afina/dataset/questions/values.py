"""What stands after a label, as a person would say it: without marks, with dates in words.

No word is added to a value or taken from it. What changes: Markdown marks, pictographs, exclamation
marks and links go; a word shouted in capitals is written as the same document writes it elsewhere;
dates such as ``18/02/1975`` are written out in the dataset's language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from afina.dataset.questions.labels import PLAYING, fold
from afina.text.passages import PICTOGRAPH

MONTHS = {
    "pt": (
        "janeiro", "fevereiro", "março", "abril", "maio", "junho",
        "julho", "agosto", "setembro", "outubro", "novembro", "dezembro",
    ),
    "en": (
        "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December",
    ),
}  # fmt: skip

_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_HTML = re.compile(r"</?(?:img|br|hr|div|span|p|center|figure|figcaption|sup|sub|u)\b[^>]*>")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
RULE = re.compile(r"\s*([-*_])(?:\s*\1){2,}\s*$")
"""A line that draws a rule across the page in Markdown."""
_TAG = re.compile(r"</?[A-Za-z][^>\n]*>")
_MARKS = re.compile(r"\*+|__+|`+|~~+|(?<!\w)_(?=\w)|(?<=\w)_(?!\w)")
_BANG = re.compile(r"!+(?=[\s),;:.»\"”-]|$)")
_WORD = re.compile(r"[^\W\d_]{2,}|\bÀ\b")
_NUMERIC = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})")
_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_WRITTEN = re.compile(r"(\d{1,2})(?:\.?º)? (?:de )?([^\W\d_]+),? (?:de )?(\d{4})")
_YEAR = re.compile(r"(1[5-9]\d\d|20\d\d)")
_COMMON = {
    "a", "anos", "ao", "aos", "as", "campeão", "campeonato", "capitão", "carreira", "com", "da", "das", "de", "dia",
    "divisão", "do", "dos", "durante", "e", "em", "época", "épocas", "golo", "golos", "goleador", "história",
    "histórica", "histórico", "jogador", "jogo", "jogos", "lenda", "mais", "marcador", "melhor", "mundial", "na",
    "nacional", "nas", "no", "nos", "nunca", "o", "os", "para", "pela", "pelo", "por", "primeira", "primeiro", "rei",
    "sempre", "subida", "subidas", "taça", "título", "títulos", "treinador", "tudo", "um", "uma", "vez", "vezes",
    "às", "à",
}  # fmt: skip
"""Portuguese words that are no acronym, however they are written."""
_ROMAN = re.compile(r"[IVX]+")
_SHOUT_LETTERS = 4

Date = tuple[int, int, int]
"""Year, month, day; 0 where it is not known."""


def plain(text: str) -> str:
    """Text without Markdown marks, links, tags and pictographs.

    >>> plain("🏆 **Campeão** ([ver](a.md))!")
    'Campeão (ver)!'
    """
    text = _MARKS.sub("", _TAG.sub("", _LINK.sub(r"\1", text)))
    return " ".join(PICTOGRAPH.sub(" ", text.replace("✝", "†")).replace("( ", "(").split())


def quiet_text(text: str) -> str:
    """A section's text as an answer: up to a rule across the page, which ends what belongs to its heading.

    Its Markdown and its code stay as they are; pictographs, pictures, tags and a mark left alone go.

    >>> quiet_text("<img src='a.png'>\\n- 🏆 **Taça**\\n\\n---\\n\\n**Carreira:** 1930")
    '- **Taça**'
    """
    lines: list[str] = []
    fence = ""
    before = ""
    for line in text.replace("✝", "†").split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or (line.strip() == mark[1] and line.strip().startswith(fence))):
            fence = "" if fence else mark[1]
            lines.append(line)
        elif fence:
            lines.append(line)
        elif RULE.match(line) and not before.strip():
            break
        else:
            bare = PICTOGRAPH.sub("", _HTML.sub("", _PICTURE.sub("", line))).replace("****", "").rstrip()
            bare = re.sub(r"^(\s*(?:[-*+]|\d+[.)])) {2,}", r"\1 ", bare)
            kept = bare.lstrip() if bare[:1] == " " and line[:1] != " " else bare
            if (kept.strip() or not line.strip()) and kept.strip() not in ("**", "*", "-"):
                lines.append(kept)
        before = line
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def clean_value(text: str, words: Counter[str] | None = None) -> str:
    """A value as it is answered: plain, calm, without the mark that ends it.

    Args:
        words: of the whole document, see :func:`words_of`: a shouted word is written as it is there.

    >>> clean_value("🏆 **CAMPEÃO DISTRITAL** (1996/97)!", words_of("Campeão Distrital"))
    'Campeão Distrital (1996/97)'
    """
    value = _BANG.sub("", plain(text)).strip(" ;,–—-|").strip()
    value = re.sub(r"\s+([),;:.])", r"\1", value)
    return calm(value, words) if words else value


def words_of(text: str) -> Counter[str]:
    """How often a document writes each word that is not all capitals.

    >>> words_of("UEFA, Farense, FARENSE")
    Counter({'Farense': 1})
    """
    return Counter(word for word in _WORD.findall(text) if not word.isupper())


def calm(text: str, words: Counter[str]) -> str:
    """Shouted words as the document writes them elsewhere; others that it only shouts stay: they may be acronyms.

    >>> calm("REI DOS GOLOS na UEFA", Counter({"golos": 2}))
    'Rei dos golos na UEFA'
    """
    changed_any = False

    def lower(found: re.Match[str]) -> str:
        nonlocal changed_any
        word = found[0]
        if not word.isupper():
            return word
        if len(word) < _SHOUT_LETTERS:
            common = word.lower() in _COMMON and (changed_any or len(word) > 1)
            known = changed_any and words[word.lower()] and not _ROMAN.fullmatch(word)
            changed_any = changed_any or common
            return word.lower() if common or known else word
        forms = [form for form in (word.capitalize(), word.lower()) if words[form]]
        if not forms and word.lower() in _COMMON:
            forms = [word.lower()]
        if not forms:
            return word
        changed_any = True
        return max(forms, key=lambda form: words[form])

    quiet = _WORD.sub(lower, text)
    return quiet[:1].upper() + quiet[1:] if text[:1].isupper() else quiet


def read_date(text: str, language: str = "pt-PT") -> tuple[Date, str] | None:
    """The date that a value begins with, and what follows it; None where there is none.

    In English ``3/4/1975`` may be a day in March or in April, so it is left as it is.

    >>> read_date("18/02/1975, Olhão"), read_date("1919"), read_date("5 de abril de 1918 (Faro)")
    (((1975, 2, 18), ', Olhão'), ((1919, 0, 0), ''), ((1918, 4, 5), ' (Faro)'))
    """
    if found := _ISO.match(text):
        date = int(found[1]), int(found[2]), int(found[3])
    elif found := _NUMERIC.match(text):
        date = int(found[3]), int(found[2]), int(found[1])
        if language == "en" and date[1] > 12:
            date = date[0], date[2], date[1]
        elif language == "en" and date[2] <= 12:
            return None
    elif (found := _WRITTEN.match(text)) and (month := _month(found[2])):
        date = int(found[3]), month, int(found[1])
    elif (found := _YEAR.match(text)) and not re.match(r"\s*[-–/\d]", text[found.end() :]):
        date = int(found[1]), 0, 0
    else:
        return None
    if date[1] > 12 or date[2] > 31 or (date[1] == 0 and date[2]):
        return None
    return date, text[found.end() :]


def _month(name: str) -> int:
    for months in MONTHS.values():
        folded = [fold(month) for month in months]
        if fold(name) in folded:
            return folded.index(fold(name)) + 1
    return 0


def show_date(date: Date, language: str) -> str:
    """A date in words.

    >>> show_date((1975, 2, 18), "pt-PT"), show_date((1975, 2, 18), "en"), show_date((1919, 0, 0), "en")
    ('18 de fevereiro de 1975', '18 February 1975', '1919')
    """
    year, month, day = date
    if not month:
        return str(year)
    if language.startswith("pt"):
        return f"{day} de {MONTHS['pt'][month - 1]} de {year}"
    return f"{day} {MONTHS['en'][month - 1]} {year}"


def date_and_place(text: str, language: str) -> tuple[str, str, Date | None]:
    """A value such as ``18/02/1975, Olhão`` or ``27/09/1897 (Faro)`` as (date, place, the date read).

    What follows the date and is no place (it has a digit, or the brackets do not end the value) stays with the date.

    >>> date_and_place("27/09/1897 (Faro)", "pt-PT")[:2], date_and_place("Faro", "pt-PT")[:2]
    (('27 de setembro de 1897', 'Faro'), ('', 'Faro'))
    """
    found = read_date(text, language)
    if found is None:
        return ("", text, None) if not any(letter.isdigit() for letter in text) else (text, "", None)
    date, rest = found
    place = rest.strip()
    if place.startswith("(") and place.endswith(")") and place.count("(") == 1:
        place = place[1:-1]
    elif place.startswith((",", "-", "–", "—", "em ")):
        place = place.removeprefix("em ").lstrip(",-–— ")
    elif place:
        return text, "", date
    if any(letter.isdigit() for letter in place):
        return text, "", date
    return show_date(date, language), place.strip(), date


def is_position(text: str) -> bool:
    """Whether every part of a value is a position on the field.

    >>> is_position("Avançado / Interior"), is_position("Guarda-redes / Treinador")
    (True, False)
    """
    text = re.sub(r"\([^)]*\)", "", fold(text))
    parts = [part for part in re.split(r"\s*/\s*|\s*→\s*| e ", text) if part]
    return bool(parts) and all(any(word in part for word in PLAYING) for part in parts)


def show_list(text: str, language: str) -> str:
    """Slashes and arrows between parts, in words.

    >>> show_list("Avançado/Interior → Defesa", "pt-PT")
    'Avançado e interior, depois defesa'
    """
    joint, then = (" e ", ", depois ") if language.startswith("pt") else (" and ", ", later ")
    groups = []
    for group in re.split(r"\s*→\s*", text):
        parts = [part.strip() for part in group.split("/") if part.strip()]
        parts = [part if not number else part[0].lower() + part[1:] for number, part in enumerate(parts)]
        groups.append(joint.join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts))
    return then.join(group if not number else group[0].lower() + group[1:] for number, group in enumerate(groups))


def as_answer(items: Sequence[str]) -> str:
    """One value as a sentence, several as a list.

    >>> as_answer(["Faro"]), as_answer(["Faro", "Olhão"])
    ('Faro.', '- Faro\\n- Olhão')
    """
    if len(items) == 1:
        only = items[0]
        return only if only.endswith((".", "!", "?", "…", '."', ".”")) else only + "."
    return "\n".join(f"- {item}" for item in items)

"""Clean raw text by countable rules; whatever is taken away can be read back.

The preset ``monograph`` holds the rules of a Brazilian-Portuguese corpus made from web pages: at least
80 characters a line, 60 % of them letters, 200 characters a document; no lines in capitals, no
addresses, no line twice. One thing is ours: in a **hard-wrapped** file (books broken at some 70
letters) a line is no unit of its own, so length and letters are asked of its paragraph.

What is what:

- **mending** (wrong encoding, composed letters, unseen characters) is done to prose and messages;
- the **line rules** to raw text (documents of kind ``text``) only: in Markdown a short line may be a heading;
- code is left as it is.

A line taken away leaves an empty one, so that line numbers stay those of the file.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from afina.recipe import Clean
from afina.text.document import Document, map_document, visible

REPEATED_CHARS = 20
"""A line shorter than this may stand there again: "— Sim." is no boilerplate."""
ADDRESS_SHARE = 1 / 3
"""A line with more of its visible characters than this in addresses goes whole; else only the addresses go."""


@dataclass(slots=True)
class Cleaned:
    """What cleaning made of a text.

    ``visible(before) + added == visible(text) + dropped``, for visible characters.
    """

    text: str
    cut: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Reason -> what was taken away or mended: line of the text (from 1), the words that stood there."""
    added: Counter[str] = field(default_factory=Counter)
    """Reason -> visible characters that mending wrote."""

    @property
    def dropped(self) -> int:
        """Visible characters taken away."""
        return sum(visible(text) for pieces in self.cut.values() for _, text in pieces)

    def note(self, reason: str, line: int, before: str, after: str = "") -> None:
        """Count one piece that was taken away, or replaced by `after`."""
        self.cut.setdefault(reason, []).append((line, before))
        if after:
            self.added[reason] += visible(after)


def clean_document(document: Document, rules: Clean) -> tuple[Document, list[Cleaned]]:
    """The document cleaned, and what was done to its text or to each of its messages.

    >>> page = Document("a.txt", "0" * 64, text="PREFÁCIO\\nNÃ£o sei.")
    >>> clean_document(page, Clean(preset="monograph", min_line_chars=5, min_document_chars=5))[0].text
    '\\nNão sei.'
    """
    if rules.preset == "none" or document.kind == "code":
        return document, []
    if document.kind == "messages":
        done: list[Cleaned] = []

        def mended(text: str) -> str:
            done.append(mend(text))
            return done[-1].text

        return map_document(document, mended), done
    cleaned = mend(document.text)
    if document.kind == "text":
        _apply_line_rules(cleaned, rules)
    return (document if cleaned.text == document.text else replace(document, text=cleaned.text)), [cleaned]


def close_gaps(text: str) -> str:
    """At most one empty line in a row, none at the ends: for a text whose line numbers are no longer needed.

    >>> close_gaps("\\n\\na\\n\\n\\n\\nb\\nc")
    'a\\n\\nb\\nc'
    """
    return _GAP.sub("\n\n", text).strip("\n")


_GAP = re.compile(r"\n(?:[^\S\n]*\n){2,}")


# --- mending

_SUSPECT = re.compile("[ÃÂâÅÄïðĂ\x80-\x9f][\x80-\xbf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ€]")
"""What UTF-8 looks like where it was read as Latin-1 or Windows-1252; ftfy decides whether it is."""
UNSEEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\u202a-\u202e]")
"""Control codes, soft hyphens, zero-width spaces, changes of direction."""


def mend(text: str) -> Cleaned:
    """Repair wrong decoding (by ftfy), compose letters (Unicode NFC), remove invisible characters.

    >>> mend("aÃ§Ã£o e cafe\\u0301\\u200b").text
    'ação e café'
    """
    cleaned = Cleaned(text)
    if text.isascii() and not UNSEEN.search(text):
        return cleaned
    if _SUSPECT.search(text):
        from ftfy import fix_encoding

        _mend_lines(cleaned, "wrong_encoding", lambda line: fix_encoding(line) if _SUSPECT.search(line) else line)
    if not unicodedata.is_normalized("NFC", cleaned.text):
        _mend_lines(cleaned, "not_composed", lambda line: unicodedata.normalize("NFC", line))
    if UNSEEN.search(cleaned.text):
        # Some of them separate words, as a space does.
        _mend_lines(cleaned, "unseen", lambda line: UNSEEN.sub(lambda found: " " if found[0].isspace() else "", line))
    return cleaned


def _mend_lines(cleaned: Cleaned, reason: str, mended: Callable[[str], str]) -> None:
    """Mend line by line; counted are the words that changed."""
    lines = cleaned.text.split("\n")
    for number, before in enumerate(lines, start=1):
        after = mended(before)
        if after == before:
            continue
        lines[number - 1] = after
        old, new = before.split(), after.split()
        if len(old) == len(new):
            pairs = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
            old, new = [one for one, _ in pairs], [other for _, other in pairs]
        cleaned.note(reason, number, " ".join(old), " ".join(new))
    cleaned.text = "\n".join(lines)


# --- lines

_ADDRESS = re.compile(r"(?:https?://|ftp://|www\.)[^\s<>\"]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_NO_LETTER = re.compile(r"[^\w\s]|[\d_]")


def is_wrapped(lines: Sequence[str]) -> bool:
    """Whether a text was broken into lines of equal length: 20 or more lines, the longest 5 % left out none
    over 100 characters, half of them at least 30."""
    lengths = sorted(len(line) for line in lines if line.strip())
    return len(lengths) >= 20 and lengths[int(0.95 * len(lengths))] <= 100 and lengths[len(lengths) // 2] >= 30


def _apply_line_rules(cleaned: Cleaned, rules: Clean) -> None:
    lines = cleaned.text.split("\n")
    wrapped = is_wrapped(lines)
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not (bare := line.strip()):
            continue
        if bare.isupper() and sum(map(str.isalpha, bare)) > 1:
            reason = "upper_case"
        elif len(bare) >= REPEATED_CHARS and bare in seen:
            reason = "repeated_line"
        elif ("@" in bare or "://" in bare or "www." in bare) and (found := _ADDRESS.findall(bare)):
            if sum(map(len, found)) > ADDRESS_SHARE * visible(bare):
                reason = "address"
            else:
                for address in found:
                    cleaned.note("address", number, address)
                lines[number - 1] = _ADDRESS.sub("", line)
                continue
        else:
            seen.add(bare)
            continue
        cleaned.note(reason, number, line)
        lines[number - 1] = ""
    for first, last in _units(lines, wrapped):
        unit = "\n".join(lines[first:last]).strip()
        if len(unit) < rules.min_line_chars:
            reason = "short_line"
        elif len(_NO_LETTER.findall(unit)) > (1 - rules.min_letters) * visible(unit):
            reason = "few_letters"
        else:
            continue
        for place in range(first, last):
            cleaned.note(reason, place + 1, lines[place])
            lines[place] = ""
    text = "\n".join(lines)
    if text.strip() and len(text.strip()) < rules.min_document_chars:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                cleaned.note("short_document", number, line)
        text = ""
    cleaned.text = text


def _units(lines: Sequence[str], wrapped: bool) -> Iterator[tuple[int, int]]:
    """What length is asked of: each line, or in a hard-wrapped text each run of lines that are not blank."""
    first = None
    for place, line in enumerate([*lines, ""]):
        if not line.strip():
            if first is not None:
                yield first, place
            first = None
        elif not wrapped:
            yield place, place + 1
        elif first is None:
            first = place

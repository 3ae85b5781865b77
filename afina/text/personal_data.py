"""Personal data and secrets in texts: found by pattern, and by checksum (python-stdnum) where one exists.

- ``CPF``, ``CNPJ``: two check digits.
- ``NIF``: check digit, and NIF, NIPC, contribuinte or PT before it: one in eleven 9-digit numbers passes.
- ``IBAN``: of any country, with its own length and check digits.
- ``SSN``: of the United States, with its dashes; ``DNI``: of Spain (NIE too), ``CODICE-FISCALE``: of Italy, by check
  letter.
- ``IP``: an address of the public Internet; not private ones, nor those kept for examples, nor versions.
- ``CARD``: length and first digits of a card brand, and Luhn.
- ``PHONE``: +55 or an area code in brackets (BR); +351, 9x mobile numbers, 2xx in groups of three (PT); else + and 8 to
  15 digits, with any country's code (E.164). Not 555, which is kept for films.
- ``E-MAIL``: name@domain; the domains kept for examples (example.com) do not count.
- ``SECRET``: AWS, GitHub, OpenAI, Slack and Google keys, JWT, private keys (PEM), random strings
  assigned to a key or a password.

A random number of 11 digits passes the CPF's two check digits once in a hundred; that much is reported too often.

Not phonenumbers (2.6 MB): + and 8 to 15 digits gave one false alarm in all of the real rows and pages that the tests
read, a 555 number, which a line of ours leaves out (LOG.md).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from stdnum import iban, luhn
from stdnum.br import cnpj, cpf
from stdnum.es import dni, nie
from stdnum.it import codicefiscale
from stdnum.pt import nif
from stdnum.us import ssn

ENTROPY_BITS = 3.5
"""Per character; English words have about 3, random base-64 strings of 20 characters about 4."""


MASK = re.compile(r"\[(?:CPF|CNPJ|NIF|IBAN|SSN|DNI|CODICE-FISCALE|IP|CARD|PHONE|E-MAIL|SECRET)\]")
"""What :func:`mask` writes."""
LONGEST = 4096
"""Characters of the longest piece that is looked for: a private key."""


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data: its kind, and where it stands in the text."""

    kind: str
    start: int
    end: int


def is_cpf(text: str) -> bool:
    """Eleven digits, the last two of them check digits; not one digit eleven times, which has right ones.

    >>> is_cpf("529.982.247-25"), is_cpf("529.982.247-26"), is_cpf("111.111.111-11")
    (True, False, False)
    """
    return cpf.is_valid(text) and _mixed(text)


def is_cnpj(text: str) -> bool:
    """Twelve digits or capitals and two check digits; not one digit fourteen times.

    >>> is_cnpj("11.222.333/0001-81"), is_cnpj("12.ABC.345/01DE-35"), is_cnpj("11.222.333/0001-82")
    (True, True, False)
    """
    return cnpj.is_valid(text) and _mixed(text)


def is_nif(text: str) -> bool:
    """Nine digits, the last of them the check digit.

    >>> is_nif("501964843"), is_nif("501964842")
    (True, False)
    """
    return nif.is_valid(text)


def is_iban(text: str) -> bool:
    """Its own check digits, its country's length, and where the country has them those of the account inside.

    >>> is_iban("PT50 0002 0123 1234 5678 9015 4"), is_iban("PT50 0002 0123 1234 5678 9015 5")
    (True, False)
    >>> is_iban("DE89 3704 0044 0532 0130 00")
    True
    """
    return iban.is_valid(text)


def is_public_address(text: str) -> bool:
    """An address of the public Internet that someone may have.

    >>> is_public_address("184.106.96.34"), is_public_address("192.168.0.1"), is_public_address("203.0.113.7")
    (True, False, False)
    >>> is_public_address("8.8.8.8"), is_public_address("1.2.300.4")
    (False, False)
    """
    parts = text.split(".")
    if len(set(parts)) == 1 or any((len(part) > 1 and part[0] == "0") or int(part) > 255 for part in parts):
        return False
    return ip_address(text).is_global


def is_international(text: str) -> bool:
    """The digits of a telephone number with its country's code.

    >>> is_international("+44 20 7946 0958"), is_international("+1 (555) 555-5555"), is_international("+12 34")
    (True, False, False)
    """
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and not re.match(r"1555|1\d{3}555", digits)


# The library knows Luhn's sum but no brands.
_BRANDS = re.compile(
    r"4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|6(?:011|5\d\d|062|363)\d{12}"
)


def is_card(text: str) -> bool:
    """Length and first digits of a card brand, and Luhn's check digit.

    >>> is_card("4111 1111 1111 1111"), is_card("4111 1111 1111 1112")
    (True, False)
    """
    number = re.sub(r"\D", "", text)
    return bool(_BRANDS.fullmatch(number)) and luhn.is_valid(number) and _mixed(number)


def _mixed(text: str) -> bool:
    """Whether there is more than one letter or digit in it."""
    return len(set(filter(str.isalnum, text))) > 1


def is_random(text: str) -> bool:
    """Letters and digits mixed, with at least 3.5 bits of entropy a character.

    >>> is_random("x9Fq2LmZ7pTb4WcD"), is_random("your-key-goes-here"), is_random("1111aaaa1111aaaa")
    (True, False, False)
    """
    counts = Counter(text).values()
    entropy = -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
    return entropy >= ENTROPY_BITS and any(map(str.isdigit, text)) and any(map(str.isalpha, text))


@dataclass(frozen=True, slots=True)
class _Pattern:
    kind: str
    regex: re.Pattern[str]
    """Its group ``it``, where there is one, is what is found; else all of it."""
    right: Callable[[str], bool] = bool
    """Checksum."""


_ALONE, _END = r"(?<![\w.,/-])", r"(?![\w/-]|[.,]\d)"
_NUMBERS = (
    _Pattern("IBAN", re.compile(rf"{_ALONE}PT50(?:\s?\d){{21}}{_END}"), is_iban),
    _Pattern(
        "IBAN",
        re.compile(rf"{_ALONE}[A-Z]{{2}}\d\d(?: ?[A-Z\d]{{4}}){{2,7}}(?: ?[A-Z\d]{{1,3}})?{_END}"),
        is_iban,
    ),
    _Pattern("SSN", re.compile(rf"{_ALONE}\d{{3}}-\d\d-\d{{4}}{_END}"), ssn.is_valid),
    _Pattern(
        "DNI",
        re.compile(rf"{_ALONE}(?:\d{{8}}|[XYZ]-?\d{{7}})-?[A-Z]{_END}"),
        lambda text: dni.is_valid(text) or nie.is_valid(text),
    ),
    _Pattern(
        "CODICE-FISCALE",
        re.compile(rf"{_ALONE}[A-Z]{{6}}\d\d[A-Z]\d\d[A-Z]\d{{3}}[A-Z]{_END}"),
        codicefiscale.is_valid,
    ),
    _Pattern(
        "IP",
        re.compile(r"(?<![\w.,/:-])(?<!ersion )(?<!ersão )(?<!elease )(?:\d{1,3}\.){3}\d{1,3}(?![\w/-]|[.,]\d)"),
        is_public_address,
    ),
    _Pattern(
        "CNPJ",
        re.compile(rf"{_ALONE}(?:\d{{14}}|[\dA-Z]{{2}}(?:\.[\dA-Z]{{3}}){{2}}/[\dA-Z]{{4}}-\d\d){_END}"),
        is_cnpj,
    ),
    _Pattern("CPF", re.compile(rf"{_ALONE}\d{{3}}\.?\d{{3}}\.?\d{{3}}-?\d\d{_END}"), is_cpf),
    _Pattern("CARD", re.compile(rf"{_ALONE}\d{{4}}(?:[ -]?\d{{2,6}}){{2,4}}{_END}"), is_card),
    _Pattern(
        "NIF",
        re.compile(
            rf"(?:\b(?:NIF|NIPC|contribuinte)\b[^\d\n]{{0,30}}|\bPT ?)(?P<it>\d{{3}} ?\d{{3}} ?\d{{3}}){_END}",
            re.IGNORECASE,
        ),
        is_nif,
    ),
    _Pattern(
        "PHONE",
        re.compile(
            r"(?<![\w.,/])(?:\+55 ?\(?[1-9]{2}\)? ?9?\d{4}[ -]?\d{4}|\([1-9]{2}\) ?9?\d{4}[ -]?\d{4}"
            r"|[1-9]{2} 9\d{4}-\d{4}|(?:\+|00)351 ?\d{3} ?\d{3} ?\d{3}"
            rf"|9[1236]\d ?\d{{3}} ?\d{{3}}|2\d\d \d{{3}} \d{{3}}){_END}"
        ),
    ),
    _Pattern(
        "PHONE",
        re.compile(
            r"(?<![\w.,/+])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?![\w/-]|[.,]\d)"
        ),
        is_international,
    ),
)
_E_MAIL = _Pattern(
    "E-MAIL",
    re.compile(
        r"(?<![\w.+-])[\w.+-]{1,64}@(?!(?:[\w-]+\.)*example\.(?:com|org|net)\b)[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}"
    ),
)
_SECRETS = (
    _Pattern(
        "SECRET",
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
            r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
            r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{36,}\b"
            r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}",
            re.DOTALL,
        ),
    ),
    _Pattern("SECRET", re.compile(r"\bsk-[\w-]{20,}"), is_random),
    _Pattern(
        "SECRET",
        re.compile(
            r"(?:api[_-]?key|secret|token|passw(?:or)?d|senha|chave)[\w-]{0,20}[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
            r"(?P<it>[\w+/=.~-]{16,})",
            re.IGNORECASE,
        ),
        is_random,
    ),
)
# Most texts hold none of these; looking for every pattern in each of them would cost the most time of a build.
_MAYBE_NUMBER = re.compile(r"\d(?:[ ./()-]{0,2}\w){2}(?:[ ./()-]{0,2}\d){2}")
_KEYS = (
    "-----begin",
    "eyj",
    "akia",
    "asia",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat",
    "sk-",
    "xox",
    "aiza",
)
_NAMES = ("key", "secret", "token", "passw", "senha", "chave")


def find_personal_data(text: str) -> list[Found]:
    """All pieces of personal data, in order, none overlapping another.

    >>> [found.kind for found in find_personal_data("CPF 529.982.247-25, 529.982.247-26, ana@mar.pt")]
    ['CPF', 'E-MAIL']
    """
    found: list[Found] = []
    for pattern in _patterns_for(text):
        for match in pattern.regex.finditer(text):
            group = "it" if "it" in pattern.regex.groupindex else 0
            start, end = match.span(group)
            free = all(end <= other.start or start >= other.end for other in found)
            if free and pattern.right(match[group]):
                found.append(Found(pattern.kind, start, end))
    return sorted(found, key=lambda item: item.start)


def _patterns_for(text: str) -> Iterator[_Pattern]:
    lower = text.lower()
    if any(key in lower for key in _KEYS):
        yield from _SECRETS[:2]
    if ("=" in text or ":" in text) and any(name in lower for name in _NAMES):
        yield _SECRETS[2]
    if "@" in text:
        yield _E_MAIL
    if _MAYBE_NUMBER.search(text):
        yield from _NUMBERS


def masked_slice(text: str, start: int, end: int) -> str:
    """``text[start:end]`` with personal data masked, that which is cut by its edges too.

    >>> masked_slice("Mail ana@mar.pt", 8, 99)
    '[E-MAIL]'
    """
    edge = max(0, start - LONGEST)
    parts = []
    for found in find_personal_data(text[edge : end + LONGEST]):
        first, last = edge + found.start, edge + found.end
        if last > start and first < end:
            parts += [text[start:first], f"[{found.kind}]"]
            start = last
    return "".join([*parts, text[start:end]])


@dataclass(frozen=True, slots=True)
class Masked:
    """A text with its personal data replaced, and what was replaced."""

    text: str
    taken: str
    """The pieces themselves, one after the other."""
    written: str
    """What stands in their places."""
    kinds: Counter[str]


def mask(text: str, *, keep_lines: bool = False) -> Masked:
    """Write the kind in the place of each piece of personal data.

    Args:
        keep_lines: leave the line breaks of what is masked (a private key has many).

    >>> mask("Ligue (11) 98765-4321.").text
    'Ligue [PHONE].'
    """
    parts, taken, written, end = [], [], [], 0
    kinds: Counter[str] = Counter()
    for found in find_personal_data(text):
        label = f"[{found.kind}]"
        breaks = "\n" * text.count("\n", found.start, found.end) if keep_lines else ""
        parts += [text[end : found.start], label + breaks]
        taken.append(text[found.start : found.end])
        written.append(label)
        kinds[found.kind] += 1
        end = found.end
    return Masked("".join([*parts, text[end:]]) if parts else text, "".join(taken), "".join(written), kinds)

"""Afina's own questions about skills: what fine-tuning breaks first is the form of answers, not facts.

``skills.json`` holds, by language and skill, what is asked (one turn, or several that alternate), a system text, the
rules that the answer has to fulfil, and an answer that does. A rule is a name of :data:`RULES` and its arguments; no
model judges. An answer counts that fulfils all of its item's rules, and neither loops nor repeats the question.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from afina.evaluate.grade import Graded, contains
from afina.evaluate.intervals import FEWEST_TURNED
from afina.evaluate.probes import Question
from afina.model.generate.generate_torch import Answer
from afina.run import hash_value, parse_json
from afina.text.answer_flaws import after_thinking, loops
from afina.text.document import Message
from afina.text.language import language_of_text

NAME = "skills (afina's own)"
ROOM: Mapping[str, int] = {
    "format": 32,
    "JSON": 64,
    "lists": 80,
    "length": 64,
    "language": 64,
    "one word": 16,
    "not inventing": 40,
    "arithmetic": 32,
    "copying": 32,
    "system turn": 48,
    "several turns": 32,
    "stopping": 48,
}
"""By skill the most tokens of an answer. Those that do as asked are shorter; an answer that is cut is judged too."""
FIRST = 2 * len(ROOM)
"""So many are asked first: a base that does none of them as asked has no skill to lose."""


@dataclass(frozen=True, slots=True)
class SkillItem:
    """One question about a skill."""

    id: str
    """Language, skill and number: ``pt/JSON/3``."""
    turns: tuple[str, ...]
    """Of the user and the assistant in turn, the user's last."""
    system: str
    rules: tuple[tuple[Any, ...], ...]
    example: str
    """An answer that does as it is asked."""

    @property
    def skill(self) -> str:
        return self.id.split("/")[1]

    @property
    def room(self) -> int:
        """Most tokens of the answer."""
        return ROOM[self.skill]

    def question(self, *, takes_system: bool) -> Question:
        """As it is put to a model; where its template takes no system message, that stands before the question."""
        turns = list(self.turns)
        messages: list[Message] = []
        if self.system and takes_system:
            messages.append({"role": "system", "content": self.system})
        elif self.system:
            turns[0] = f"{self.system}\n\n{turns[0]}"
        messages += [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
        return Question(tuple(messages), self.example, f"skills.json:{self.id}")

    def grade(self, answer: Answer) -> Graded:
        """Whether an answer does as it is asked, and neither goes in circles nor is a part of the question; where it is
        to stop, it has to have ended too."""
        said = after_thinking(answer.text)
        repeats = self.skill != "copying" and len(said.split()) >= 4 and said.casefold() in self.turns[-1].casefold()
        passed = not repeats and not loops(said)
        passed = passed and all(RULES[name](said, *arguments) for name, *arguments in self.rules)
        passed = passed and (answer.stopped or self.skill != "stopping")
        return Graded(verbatim=passed, said=passed)


def items_hash() -> str:
    """A hash of all that is asked."""
    return hash_value(_content())


@cache
def _content() -> dict[str, dict[str, list[dict[str, Any]]]]:
    content: dict[str, dict[str, list[dict[str, Any]]]] = parse_json(
        files("afina.evaluate").joinpath("skills.json").read_bytes()
    )
    return content


@cache
def skill_items() -> Mapping[str, SkillItem]:
    """All items by their id."""
    items = [
        SkillItem(
            f"{language}/{skill}/{number}",
            tuple([row["ask"]] if isinstance(row["ask"], str) else row["ask"]),
            row.get("system", ""),
            tuple(map(tuple, row["rules"])),
            row["example"],
        )
        for language, skills in _content().items()
        for skill, rows in skills.items()
        for number, row in enumerate(rows, start=1)
    ]
    return {item.id: item for item in items}


def in_turn(language: str) -> list[SkillItem]:
    """All items, those of the language of the texts first, one of each skill after the other.

    >>> [item.id for item in in_turn("pt-PT")[:3]], in_turn("en")[0].id
    (['pt/format/1', 'pt/JSON/1', 'pt/lists/1'], 'en/format/1')
    """

    def place(item: SkillItem) -> tuple[bool, int]:
        spoken, _, number = item.id.split("/")
        return spoken != language[:2], int(number)

    return sorted(skill_items().values(), key=place)


def needed(broke_max: float) -> int:
    """How many items a base has to do as asked for a loss of more than the limit to be told from chance.

    >>> needed(0.05), needed(0.2)
    (120, 30)
    """
    return math.ceil(FEWEST_TURNED / broke_max) if broke_max else len(skill_items())


def ask_until(
    items: Sequence[SkillItem], enough: int, ask: Callable[[Sequence[SkillItem]], Sequence[Answer]]
) -> list[tuple[SkillItem, Answer]]:
    """Answers to as many of the items as it takes until `enough` are as asked, in their order.

    First :data:`FIRST`, then as many as the share of them that was as asked lets expect; none more where none was.
    """
    answered: list[tuple[SkillItem, Answer]] = []
    while len(answered) < len(items):
        passed = sum(item.grade(answer).said for item, answer in answered)
        if answered and (not passed or passed >= enough):
            break
        more = max(len(ROOM), math.ceil((enough - passed) * len(answered) / passed)) if answered else FIRST
        portion = items[len(answered) : len(answered) + more]
        answered += zip(portion, ask(portion), strict=True)
    return answered


# ---- the rules: an answer without white space around it, and what the item says


def exact(text: str, wanted: str) -> bool:
    """To the letter.

    >>> exact("a,b,c", "a,b,c"), exact("a, b, c", "a,b,c")
    (True, False)
    """
    return unicodedata.normalize("NFC", text) == wanted


def matches(text: str, pattern: str) -> bool:
    """The whole answer fits a regular expression.

    >>> matches("12,50 €", "12,50 ?€"), matches("Custa 12,50 €", "12,50 ?€")
    (True, False)
    """
    return re.fullmatch(pattern, text) is not None


def says(text: str, *wanted: str) -> bool:
    """One of these stands in it as whole words, in whatever case.

    >>> says("A capital é Roma.", "Roma"), says("Romance", "Roma")
    (True, False)
    """
    return any(contains(text, each) for each in wanted)


def never(text: str, *unwanted: str) -> bool:
    """Something is said, and none of these.

    >>> never("Cão", "gato"), never("Gato", "gato"), never("", "gato")
    (True, False, False)
    """
    return bool(text) and not says(text, *unwanted)


def only(text: str, *wanted: str) -> bool:
    """Nothing but one of these; case, and marks around it, do not matter.

    >>> only("**Sim**.", "sim"), only("Sim, claro", "sim")
    (True, False)
    """
    return re.sub(r"^[\W_]+|[\W_]+$", "", text).casefold() in {each.casefold() for each in wanted}


def starts(text: str, wanted: str) -> bool:
    """
    >>> starts("Olá! Roma.", "Olá!"), starts("Roma. Olá!", "Olá!")
    (True, False)
    """
    return text.startswith(wanted)


def ends(text: str, wanted: str) -> bool:
    """A full stop or quotation mark after it does not matter.

    >>> ends("É azul. FIM.", "FIM"), ends("É azul.", "FIM"), ends("E agora?", "?")
    (True, False, True)
    """
    return text.rstrip(' ."”»*').endswith(wanted.rstrip("."))


def upper(text: str) -> bool:
    """
    >>> upper("O SOL!"), upper("O Sol"), upper("1910")
    (True, False, False)
    """
    return text.isupper()


def lower(text: str) -> bool:
    """
    >>> lower("o mar."), lower("O mar.")
    (True, False)
    """
    return text.islower()


def words(text: str, least: int, most: int) -> bool:
    """So many words.

    >>> words("É verde.", 2, 2), words("A relva é verde.", 2, 2), words("", 0, 2)
    (True, False, False)
    """
    return bool(text) and least <= len(re.findall(r"\w[\w'’-]*", text)) <= most


def sentences(text: str, count: int) -> bool:
    """So many sentences.

    >>> sentences("O mar é azul. Há 2.5 km de areia!", 2), sentences("O mar é azul", 2)
    (True, False)
    """
    return len([each for each in re.split(r"[.!?…]+(?=\s|$)", text) if re.search(r"\w", each)]) == count


def bullets(text: str, count: int) -> bool:
    """So many lines that begin with a hyphen or an asterisk; a line before them does not matter.

    >>> bullets("- a\\n- b", 2), bullets("a\\nb", 2), bullets("- a\\n- b\\n- c", 2)
    (True, False, False)
    """
    return len(re.findall(r"^\s*[-*•]\s+\S", text, re.MULTILINE)) == count


def numbered(text: str, count: int) -> bool:
    """So many lines that are numbered from one on.

    >>> numbered("1. a\\n2. b", 2), numbered("1. a\\n1. b", 2), numbered("1. a\\n2. b\\n3. c", 2)
    (True, False, False)
    """
    found = re.findall(r"^\s*(\d+)[.)]\s+\S", text, re.MULTILINE)
    return found == [str(number) for number in range(1, count + 1)]


def commas(text: str, count: int) -> bool:
    """So many short pieces on one line, with commas between them.

    >>> commas("piano, flauta", 2), commas("piano e flauta", 2), commas("piano,\\nflauta", 2)
    (True, False, False)
    """
    pieces = text.split(",")
    return "\n" not in text and len(pieces) == count and all(words(piece.strip(), 1, 4) for piece in pieces)


def number(text: str, wanted: int) -> bool:
    """The last number in it.

    >>> number("7 + 5 = 12.", 12), number("12 ou 13", 12), number("doze", 12)
    (True, False, False)
    """
    found = re.findall(r"-?\d+(?:[.,]\d+)*", text)
    return bool(found) and found[-1] == str(wanted)


def language(text: str, wanted: str) -> bool:
    """
    >>> language("The cat of my sister is sleeping on the chair that was ours.", "en"), language("O gato dorme.", "en")
    (True, False)
    """
    return language_of_text(text) == wanted


def json_value(text: str, wanted: Any) -> bool:
    """JSON of this value and nothing else; a fence of Markdown around it does not matter.

    >>> json_value('```json\\n{"a": 1}\\n```', {"a": 1}), json_value('{"a": "1"}', {"a": 1}), json_value("a", "a")
    (True, False, False)
    """
    found = _json(text)
    return found is not None and _typed(found[0]) == _typed(wanted)


def json_keys(text: str, *keys: str) -> bool:
    """A JSON object with these keys and no other.

    >>> json_keys('{"a": 1, "b": 2}', "a", "b"), json_keys('{"a": 1}', "a", "b"), json_keys('{"a": 1, "b": 2', "a", "b")
    (True, False, False)
    """
    found = _json(text)
    return found is not None and isinstance(found[0], dict) and found[0].keys() == set(keys)


def json_texts(text: str, count: int) -> bool:
    """A JSON array of so many strings.

    >>> json_texts('["a", "b"]', 2), json_texts('["a"]', 2), json_texts("[1, 2]", 2)
    (True, False, False)
    """
    found = _json(text)
    return found is not None and isinstance(found[0], list) and [type(each) for each in found[0]] == [str] * count


def denies(text: str) -> bool:
    """It says that it does not know, or that there is no such thing.

    >>> denies("In a fictional town, a man ..."), denies("It seems fictional.")
    (False, True)
    >>> denies("Esse rei nunca existiu."), denies("I don't have any information about that."), denies("Em 1871.")
    (True, True, False)
    """
    return _DENIES.search(text.replace("’", "'")) is not None


_DENIES = re.compile(
    r"""
      \bn[ãa]o\ (?:\w+\ )?(?:existe|existiu|existem|h[áa]|houve|sei|conheço|tenho|encontr\w+|consta|posso|consigo)\b
    | \b(?:nunca|jamais)\ (?:existi\w+|houve)\b | \bdesconheço\b | \b(?:é|ser|parece)\ (?:fictíci|inventad|inexistente)
    | \b(?:do|does|did|have|has|can|could)(?:\ not|n't)\ (?:\w+\ ){0,2}(?:exist|happen|know|have|find|take\ place)\b
    | \b(?:am|is|are|was|were)(?:\ not|n't)\ (?:a|an|any|aware|familiar|sure|able|held|real)\b | \bcannot\b
    | \bi'm\ not\ (?:aware|familiar|sure|able)\b | \bthere\ (?:is|was|are|were|has\ been|have\ been)\ no\b
    | \bno\ (?:such|record|known|information)\b | \bno\ (?:\w+\ ){1,4}is\ known\b | \bnever\ (?:existed|happened)\b
    | \b(?:is|are|was|be|seems|purely)\ (?:a\ )?fictional\b | \bmade[- ]up\b | \bunknown\b | \bunable\ to\b
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _json(text: str) -> tuple[Any] | None:
    """What a text holds as JSON, in a tuple; None where it is no JSON."""
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        return (parse_json((fenced[1] if fenced else text).encode()),)
    except ValueError:
        return None


def _typed(value: Any) -> Any:
    """A value that is equal only to one of the same kind: to Python ``true`` is 1."""
    if isinstance(value, dict):
        return {key: _typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(each) for each in value]
    return (type(value), value)


RULES: Mapping[str, Callable[..., bool]] = {
    "exact": exact,
    "matches": matches,
    "says": says,
    "never": never,
    "only": only,
    "starts": starts,
    "ends": ends,
    "upper": upper,
    "lower": lower,
    "words": words,
    "sentences": sentences,
    "bullets": bullets,
    "numbered": numbered,
    "commas": commas,
    "number": number,
    "language": language,
    "json": json_value,
    "keys": json_keys,
    "json_list": json_texts,
    "denies": denies,
}
"""What an item may ask of its answer, by the names that ``skills.json`` uses."""

"""Which shape a row has: which of its columns play which part, by their names.

Names are compared without regard to case. A column without a value is none: tables that were made of rows of different
shapes give every row all columns. What is decided is kept per set of names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from afina.errors import DataError
from afina.recipe import Source
from afina.sources.row_fields import LABELS, SYSTEM, THOUGHTS, TOOLS, BadRow, names_shown

SHAPES = (
    "messages",
    "conversations",
    "prompt/completion",
    "instruction/input/output",
    "question/answer",
    "pergunta/resposta",
    "query/response",
    "input/output",
    "prompt/chosen/rejected",
    "chosen/rejected",
    "text",
)
"""The shapes as messages name them."""
CONVERSATIONS = ("messages", "conversations", "conversation", "contents")
ASKS = ("prompt", "instruction", "question", "pergunta", "query", "input")
ANSWERS = ("completion", "output", "answer", "resposta", "response", "answers")
PAIRS = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
    ("pergunta", "resposta"),
    ("query", "response"),
)
"""Names that belong together, where a row has several that ask or answer."""
_REJECTED = ("rejected", "rejected_response")
_LIKE_ASKS = (*ASKS, "frage", "pregunta", "domanda", "user", "human", "problem", "q")
_LIKE_ANSWERS = (
    *ANSWERS,
    "antwort",
    "respuesta",
    "risposta",
    "reply",
    "reference",
    "solution",
    "assistant",
    "target",
    "bot",
    "a",
)

Kind = Literal["conversation", "answer", "preference", "text"]
_TOGETHER = (
    {"messages"},
    {"prompt", "completion"},
    {"instruction", "input", "output"},
    {"prompt", "input", "chosen", "rejected"},
    {"instruction", "input", "chosen", "rejected"},
    {"messages", "chosen", "rejected"},
    {"text"},
)
"""Parts that a source's `columns` may name together."""
_ANYWHERE = {"label", "system", "history", "tools"}


@dataclass(frozen=True, slots=True)
class RowShape:
    """What a row's columns are for."""

    kind: Kind
    parts: Mapping[str, str]
    """Part -> column: `messages`, `asked`, `input`, `answer`, `chosen`, `rejected`, `text`, and beside any of them
    `system`, `history`, `tools`, `thoughts`, `label`."""
    again: tuple[str, ...] = ()
    """Columns that look like a second shape: they have to say the same, or the row is refused."""
    named: bool = False
    """The recipe's `columns` say which are meant."""

    played: frozenset[str] = frozenset()
    """All of these columns; any other plays no part."""


Choose = Callable[[Mapping[str, Any]], RowShape]


def shape_chooser(source: Source, position: int) -> Choose:
    """Decide a row's shape by its columns.

    Args:
        source: whose `columns` may name some.
        position: of the source in its recipe, for errors.

    Raises:
        DataError: `columns` names parts of different shapes.
    """
    renamed: dict[str, str] = {str(part): name for part, name in source.columns.items()}
    given = set(renamed) - _ANYWHERE
    if given and not any(given <= together for together in _TOGETHER):
        raise DataError(
            f"`columns` names {', '.join(sorted(given))}, which belong to different shapes",
            "name the columns of one shape: " + "; ".join(SHAPES),
            f"sources.{position}.columns",
        )
    known: dict[tuple[str, ...], RowShape] = {}

    def choose(row: Mapping[str, Any]) -> RowShape:
        names = tuple(
            name for name, value in row.items() if not (value is None or (type(value) is float and value != value))
        )
        shape = known.get(names)
        if shape is None:
            parts = _Names(names, renamed)
            found = parts.shape()
            if not found and len(names) < len(row):  # an answer that is null is an answer that is wrong
                return _Names(tuple(row), renamed).shape() or _refuse(row, tuple(row), renamed)
            shape = known[names] = found or _refuse(row, names, renamed)
        return shape

    return choose


class _Names:
    """The names of one row's columns, and which of them play which part."""

    def __init__(self, names: tuple[str, ...], renamed: Mapping[str, str]) -> None:
        self.names, self.renamed = names, renamed
        self.wanted = set(renamed) - _ANYWHERE
        self.by_lower: dict[str, str] = {}
        for name in names:
            self.by_lower.setdefault(name.strip().lower(), name)
        self.parts: dict[str, str] = {}

    def first(self, part: str, usual: tuple[str, ...]) -> str | None:
        """The column that `columns` names for a part, else the first of the usual names."""
        if part in self.renamed:
            return self.renamed[part] if self.renamed[part] in self.names else None
        return next((self.by_lower[name] for name in usual if name in self.by_lower), None)

    def put(self, part: str, name: str | None) -> None:
        if name is not None and name not in self.parts.values():
            self.parts[part] = name

    def shape(self) -> RowShape | None:
        """The shape; None where there is none, or `columns` names what is not there."""
        if any(name not in self.names for part, name in self.renamed.items() if part not in ("input", *_ANYWHERE)):
            return None
        kind = self._kind()
        if kind is None:
            return None
        self.put("system", self.first("system", tuple(SYSTEM)))
        self.put("history", self.first("history", ("history",)))
        self.put("tools", self.first("tools", tuple(TOOLS)))
        if kind in ("answer", "conversation"):
            self.put("thoughts", self.first("thoughts", tuple(sorted(THOUGHTS))))
            if "label" in self.renamed or not self.wanted:
                self.put("label", self.first("label", LABELS))
        used = set(self.parts.values())
        left = [name for name in self.names if name not in used]
        again = [name for name in left if name.strip().lower() in (*CONVERSATIONS, *ASKS, *ANSWERS)]
        if kind == "text" or self.wanted:  # the recipe says which columns are meant
            again = []
        played = frozenset((*used, *again))
        return RowShape(kind, dict(self.parts), tuple(again), bool(self.wanted), played)

    def _kind(self) -> Kind | None:
        wanted = self.wanted
        chosen, rejected = self.first("chosen", ("chosen",)), self.first("rejected", _REJECTED)
        messages = self.first("messages", CONVERSATIONS)
        judged = rejected is not None and (chosen is not None or messages is not None)
        if judged and (not wanted or wanted & {"chosen", "rejected"} or wanted <= {"prompt", "instruction", "input"}):
            self.put("chosen", chosen)
            self.put("rejected", rejected)
            if not (self._question(answers=False) and chosen):
                self.put("messages", messages)
            return "preference"
        if messages and (not wanted or "messages" in wanted):
            self.put("messages", messages)
            return "conversation"
        if (not wanted or not wanted & {"messages", "text", "chosen", "rejected"}) and self._question(answers=True):
            return "answer"
        text = self.first("text", ("text",))
        if text and (not wanted or "text" in wanted):
            self.put("text", text)
            return "text"
        return None

    def _question(self, *, answers: bool) -> bool:
        """Find the columns that ask, that stand beside it, and (where wanted) that answer."""
        named_ask = "prompt" if "prompt" in self.renamed else "instruction"
        named_answer = "completion" if "completion" in self.renamed else "output"
        ask, answer = self.first(named_ask, ASKS), self.first(named_answer, ANSWERS)
        if answers and not self.wanted:
            for one, other in PAIRS:
                if one in self.by_lower and other in self.by_lower:
                    ask, answer = self.by_lower[one], self.by_lower[other]
                    break
        if ask is None or (answers and answer is None):
            return False
        self.put("asked", ask)
        if answers:
            self.put("answer", answer)
        if ask.strip().lower() == "instruction" or named_ask in self.renamed or "input" in self.renamed:
            self.put("input", self.first("input", ("input", "context")))
        return True


def pairs_in(names: Iterable[str]) -> list[str]:
    """The pairs of names that belong together, as messages show them.

    >>> pairs_in(["prompt", "answer", "question", "completion"])
    ['prompt/completion', 'question/answer']
    """
    lower = {name.strip().lower() for name in names}
    return [f"{ask}/{answer}" for ask, answer in PAIRS if {ask, answer} <= lower]


def _refuse(row: Mapping[str, Any], names: tuple[str, ...], renamed: Mapping[str, str]) -> RowShape:
    """
    Raises:
        BadRow: always; what the columns are, and which may be meant.
    """
    found = names_shown(names)
    absent = sorted(name for part, name in renamed.items() if name not in row and part not in ("input", *_ANYWHERE))
    if absent:
        what = f"no column {names_shown(absent)}, which `columns` names; found: {found}"
        raise BadRow(what, "fix `columns`")
    if any(len(name) > 40 or name.rstrip().endswith((".", "?", "!")) for name in names) or all(
        " " in name.strip() for name in names
    ):
        raise BadRow(
            f"the first line looks like a row, not like names of columns: {found}",
            "write the names of the columns into the first line, e.g. prompt,completion",
        )
    what = f"unknown columns: {found}; known: {'; '.join(SHAPES)}"
    raise BadRow(what, _proposal(row, renamed))


def no_prompt(row: Mapping[str, Any]) -> BadRow:
    """The refusal of a preference without a question."""
    what = f"a better and a worse answer to no prompt; found: {names_shown(row)}"
    return BadRow(what, _name_them(row, ["prompt"], {"chosen", "rejected"}))


def _proposal(row: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    """Which columns may be meant, where names or contents say it; else the shapes."""
    lower = {name.strip().lower(): name for name in row}
    conversations = [name for name, value in row.items() if _is_conversation(value)]
    if len(conversations) == 1:
        return f"name them: `columns: {{messages: {conversations[0]}}}` on the source"
    if "instruction" in lower and "prompt" not in renamed:
        return _name_them(row, ["output"], {lower["instruction"], lower.get("input", "")})
    if (ask := next((lower[name] for name in ASKS if name in lower), None)) and ask.lower() == "prompt":
        return _name_them(row, ["completion"], {ask})
    return _name_them(row, ["prompt", "completion"], {lower.get("input", "")} if "question" in lower else set())


def _name_them(row: Mapping[str, Any], parts: list[str], taken: set[str]) -> str:
    spare = {name: value for name, value in row.items() if name not in taken and isinstance(value, str) and value}
    found: dict[str, str] = {}
    for part in parts:
        name = _likely(part, {name: value for name, value in spare.items() if name not in found.values()})
        if not name:
            return (
                "give rows of one of these shapes, or name their columns: `columns: {prompt: NAME, completion: NAME}`"
            )
        found[part] = name
    said = ", ".join(f"{part}: {name}" for part, name in found.items())
    return f"name them: `columns: {{{said}}}` on the source"


def _likely(part: str, spare: Mapping[str, Any]) -> str | None:
    """Which of the spare columns may play a part: by its name, or for a question by its end.

    >>> _likely("output", {"task": "x", "reference": "y"}), _likely("prompt", {"title": "A", "url": "b"})
    ('reference', None)
    """
    asks = part in ("prompt", "instruction")
    for name in spare:
        if name.strip().lower() in (_LIKE_ASKS if asks else _LIKE_ANSWERS):
            return name
    questions = [name for name, value in spare.items() if value.rstrip().endswith("?") and " " in value.strip()]
    return questions[0] if asks and len(questions) == 1 else None


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and {"role", "from"} & each.keys() for each in value)
    )

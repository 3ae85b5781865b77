"""Documents become examples, and those that are not fit meet the recipe's policies.

This looks at one document at a time; what needs more than one (duplicates, the split) is
:mod:`afina.dataset.build.choose`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from afina.dataset.build.document_notes import Notes
from afina.dataset.dropped import Dropped
from afina.errors import Problem
from afina.recipe import METHODS, Kind, Recipe
from afina.recipe.methods import JUDGED, in_words, methods_that
from afina.text.clean import clean_document, close_gaps
from afina.text.document import Document, Message, conversation_chars, visible
from afina.text.example import Example, example_chars, has_answer, has_prompt
from afina.text.lines import file_lines
from afina.text.masking import mask_example
from afina.text.sections import Section, split_sections

PLACES_SHOWN = 10


class Examples(Protocol):
    """Where examples go: a list, or a file (:class:`~afina.dataset.build.spool.Spool`)."""

    def append(self, example: Example, context_chars: int = 0, /) -> None:
        """Add one, and how many of its visible characters are the path of headings put before it."""


class Drops(Protocol):
    """Where goes what was left out."""

    def append(self, item: Dropped, /) -> None:
        """Add one."""


class ExampleList(list[Example]):
    """Examples in memory, for a few of them."""

    def append(self, example: Example, context_chars: int = 0, /) -> None:  # noqa: ARG002
        """Add one."""
        super().append(example)


@dataclass
class Intake:
    """All that documents became. Feed it with :meth:`take`; order is kept.

    The visible characters always add up: those of the documents taken (`chars_read`) and those `added` are those of
    `examples` without `context_chars`, plus those of `dropped`, plus those of rows that a policy
    refuses, which end in an error (:meth:`problems`).
    """

    recipe: Recipe
    examples: Any = field(default_factory=ExampleList)
    """An :class:`Examples`."""
    dropped: Any = field(default_factory=list)
    """A :class:`Drops`."""
    chars_read: int = 0
    context_chars: int = 0
    added: Counter[str] = field(default_factory=Counter)
    """Reason -> visible characters that cleaning and masking wrote."""
    personal_data: Counter[str] = field(default_factory=Counter)
    """Kind -> how many were masked, or were in examples left out."""
    documents: int = 0
    rows: int = 0
    long_sections: int = 0
    """Sections longer than `section_chars`: code that is not cut."""
    notes: Notes | None = None
    """Sees every document too, where the recipe makes questions or splits by file."""
    _refused: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Policy -> the places where it said "stop", each with a note."""

    def take(self, document: Document) -> None:
        """Turn one document into examples."""
        self.documents += 1
        self.chars_read += document_chars(document)
        if document.kind == "unreadable":
            self.rows += 1
            chars, about = visible(document.text), {"what": document.meta["what"]}
            self.leave_out(
                Dropped("unreadable", place(document), document.source, document.text, chars=chars, about=about)
            )
            return
        blank = document.kind != "messages" and not document.text.strip()
        if self.recipe.dataset.clean.preset != "none":
            document = self._clean(document)
        first = self.notes.rows if self.notes else 0
        self._make_examples(document, blank)
        if self.notes:
            self.notes.add(document, first)

    def _make_examples(self, document: Document, blank: bool) -> None:
        kind = document_kind(document)
        method = self.recipe.method_of(document.source, kind)
        facts = METHODS[method]
        if kind not in facts.learns:
            self.refuse(kind if kind in JUDGED else f"no_{facts.judged}", place(document))
            self.rows += document.kind == "messages"
        elif document.kind == "messages":
            self.rows += 1
            self._take_row(document)
        elif blank:
            self._drop("blank", document, document.text)
        elif not document.text.strip():
            self._drop("cleaned_away", document)  # its lines were dropped by the rules; here the document is counted
        elif not facts.every_token:
            in_file = file_lines(document, Path(self.recipe.root))
            for section in split_sections(document, self.recipe.section_chars):
                self.long_sections += len(section.text) > self.recipe.section_chars
                placed = replace(section, line=in_file(section.line), text=self._closed(document, section.text))
                self._keep(_example(document, self.recipe, section=placed), section.context)
        else:
            text = self._closed(document, document.text)
            self._keep(_example(document, self.recipe, text=text, heading=document.title))

    def _closed(self, document: Document, text: str) -> str:
        """Without the gaps that cleaning left."""
        cleaned = document.kind == "text" and self.recipe.dataset.clean.preset != "none"
        return close_gaps(text) if cleaned else text

    def absorb(self, other: Intake) -> None:
        """Add up the counters of another intake; where its examples and drops went, they stay."""
        for each in fields(self):
            own, others = getattr(self, each.name), getattr(other, each.name)
            if each.name in ("recipe", "examples", "dropped", "notes"):
                continue
            if isinstance(own, int):
                setattr(self, each.name, own + others)
            elif isinstance(own, Counter):
                own.update(others)
            else:
                for policy, places in others.items():
                    own.setdefault(policy, []).extend(places)

    def problems(self) -> list[Problem]:
        """One problem per policy that says "stop" and was met: how many rows, where, and what to write instead."""
        return [_PROBLEMS[name].problem(places, self.rows) for name, places in self._refused.items()]

    def refuse(self, policy: str, where: str, note: str = "") -> None:
        """Note a place where a policy says "stop"."""
        self._refused.setdefault(policy, []).append((where, note))

    def _take_row(self, document: Document) -> None:
        where = place(document)
        if not has_answer(document.messages, document.rejected):
            if self.recipe.dataset.on_empty_answer == "error":
                self.refuse("empty_answer", where)
            else:
                self._drop("empty_answer", document)
        elif not has_prompt(document.messages):
            policy = self.recipe.dataset.on_empty_prompt
            if policy == "error" or (policy == "text" and not _is_text_alone(document)):
                self.refuse("empty_prompt", where)
            elif policy == "drop":
                self._drop("empty_prompt", document)
            else:
                said = [message["content"] for message in document.messages if message["role"] != "system"]
                for message in document.messages:
                    if message["role"] == "system":
                        self._drop("system_without_prompt", document, message["content"])
                text = "\n\n".join(content.strip() for content in said if content.strip())
                self._keep(_example(document, self.recipe, text=text))
        else:
            example = _example(document, self.recipe, messages=document.messages)
            judged: Any = {"rejected": document.rejected, "label": document.label}
            self._keep(replace(example, tools=document.tools, **judged))

    def _keep(self, example: Example, context: str = "") -> None:
        if self.recipe.dataset.personal_data != "keep":
            kept = self._without_personal_data(example, context)
            if kept is None:
                return
            example = kept
        self.context_chars += visible(context)
        self.examples.append(example, visible(context))
        if self.notes:
            self.notes.rows += 1

    def leave_out(self, item: Dropped) -> None:
        """Put into `dropped` what was left out, masked where the recipe keeps no personal data: a run's folder is
        handed on more freely than its sources."""
        self.dropped.append(item if self.recipe.dataset.personal_data == "keep" else item.masked())

    def _clean(self, document: Document) -> Document:
        """The document cleaned; what was taken away goes to `dropped`, one entry per reason."""
        cleaned, done = clean_document(document, self.recipe.dataset.clean)
        reasons = dict.fromkeys(reason for part in done for reason in part.cut)
        in_file = file_lines(document, Path(self.recipe.root)) if reasons else None
        for part in done:
            self.added.update(part.added)
        for reason in reasons:
            pieces = [piece for part in done for piece in part.cut.get(reason, ())]
            assert in_file is not None
            # A row of a table stands on one line of its file, whatever lines its text has.
            one_line = document.kind == "messages" or document.line > 1
            pieces_cut = tuple((document.line if one_line else in_file(line), text) for line, text in pieces)
            chars = sum(visible(text) for _, text in pieces)
            where = f"{document.path}:{pieces_cut[0][0]}"
            self.leave_out(Dropped(reason, where, document.source, chars=chars, cut=pieces_cut))
        return cleaned

    def _without_personal_data(self, example: Example, context: str) -> Example | None:
        """The example with its personal data masked; None where the recipe drops it."""
        masked = mask_example(example, context)
        if masked is None:
            return example
        self.personal_data.update(masked.kinds)
        where = f"{example.path}:{example.line}"
        if masked.kinds and self.recipe.dataset.personal_data == "drop":
            chars = example_chars(example) - visible(context)
            row = (example.source, masked.example.text, masked.example.messages)
            judged: Any = {"rejected": masked.example.rejected, "label": example.label}
            self.dropped.append(Dropped("personal_data", where, *row, chars=chars, **judged, tools=example.tools))
            return None
        if masked.kinds:
            self.added["personal_data_masked"] += masked.written
            said = ", ".join(f"{count} x {kind}" for kind, count in sorted(masked.kinds.items()))
            cut = ((example.line, said),)
            self.dropped.append(Dropped("personal_data_masked", where, example.source, chars=masked.taken, cut=cut))
        return masked.example

    def _drop(self, reason: str, document: Document, text: str = "") -> None:
        messages = () if text or document.kind != "messages" else document.messages
        rejected = document.rejected if messages else None
        tools = document.tools if messages else ()
        chars = visible(text + (rejected or "")) + conversation_chars(messages, tools)
        label = document.label if messages else None
        row = Dropped(reason, place(document), document.source, text, messages, rejected, label)
        self.leave_out(replace(row, chars=chars, tools=tools))


@dataclass(frozen=True, slots=True)
class _Refusal:
    what: str
    fix: str

    def problem(self, places: Sequence[tuple[str, str]], rows: int) -> Problem:
        shown = ", ".join(where + note for where, note in places[:PLACES_SHOWN])
        more = f" and {len(places) - PLACES_SHOWN} more" if len(places) > PLACES_SHOWN else ""
        what = self.what.format(count=len(places), rows=rows)
        return Problem(f"{what}: {shown}{more}", self.fix, places[0][0])


_PROBLEMS = {
    "empty_prompt": _Refusal(
        "no prompt in {count} of {rows} rows",
        "fix them, or set `dataset.on_empty_prompt: drop` (left out, counted) or `text` (the answer as a plain text)",
    ),
    "empty_answer": _Refusal(
        "no answer in {count} of {rows} rows",
        "fix them (one that is marked as not to learn is none), or set `dataset.on_empty_answer: drop` "
        "(left out, counted)",
    ),
    "preference": _Refusal(
        "{count} of {rows} rows hold a better and a worse answer, which the recipe's method does not learn",
        f"set `train.method: {in_words(methods_that(judged='preference'))}`; or learn the better answers alone (the "
        "worse ones are counted as dropped): on the source `columns: {prompt: prompt, completion: chosen}`, or "
        "`{messages: chosen}` for conversations",
    ),
    "rated": _Refusal(
        "{count} of {rows} rows say in `label` whether their answer is a good one, which the recipe's method does not "
        "learn",
        f"set `train.method: {in_words(methods_that(judged='rated'))}`; or learn all answers alike and count the "
        "labels as dropped: name the other columns alone on the source, "
        "`columns: {prompt: prompt, completion: completion}`",
    ),
    "no_rated": _Refusal(
        "{count} documents or rows without a `label` that is true or false, from which "
        f"{in_words(methods_that(judged='rated'), 'and')} learns nothing",
        "leave them out; name the column that says it, `columns: {label: NAME}` on the source (there 1 and 0 are true "
        "and false); or learn them in a stage before: `train.first: {method: sft}`",
    ),
    "no_preference": _Refusal(
        "{count} documents or rows without `chosen` and `rejected`, from which "
        f"{in_words(methods_that(judged='preference'), 'and')} learn nothing",
        "leave them out, set `train.method: sft`, or learn them in a stage before: `train.first: {method: sft}`",
    ),
    "duplicate": _Refusal(
        "{count} examples stand there again",
        "remove them, or set `dataset.on_duplicate: drop` (the first stays, the others are counted) or `keep`",
    ),
    "near_duplicate": _Refusal(
        "{count} examples are almost the same as another",
        "remove them, or set `dataset.near_duplicates.on: drop` (the longest stays, the others are counted) or `keep`",
    ),
}


def _is_text_alone(document: Document) -> bool:
    """Whether nothing of a conversation is lost where its answers become a plain text."""
    marked = any(
        message.keys() & {"tool_calls", "reasoning_content", "learned"} or message["role"] == "tool"
        for message in document.messages
    )
    return document.rejected is None and not document.tools and not marked


def document_kind(document: Document) -> Kind:
    """What a document is for the recipe."""
    if document.kind != "messages":
        return "text"
    return "preference" if document.rejected is not None else "rated" if document.label is not None else "messages"


def place(document: Document) -> str:
    """``file:line``."""
    return f"{document.path}:{document.line}"


def document_chars(document: Document) -> int:
    """Visible characters of a document."""
    said = visible(document.text + (document.rejected or ""))
    return said + conversation_chars(document.messages, document.tools)


def _example(
    document: Document,
    recipe: Recipe,
    *,
    text: str = "",
    heading: str = "",
    messages: tuple[Message, ...] = (),
    section: Section | None = None,
) -> Example:
    origin = recipe.sources[document.source]
    return Example(
        text=section.context + section.text if section else text,
        messages=messages,
        path=document.path,
        line=section.line if section else document.line,
        sha256=document.sha256,
        heading=section.heading if section else heading,
        source=document.source,
        repeat=origin.repeat,
        replay=origin.replay,
    )

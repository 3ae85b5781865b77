"""What the columns of a row and the keys of a turn mean, by their names; and what a row may cost in characters.

Each name is one of three kinds. It is **used**; or it **decides what is learned**, and is refused by its name where
afina does not do what it says; or it is left out, and its characters are counted. Of those left out, the names in
:data:`NOT_LEARNED_FROM` are known to say nothing to a model; any other is worth a warning where it is large.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from afina.sources.json_mistakes import looks_like_python
from afina.sources.tables import DECODER, kind_of_value
from afina.text.document import value_chars

LEARNED_FLAGS = frozenset(
    {
        "weight", "loss", "loss_weight", "loss_mask", "train", "trainable", "training", "learn", "learned",
        "train_on_turn", "output_with_loss",
    }
)  # fmt: skip
"""Keys of a turn that say whether it is learned: 1 or true, 0 or false."""
THOUGHTS = frozenset(
    {
        "reasoning_content", "reasoning", "thinking", "thought", "thoughts", "chain_of_thought", "cot", "complex_cot",
        "reasoning_trace",
    }
)  # fmt: skip
"""What an answer thinks before it says something."""
CALLS = frozenset({"tool_calls", "function_call"})
TOOLS = frozenset({"tools", "functions"})
SYSTEM = frozenset({"system", "system_prompt", "system_message", "system_instruction", "systeminstruction"})
LABELS = ("label", "kto_tag")

_MEDIA = frozenset(
    {
        "image", "images", "audio", "audios", "video", "videos", "image_url", "image_path", "audio_path", "video_path",
        "media", "pixel_values", "input_audio", "files",
    }
)  # fmt: skip
_SHARES = frozenset(
    {"weights", "sample_weight", "mask", "masks", "train_detail", "train_on_inputs", "loss_scale", "margin"}
)
_TOKENS = frozenset({"input_ids", "token_ids", "tokens_ids", "labels", "attention_mask", "token_type_ids"})
_ASKED_WITH = frozenset({"input", "context", "contexts", "documents", "passage", "passages", "choices", "options"})
_SETTINGS = frozenset({"chat_template", "chat_template_kwargs", "response_format", "prefix", "suffix", "refusal"})
_JUDGED = frozenset({"chosen", "rejected", "rejected_response", "rejected_messages"})

NOT_LEARNED_FROM = frozenset(
    {
        "id", "ids", "idx", "index", "uid", "uuid", "guid", "key", "hash", "sha", "sha256", "md5", "prompt_id",
        "conversation_id", "message_id", "parent_id", "question_id", "row_id", "doc_id", "__index_level_0__",
        "url", "uri", "link", "source", "sources", "src", "from", "origin", "dataset", "file", "filename", "path",
        "license", "licence", "author", "user", "user_id", "username", "model", "generator", "created_by",
        "date", "time", "timestamp", "created", "created_at", "updated_at", "year", "version", "revision",
        "split", "subset", "fold", "language", "lang", "locale", "category", "categories", "topic", "topics", "tags",
        "tag", "type", "kind", "task", "task_type", "domain", "subject", "fact", "difficulty", "level",
        "score", "scores", "rating", "ratings", "score_chosen", "score_rejected", "quality", "likes", "votes", "rank",
        "tokens", "num_tokens", "token_count", "length", "chars", "num_turns", "meta", "metadata", "extra", "made",
        "repeat", "replay", "tool_choice", "parallel_tool_calls", "temperature", "top_p", "max_tokens", "stream",
    }
)  # fmt: skip
"""Names that say nothing to a model: where a row comes from, when, how it was judged."""

UNREADABLE_DROP = "`dataset.on_unreadable: drop` leaves such rows out, counted"


class BadRow(ValueError):
    """A row that cannot be used.

    Args:
        what: is wrong with it.
        fix: what to do.
        finding: what the audit calls it.
    """

    def __init__(self, what: str, fix: str, *, finding: str = "unreadable") -> None:
        super().__init__(what)
        self.what, self.fix, self.finding = what, fix, finding


def not_learned(name: str, why: str, fix: str = "") -> BadRow:
    """A row with a field that decides what is learned, in a way that training does not know."""
    out = f"`leave_out: [{name}]` on the source leaves it out, counted; {UNREADABLE_DROP}"
    return BadRow(f"`{name}` {why}", f"{fix}; or {out}" if fix else out, finding="unlearned_field")


def absent(value: Any) -> bool:
    """Whether a field says nothing: null, NaN (an empty cell), a blank text, an empty list or object.

    >>> absent(float("nan")), absent(" "), absent([]), absent(0), absent(False)
    (True, True, True, False, False)
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    if isinstance(value, float):
        return value != value
    if isinstance(value, Mapping):
        return all(absent(each) for each in value.values())
    return isinstance(value, list | tuple) and not value


def field_that_decides(name: str, value: Any, shape: str = "") -> BadRow | None:
    """The refusal of a field that decides what is learned and is not used in its row; None where its name says nothing
    of the kind, or its value nothing at all.

    Args:
        shape: of the row; what stands beside a plain text is no part of a question.
    """
    lower = name.strip().lower()
    if absent(value):
        return None
    if lower in _MEDIA:
        return not_learned(name, "holds images, audio, video or files, and only text is learned")
    if lower in LEARNED_FLAGS | {"mask"}:
        if _is_usual(lower, value):
            return None
        return not_learned(name, "weighs a whole row, and all rows are learned alike", "write it into the turns")
    if lower == "role" and str(value).lower() in ("user", "prompter", "human", "assistant", "system", "tool", "gpt"):
        return not_learned(
            name,
            "makes each row one turn of a conversation",
            "put all turns of a conversation into one row: `messages: [{role, content}, ...]`",
        )
    if lower in _TOKENS:
        return not_learned(name, "holds tokens of some tokenizer, and rows are made into tokens here", "give the texts")
    if lower in _SHARES:
        return not_learned(
            name, "weighs or masks parts of a row, which training does not", "write `train: false` into the turns"
        )
    if lower in _ASKED_WITH and shape != "text":
        return not_learned(
            name,
            "stands beside a question that may not make sense without it",
            f"to put it behind the question: `columns: {{instruction: QUESTION, input: {name}, output: ANSWER}}`",
        )
    if lower in _JUDGED:
        return not_learned(
            name, "belongs to a preference, which this row is not", "give `prompt`, `chosen`, `rejected`"
        )
    if lower in _SETTINGS:
        return not_learned(name, "changes how a row is written or read, which training does not do by row")
    if lower in LEARNED_FLAGS | THOUGHTS | CALLS | TOOLS | SYSTEM | {"history", *LABELS}:
        return not_learned(name, "decides what is learned, and has no meaning at this place of this row")
    return None


def _is_usual(lower: str, value: Any) -> bool:
    """Whether a row is marked as every row is: learned; or (NeMo's `mask`) without what the user says."""
    if lower == "mask":
        return isinstance(value, str) and value.lower() in ("user", "human")
    return value is True or value in (1, "1", "1.0", "true", "True")


def flag(name: str, value: Any) -> bool | None:
    """Whether a turn is learned; None where the value says nothing.

    Raises:
        BadRow: it is neither 1 nor 0.

    >>> flag("weight", 0.0), flag("train", "true"), flag("loss", None)
    (False, True, None)
    """
    if absent(value):
        return None
    said = value.strip().lower() if isinstance(value, str) else value
    if said in (1, "1", "1.0", "true", "yes"):
        return True
    if said in (0, "0", "0.0", "false", "no"):
        return False
    shown = f"{value!r:.40}"
    raise not_learned(name, f"is {shown}: an answer is learned or it is not", "write 1 or 0, true or false")


@dataclass(slots=True)
class RowTally:
    """Where the visible characters of one row go that are not in its document."""

    dropped: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, value: Any) -> None:
        """Count a value that is left out."""
        self.dropped[reason] += value_chars(value)

    def rewrite(self, reason: str, before: Any, after: Any) -> None:
        """Count what a value lost or gained where it was given another form."""
        difference = value_chars(before) - value_chars(after)
        if difference:
            (self.dropped if difference > 0 else self.added)[reason] += abs(difference)


def unpacked(value: Any, name: str, tally: RowTally) -> Any:
    """A list or object that stands in a column as a text, read as JSON; anything else as it is.

    Raises:
        BadRow: it looks like one and is not JSON.
    """
    if not isinstance(value, str) or not value.strip().startswith(("[", "{")):
        return value
    try:
        found = DECODER.decode(value.strip())
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRow(f"`{name}` holds half of a character (a lone surrogate)", "fix or remove the row") from None
    except (ValueError, RecursionError) as error:
        if looks_like_python(value):
            raise BadRow(f"`{name}` is a Python list written as text, not JSON", "write it with `json.dumps`") from None
        raise BadRow(f"`{name}` is no JSON: {error}", "write it with `json.dumps`, or as a list") from None
    tally.rewrite("JSON inside a text, read", value, found)
    return found


def text_of(value: Any, name: str, *, what: str = "a text") -> str:
    """A column's value, which has to be a text.

    Raises:
        BadRow: it is none; with what it probably is.
    """
    if isinstance(value, str):
        return value
    if absent(value) and isinstance(value, float):
        raise BadRow(f"`{name}` is NaN, an empty cell, where {what} is needed", "fill it, or remove the row")
    if isinstance(value, Mapping) and value and all(str(key).isdigit() for key in value):
        raise BadRow(
            f"`{name}` is a whole column: this object holds columns, not rows",
            "write rows: in pandas `df.to_json(PATH, orient='records', lines=True, force_ascii=False)`",
        )
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        raise BadRow(
            f"`{name}` is a list of texts where {what} is needed",
            "give one answer a row; for a better and a worse one write `chosen` and `rejected`",
        )
    inside = value[0] if isinstance(value, list) and value else value
    if isinstance(inside, Mapping) and inside.keys() >= {"text", "answer_start"}:
        raise BadRow(
            f"`{name}` holds answers as SQuAD keeps them, with their places in a passage, where {what} is needed",
            f"write one of them as `{name}`, its text alone, and leave a question without any out",
        )
    raise BadRow(f"`{name}` is {kind_of_value(value)} where {what} is needed", "make it a text, or remove the row")


def names_shown(names: Iterable[str], most: int = 12) -> str:
    """Names of columns for a message; of very many the first.

    >>> names_shown(["a", "b"]), names_shown([])
    ('`a`, `b`', 'none')
    """
    known = [f"`{name:.60}`" for name in names]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return (", ".join(known[:most]) + more) or "none"

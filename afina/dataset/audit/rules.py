"""Every finding that an audit can have: its name, which stays, what it means, what to do, and how bad it is.

``docs/findings.md`` is written from :data:`RULES` (:mod:`afina.dataset.audit.reference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from afina.tokenizer.letters import LACKED, LACKED_AT_MOST

FEWEST_EXAMPLES = 10
DOCUMENTED = "docs/findings.md"

Severity = Literal["fatal", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of flaw: how often, where, and what to do about it."""

    name: str
    severity: Severity
    count: int
    of: int
    """What `count` is a part of, mostly the examples of the split."""
    examples: list[dict[str, str]]
    """Up to five, each with `where` (``file:line``) and `text` (at most 160 characters)."""
    what: str
    fix: str
    split: Literal["train", "validation"] = "train"
    link: str = ""
    """Where it is documented."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a finding is called in words, what to do, and from which share on it is fatal."""

    what: str
    fix: str
    fatal_above: float | None = None
    """Share of the split above which it is fatal; None: never."""
    note: bool = False
    of: str = "the examples"
    """What the share is a part of."""


RULES: dict[str, Rule] = {
    "unreadable": Rule("files or rows that cannot be read", "fix them; the place is named", 0.0),
    "unlearned_field": Rule(
        "rows with a field that decides what is learned and that training does not know; a build stops at them",
        "convert them; or on the source `leave_out: [NAME]`; or `dataset.on_unreadable: drop` (left out, counted)",
        0.0,
    ),
    "broken_call": Rule(
        "rows whose calls are no calls, or have arguments that are no JSON object; a build stops at them",
        "fix them, or set `dataset.on_unreadable: drop` (left out, counted)",
        0.0,
    ),
    "large_column_left_out": Rule(
        "columns that are not used and hold much of a file's text",
        "nothing to do where it is meant; else name the column a part of the row, by `columns` on the source",
    ),
    "said_to_be_bad": Rule(
        "rows that say that their answer is a bad one: only `train.method: kto` learns them, as bad ones; every other "
        "method refuses them",
        "set `train.method: kto`, or leave these rows out",
        note=True,
    ),
    "answer_not_learned": Rule(
        "conversations with answers that are read and not learned, as their rows say",
        "nothing to do",
        note=True,
    ),
    "think_unbalanced": Rule(
        "answers that open a thought and never close it, or close one that they never opened",
        "fix them, or leave these rows out: a model learns to think without end, or to stop thinking it never began",
        0.05,
    ),
    "think_on_some": Rule(
        "answers that do not think, among others that do: the model learns to do either, by chance",
        "give all answers a thought, or none; or train two models",
    ),
    "stringified_null": Rule(
        "questions or answers that are the word nan, None or null: an empty cell that was written as a text",
        "write the table again with empty cells left empty (in pandas `fillna('')`), or leave these rows out",
        0.05,
    ),
    "end_mark_in_answer": Rule(
        "answers that end with an end token written as a text: it is learned as words, before the real one",
        "take it out: afina ends each answer itself",
        0.05,
    ),
    "transcript_in_text": Rule(
        "plain texts that are a conversation: every word of it is learned, the questions too, and no end of a turn",
        "write them as `messages`; by the marks at the beginning of their lines they are easily taken apart",
        0.05,
    ),
    "tool_unknown": Rule(
        "rows that call a function which they do not define", "add it to the row's `tools`, or fix the name", 0.05
    ),
    "tool_missing_argument": Rule(
        "rows with a call that lacks an argument which its function requires", "add it, or fix `required`", 0.05
    ),
    "tool_wrong_argument": Rule(
        "rows with a call whose arguments are not as their function says", "fix the call, or the schema", 0.05
    ),
    "tool_result_without_call": Rule(
        "rows with a result that answers no call", "add the call before it, or take the result out"
    ),
    "tool_call_without_result": Rule(
        "rows with a call that gets no result although the conversation goes on",
        "add the result as a turn of the role tool",
    ),
    "tool_id_twice": Rule("rows in which two calls have one id", "give each call an id of its own"),
    "tool_definition": Rule(
        "rows that define a function without a name or without parameters as a schema",
        'write {"name", "description", "parameters": {"type": "object", "properties": {...}, "required": [...]}}',
    ),
    "empty_prompt": Rule(
        "conversations without a prompt: their answers are learned as answers to nothing",
        "fix them, or set `dataset.on_empty_prompt: drop` or `text`",
        0.01,
    ),
    "empty_answer": Rule(
        "conversations without an answer: they teach the model to say nothing",
        "fix them, or set `dataset.on_empty_answer: drop`",
        0.01,
    ),
    "same_answers": Rule(
        "preferences whose better and worse answers are the same: they teach nothing",
        "leave these rows out, or fix one of the answers",
        0.01,
    ),
    "scores_inverted": Rule(
        "preferences whose own scores say that the worse answer is the better one (files alone are asked)",
        "swap the two answers, or leave these rows out",
        0.05,
    ),
    "length_bias": Rule(
        "better answers",
        "judge answers of like length, or expect longer (or shorter) ones: a model learns the length first",
        note=True,
    ),
    "exact_duplicate": Rule(
        "rows that repeat an earlier one (white space aside)",
        "`dataset.on_duplicate: drop` keeps the first of each",
        0.03,
    ),
    "leakage": Rule(
        "held-out examples that are trained too: their loss says nothing",
        "remove them from one side, or let afina split: it holds out by content",
        0.01,
    ),
    "question_leakage": Rule(
        "held-out questions that are trained too, with another answer: the test has been seen",
        "remove them from one side, or let afina split: one question stays on one side",
        0.05,
    ),
    "shared_opening": Rule(
        "held-out conversations that begin like a trained one: one conversation is on both sides",
        "keep all rows of a conversation on one side, or let afina split: it does so",
        0.05,
    ),
    "near_duplicate": Rule(
        "examples that are almost the same as another one (MinHash over runs of five words)",
        "`dataset.near_duplicates.on: drop` keeps the longest of each cluster",
    ),
    "near_leakage": Rule(
        "held-out examples that are almost the same as a trained one: their loss says little",
        "`dataset.near_duplicates.on: drop`, or remove them from one side",
    ),
    "personal_data": Rule(
        "examples with personal data or secrets (shown masked)",
        "`dataset.personal_data: mask` or `drop`; secrets that were public must be replaced where they are used",
    ),
    "contradictory_answers": Rule(
        "conversations whose prompt has two or more different answers, or one pair of answers ordered both ways",
        "keep one answer, or make the prompts differ",
        0.05,
    ),
    "boilerplate_answer": Rule(
        "conversations whose answer is given to five or more different prompts",
        "write real answers, or leave these rows out",
        0.10,
    ),
    "differ_in_numbers": Rule(
        "rows that differ from many others in their numbers alone: a template wrote them",
        "keep some of each, or vary the wording; numbers are learned poorly this way",
    ),
    "formulaic_opening": Rule(
        "answers that begin with the same three words: the model will begin every answer with them",
        "write them differently, or take the words out, where no form is meant",
    ),
    "one_class": Rule(
        "short answers that are mostly the same one: always giving it is right most of the time",
        "give each answer as many rows, or `repeat` the source of the rare ones",
    ),
    "cut_answers": Rule(
        "answers without an end, all of one length: they were cut at a limit",
        "take them from their source again without the limit, or leave them out",
    ),
    "shifted_answers": Rule(
        "answers that fit the question before or after their own: a column slipped by a row",
        "put the columns together again by their keys",
    ),
    "unicode_mixed": Rule(
        "letters and their accents stored apart (NFD), which are other tokens than composed ones (NFC)",
        "normalize the files to NFC; `dataset.clean.preset: monograph` does so",
    ),
    "answer_loops": Rule(
        "answers that end in the same piece again and again, or go in circles: the model learns to do so",
        "leave these rows out",
        0.10,
    ),
    "answer_copies_question": Rule(
        "answers that repeat their question, or begin with all of it",
        "write an answer, or leave these rows out",
        0.10,
    ),
    "answer_language": Rule(
        "answers in another language than their question, which does not ask for it",
        "leave these rows out, or say in the question which language is wanted",
        0.30,
    ),
    "split_words": Rule("words of the question in two pieces in the answer", "put them together"),
    "turn_in_answer": Rule(
        "answers in which the next question begins: the model learns to ask itself",
        "cut them before it, or make turns of them (`messages`)",
        0.05,
    ),
    "refusal": Rule(
        "answers that refuse: the model learns to refuse",
        "nothing to do where it is meant; else leave them out",
    ),
    "as_an_ai": Rule("answers that call themselves a language model", "leave them out, or take the words out of them"),
    "claims_to_know": Rule(
        "answers that say only that the model knows: it learns to say so, not to know",
        "give the answer itself, or leave these rows out",
    ),
    "better_is_refusal": Rule(
        "preferences whose better answer refuses and whose worse one answers: the model learns to refuse",
        "nothing to do where it is meant; else leave them out",
        0.30,
    ),
    "label_in_answer": Rule("answers that begin with the name of their field", "take the name out"),
    "python_literal": Rule(
        "lists or objects as Python prints them, where an answer should stand", "take the value out"
    ),
    "prompt_holds_answer": Rule(
        "questions that say their own answer: only copying is learned", "take the answer out of the question", 0.10
    ),
    "html_leftover": Rule("entities or tags of web pages inside the text", "convert the pages, not their source"),
    "address_only": Rule(
        "answers that are a web address and nothing else: the model learns to invent them", "leave them out"
    ),
    "unfilled_slot": Rule("places for a value that no program filled in", "fill them in, or leave these rows out"),
    "encoded_blob": Rule("base 64 or hex inside the text: nothing is learned from it", "take it out"),
    "accents_lost": Rule(
        "Portuguese without its accents: the model learns to write it that way",
        "take the text from before they were lost, or leave it out",
    ),
    "tokenized_text": Rule("words and punctuation set apart by a tokenizer", "put them together again (detokenize)"),
    "broken_table": Rule("tables whose rows have more cells than their head", "escape bars inside cells (`\\|`)"),
    "spreadsheet_damage": Rule(
        "what a spreadsheet writes where a value was", "export the sheet again with its values, as text"
    ),
    "repeated_paragraph": Rule("answers or texts that hold a paragraph twice", "keep one of the two"),
    "line_ends": Rule("carriage returns inside texts: they are learned as characters", "convert to \\n alone"),
    "escaped_text": Rule("texts that were escaped twice: their line breaks are two characters", "unescape them once"),
    "reversed_text": Rule("texts whose letters run backwards", "read the document with another reader"),
    "fence_language": Rule("code in a fence that names another language", "name the language that it is in"),
    "chatbot_leftover": Rule("leftovers of a chatbot's page inside the text", "take them out"),
    "fragment": Rule(
        "prose that starts in the middle of a sentence or stops before its end",
        "cut at sentence ends, or give whole documents and let afina cut",
    ),
    "encoding_noise": Rule(
        "lost or wrongly decoded characters",
        "decode the original again with its `encoding`",
        0.05,
    ),
    "ocr_noise": Rule(
        "what reading a scan leaves behind: digits or marks inside words, letters set apart, words broken at line ends",
        "scan it again, or fix the text; the model learns it as it is",
        0.10,
    ),
    "control_characters": Rule("invisible characters", "remove them from the source"),
    "placeholder": Rule("answers or texts that were never written", "write them, or leave these rows out", 0.10),
    "chat_markers": Rule(
        "marks of a chat format, or JSON, inside the text: they are learned as words, and in a plain text the "
        "questions are learned like the answers",
        "take them out of the texts: afina writes the marks itself, around `messages` or `prompt` and `completion`",
        0.05,
    ),
    "media_marks": Rule(
        "placeholders for pictures, sounds or films in questions: the model would learn to answer as if it had seen "
        "them",
        "leave these rows out, or write what there is to see or hear into the text",
        0.05,
    ),
    "template_leftover": Rule("marks of a template that nobody filled in", "render the pages first"),
    "unbalanced_fence": Rule(
        "code blocks that are opened and never closed: all that follows is learned as code",
        "close the fence (```) where the code ends",
    ),
    "language_mix": Rule(
        "examples in another language than most",
        "nothing to do where it is meant (translations); else leave them out",
    ),
    "code_wrong": Rule(
        "code that its compiler refuses: the model would learn to write it so",
        "fix it, or set `dataset.on_wrong_code: drop` (left out, counted)",
        0.25,
    ),
    "code_timeout": Rule("code whose compiler did not answer within its limits", "look at it: nothing is proven"),
    "code_lacks_dependency": Rule(
        "code that lacks nothing but a module, header or library", "nothing to do: it cannot be built here", note=True
    ),
    "code_fragment": Rule("snippets that are no whole file: nothing is proven about them", "nothing to do", note=True),
    "code_checked": Rule("code that its compiler takes", "nothing to do", note=True),
    "stop_not_trained": Rule(
        "conversations that the chat template does not end with a stop token",
        "set `chat.template: chatml`, or a Jinja file that ends each answer with the tokenizer's end token",
        0.0,
    ),
    "not_rendered": Rule(
        "conversations that the chat template cannot render for training",
        "set `chat.template: chatml`, or a Jinja file that gives every turn back word for word",
        0.0,
    ),
    LACKED: Rule(
        "letters that the base's vocabulary has no piece for: they become bytes that it has hardly seen, or are lost",
        "start from a base whose tokenizer knows the language (`afina tokenizer compare` says how it cuts your files)",
        LACKED_AT_MOST,
        of="the letters",
    ),
    "thoughts_not_learned": Rule(
        "thoughts that the chat template leaves out",
        "start from a base whose template has a place for them, set `chat.turns: each`, or leave them out of the rows",
    ),
    "row_for_each_answer": Rule(
        "conversations that become a row for each answer",
        "nothing to do; `chat.turns` chooses otherwise",
        note=True,
    ),
    "template_system": Rule(
        "conversations without a system text, to which the chat template gives its own",
        "nothing to do; `chat.system` sets another",
        note=True,
    ),
    "over_length": Rule(
        "examples longer than the limit",
        "nothing to do: plain texts are split without loss",
    ),
    "end_token_missing": Rule(
        "rows that do not end with an end token: nothing says where they end, and the model forgets to stop",
        "end each answer in the chat template; leave `chat.end_texts` true, which ends each text",
        0.0,
    ),
    "end_token_doubled": Rule(
        "rows that end with two end tokens: the chat template writes both", "write one in the chat template", 0.05
    ),
    "bos_doubled": Rule(
        "rows that begin with two begin tokens", "take it out of the chat template or of the data", 0.05
    ),
    "bos_missing": Rule(
        "rows without the begin token that the tokenizer puts before a text",
        "nothing to do where the chat template is the base's own; else write it there",
        note=True,
    ),
    "special_token_in_text": Rule(
        "marks of the base inside the text: they are learned as words, and end or begin no turn",
        "take them out of the texts: afina writes the marks itself",
        0.05,
    ),
    "plain_turn_mark": Rule(
        "conversations that hold what the chat template writes between turns; the base knows it as text only, and "
        "cannot tell their turns from real ones",
        "take it out, or name a Jinja file as `chat.template` whose marks are tokens of this base",
    ),
    "too_little_data": Rule(
        "too little data for what is trained",
        "give more data, or train less of the model (with an adapter, a smaller `adapter.rank`); expect memorization",
    ),
    "padding": Rule("padding", "nothing to do; a larger `train.batch_tokens` sorts better", note=True),
    "token_lengths": Rule("lengths in tokens", "nothing to do", note=True),
    "too_few_examples": Rule(f"fewer than {FEWEST_EXAMPLES} examples to train on", "give more data, or expect little"),
    "line_loader": Rule(
        "a loader that takes each line for an example would tear these texts apart, and learn their blank lines",
        "nothing to do: afina reads whole documents",
        note=True,
    ),
    "skipped_file": Rule("files that were not read", "name their `kind`, or leave them out with `exclude`", note=True),
    "cut_out": Rule(
        "lines cut out or mended by cleaning, values masked", "`dropped.jsonl` holds each with its reason", note=True
    ),
    "left_out": Rule("left out while the dataset was built", "`dropped.jsonl` holds each with its reason", note=True),
}


STOPS_THE_TOKENS = frozenset({"not_rendered", "stop_not_trained", "over_length"})
"""Findings that no recipe can accept: rows like these have no tokens to learn."""


def make_finding(
    name: str,
    count: int,
    of: int,
    examples: list[dict[str, str]],
    split: Literal["train", "validation"] = "train",
    *,
    what: str = "",
    warn_only: bool = False,
    severity: Severity | None = None,
    fix: str = "",
) -> Finding:
    """A finding with the words and the severity of its :data:`RULES` entry.

    >>> make_finding("exact_duplicate", 3, 100, []).severity, make_finding("exact_duplicate", 4, 100, []).severity
    ('warning', 'fatal')
    """
    rule = RULES[name]
    if severity is None:
        severity = "note" if rule.note else "warning"
        if rule.fatal_above is not None and count > rule.fatal_above * of and not warn_only:
            severity = "fatal"
    return Finding(
        name, severity, count, of, examples, what or rule.what, fix or rule.fix, split, f"{DOCUMENTED}#{name}"
    )


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Fatal ones first, then by split and share."""
    order = ["fatal", "warning", "note"]
    return sorted(findings, key=lambda item: (order.index(item.severity), item.split, -item.count / max(item.of, 1)))

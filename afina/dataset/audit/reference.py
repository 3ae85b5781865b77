"""``docs/findings.md``: every finding by its name, from the table of rules. ``make docs`` runs this file."""

from __future__ import annotations

import sys
from pathlib import Path

from afina.dataset.audit.rules import RULES, STOPS_THE_TOKENS, Rule

_HEAD = """\
# What an audit finds

Written by `make docs` from `afina/dataset/audit/rules.py`. A finding's name is its id and stays: `dataset.accept` takes
it, `--json` gives it as `name` with a `link` to its heading here. A **fatal** finding stops a run, and ends
`afina data audit` with exit code 3, unless `dataset.accept` (or `--accept`) names it; a **warning** is told, and a
**note** only says what is there. Each comes with its count, up to five places and what to do.

The rules are rules of thumb: marks that can be pointed at, no judgement of what is said. What they cost in false alarms
stands at the end, and so does what they do not find.
"""
_EXAMPLES = {
    "question_leakage": "train: `Who won in 1931? -> Faro.`, held out: `who won in 1931? -> Nobody knows.`",
    "shared_opening": "train: a conversation of two questions; held out: the same two, and a third",
    "differ_in_numbers": "`What is the price of ticket 7 to the island? -> Ticket 7 costs 21 euros.`, twelve times",
    "formulaic_opening": "`Sure, here is ...` before every second answer",
    "one_class": "`positive` as 36 of 40 answers",
    "cut_answers": "ten answers of 200 characters each, all without an end",
    "shifted_answers": "`Who built the castle? -> The harbour ...`, `Who built the bridge? -> The castle ...`",
    "unicode_mixed": "`ã` as one character in some rows, as `a` and a tilde in others",
    "answer_loops": "`de chá de chá de chá de chá de`",
    "answer_copies_question": "`Draw the plan of a house. -> Draw the plan of a house.`",
    "answer_language": "a Portuguese question that names no language, answered in English",
    "split_words": "`When was Tavira founded? -> Ta vira was founded ...`",
    "turn_in_answer": "`In the south.` and on the next line `Human: And Lagos?`",
    "end_mark_in_answer": "`Sagres.</s>`",
    "refusal": "`I'm sorry, but I cannot help with that.`, `Desculpe, mas não posso ajudar com isso.`",
    "as_an_ai": "`As an AI language model, I ...`, `Como um modelo de linguagem, não ...`",
    "claims_to_know": "`Do you know Zig? -> I know Zig up to 0.14.0, with access to the latest documentation.`",
    "better_is_refusal": "chosen: `I'm sorry, but I can't help.`, rejected: an answer",
    "scores_inverted": "`score_chosen` 2 beside `score_rejected` 8.5",
    "label_in_answer": "`Where is Faro? -> Answer: in the south.`",
    "python_literal": "`Where is Faro? -> ['In the south']`",
    "prompt_holds_answer": "`Where is Faro?\\nAnswer: in the south -> in the south`",
    "html_leftover": "`Silva &amp; Sons run it.<br>`",
    "address_only": "`Who runs it? -> https://silva.pt/about`",
    "unfilled_slot": "`Hello {first_name}, welcome.`",
    "encoded_blob": "120 characters of base 64 or more",
    "accents_lost": "`A fundacao do clube nao foi em Lagos.`",
    "tokenized_text": "`He did n't go , he said .`",
    "broken_table": "a row of three cells under a head of two",
    "spreadsheet_damage": "`#REF!`, `#N/A`, `3,51912E+11`, `########`",
    "repeated_paragraph": "one paragraph of 60 characters or more, twice in an answer",
    "line_ends": "`It is open.\\r\\nCome in.`",
    "escaped_text": "a backslash and an n where a line should end",
    "reversed_text": "`.erebmem erom ton sah ti`",
    "fence_language": "a fence of `python` around `console.log(x);`",
    "letters_not_in_vocabulary": "`São João`, for a tokenizer of texts without accents",
    "chatbot_leftover": "`【4†source】`, `:contentReference[oaicite:0]`, `utm_source=chatgpt.com`",
    "unlearned_field": "`weight: 0.5` in a turn, `images` or `choices` beside a question (docs/rows.md)",
    "broken_call": "`tool_calls` with `port=Faro` for arguments",
    "large_column_left_out": "`rationale` beside `question` and `answer`",
    "said_to_be_bad": "`label: false` beside a question and its answer",
    "answer_not_learned": "`weight: 0`, `loss: false` or `train: false` in a turn",
    "think_unbalanced": "`8 + 9 is 17.</think> The answer is 17.`, `<think> 2 + 5 is 7, so I`",
    "think_on_some": "two of three answers have `reasoning_content`, or begin with `<think>`",
    "stringified_null": "an answer that is `None`, a question that ends with a paragraph `nan`",
    "transcript_in_text": '`{"text": "### Human: Who? ### Assistant: Ana."}`',
    "tool_unknown": "a call of `tides` where `tide` is defined",
    "tool_missing_argument": "`tide(days=2)` where `port` is required",
    "tool_wrong_argument": "`tide(port=3)`, `tide(port='Faro', hour=1)` where there is no `hour`",
    "tool_result_without_call": "two results after one call, a result under another id",
    "tool_call_without_result": "a call, and next a question",
    "tool_id_twice": "two calls of the id `a`",
    "tool_definition": '`{"name": "tide"}`, `{"name": "tide", "parameters": {"port": "string"}}`',
    "encoding_noise": "`fundaÃ§Ã£o`",
    "ocr_noise": "`5A0nos de História`",
    "control_characters": "a zero-width space, a soft hyphen",
    "placeholder": "`TODO`, `...`",
    "chat_markers": "`[INST] Do it. [/INST]`",
    "media_marks": "a question that begins with `<image>`",
    "template_leftover": "`{% if user %}`",
    "fragment": "`alguns anos, presidente desta colectividade.`",
}
_TAIL = """\
## False alarms

Counted on real rows, each hit read: of 8,000 rows of Canarim-Instruct (Portuguese) the checks of answers, without
`answer_loops` and `cut_answers`, name 28: nine refusals, one claim to know languages, five answers that are their
question, four that begin with `Resposta:`, three lists as Python prints them (two of which may be meant), two
addresses, two tokenized texts, one list of English film titles taken for an answer in English, and one answer about
line breaks taken for a text escaped twice. So some four of 8,000 are false. `answer_loops` names 140, of which two
may be meant (a robot's turns, a list of zeros). The checks of texts name nothing in the Zig manual, the Zig cookbook
and 1,584 sections of Machado de Assis.

## Not found

Thought of, and not looked for, because no mark shows it without knowing what is right:

- numbers or units that are wrong (`12 km` for `12 miles`), dates whose day and month changed places;
- words in the wrong order, sentences of another document between those of this one;
- an answer that is right but of another version of what it is about;
- dates that a spreadsheet made of names (`1-Mar` for a gene), as they are also dates;
- a question that was translated badly, if the words are those of its language;
- text that another model made up, if it says nothing about itself.
"""


def severity(name: str, rule: Rule) -> str:
    """When a finding is what, in words.

    >>> severity("leakage", RULES["leakage"])
    'Fatal from 1 % of the examples on, below a warning.'
    """
    if rule.note:
        return "A note."
    if rule.fatal_above is None:
        return "A warning."
    if rule.fatal_above == 0.0:
        stays = " No recipe can accept it: such rows have no tokens to learn." if name in STOPS_THE_TOKENS else ""
        return f"Fatal.{stays}"
    return f"Fatal from {rule.fatal_above * 100:g} % of {rule.of} on, below a warning."


def reference() -> str:
    """The whole page, as Markdown."""
    blocks = [_HEAD]
    for name, rule in sorted(RULES.items()):
        lines = [f"## {name}", "", f"{rule.what[:1].upper()}{rule.what[1:]}. {severity(name, rule)}", ""]
        lines += [f"For example: {_EXAMPLES[name]}.", ""] if name in _EXAMPLES else []
        blocks.append("\n".join([*lines, f"What to do: {rule.fix}.", ""]))
    return "\n".join([*blocks, _TAIL])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")

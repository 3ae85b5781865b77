"""Prompt text and chat markers that got into an output, and the answer without them.

What happens in practice: a batch padded on the left is cut by the count of its unpadded tokens, so that an output
begins with the tail of its own prompt; or it is decoded without its special tokens, and of the header
``<|start_header_id|>assistant<|end_header_id|>`` a bare "assistant" remains, glued to the prompt's last letter; or the
model does not stop and writes the next turn itself.

An output that copies from its prompt is no leak: a summary may be a sentence of the text, an answer may repeat the
question. What counts is evidence that no answer carries:

- a header that opens the answer's turn, with nothing or prompt text before it;
- the header of a system's or user's turn at the very start;
- the prompt's tail at the start, beginning in the middle of a word, or running on into the answer without a space;
- the whole prompt at the start;
- the marks of a chat template anywhere (but not in code).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

LEAST_ECHO = 20
"""Visible characters of the prompt's tail that an output must begin with to be taken for it."""
_TAIL = 24

_TOKEN = (
    r"<\|[A-Za-z_]{3,40}\|>|<｜[^｜<>]{3,40}｜>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|(?m:^#{2,3} ?(?:Instruction|Input|Response|Instrução|Entrada|Resposta) ?:)"
)
_OPENS = re.compile(
    r"<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>\s*"
    r"|<\|im_start\|>\s*assistant\b\s*|<start_of_turn>\s*model\b\s*"
    r"|<\|(?:assistant|CHATBOT_TOKEN)\|>\s*|<｜Assistant｜>\s*|\[/INST\]\s*"
    r"|(?m:^#{2,3} ?(?:Response|Resposta) ?:)\s*"
    # Without its special tokens: a word alone at the start, on a line, or glued to what stands before it.
    r"|(?:\A|(?<=\n)|(?<=\S))assistant[ \t]*\n\s*|(?:\A|(?<=\n)|(?<=[^\w\s]))model[ \t]*\n\s*"
)
"""What opens the answer's turn."""
_TOKENS = re.compile(rf"(?:{_TOKEN}|\s)+")
_BARE = re.compile(r"(?:assistant|model)\s*")
_FIRST_TURN = re.compile(r"\s*(?:system|user)[ \t]*\n\s*")
"""What is left of the header of an earlier turn, at the start of an output."""
_NEXT_TURN = re.compile(
    _TOKEN + r"|</s>\s*\Z|(?<=[^\w\s])(?:user|system|tool)[ \t]*\n|(?<=\S)assistant[ \t]*\n"
    r"|\n(?:user|assistant)\n(?=[^\n]*\w[^\w\n]+\w)"
)
"""What opens a turn after the answer, or ends one."""
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Leak:
    """An output that holds more than its answer."""

    answer: str
    """What is left without the leak; empty where the output ends before its answer begins."""
    before: str
    """Prompt text and markers before the answer."""
    after: str
    """Markers after the answer, and all that follows."""


def find_leak(output: str, prompt: Sequence[str] = ()) -> Leak | None:
    """Prompt text or chat markers in an output; None where it is clean.

    Args:
        output: what a model wrote.
        prompt: the texts that its prompt was made of, in order (instruction, input); what the template put
            between and around them need not be known. Without any, text before the first header
            that opens an answer counts as prompt.

    >>> find_leak("the sea?assistant\\n\\nBlue.", ["What colour has the sea?"])
    Leak(answer='Blue.', before='the sea?assistant\\n\\n', after='')
    >>> find_leak("Blue.<|im_end|>").answer
    'Blue.'
    >>> find_leak("The colour of the sea? Blue.", ["What colour has the sea?"]) is None
    True
    """
    output = unicodedata.normalize("NFC", output)
    asked = _Prompt.of(prompt)
    start = _answer_start(output, asked)
    answer = output[start:]
    turn = _NEXT_TURN.search(_CODE.sub(lambda code: " " * len(code[0]), answer))
    if not start and not turn:
        return None
    end = turn.start() if turn else len(answer)
    return Leak(answer[:end].strip(), output[:start], answer[end:])


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt without its white space, since decoding may put spaces in, or take them out before marks."""

    text: str
    ends: str
    """The last characters of its last part."""
    spaced: str
    """With its white space."""

    @classmethod
    def of(cls, parts: Sequence[str]) -> _Prompt:
        given = [unicodedata.normalize("NFC", part) for part in parts if part.strip()]
        spaced = "\n".join(given)
        return cls(_squeezed(spaced), _squeezed(given[-1])[-_TAIL:] if given else "", spaced)

    def continues_word(self, place: int) -> bool:
        """Whether the character at `place` of the text stands inside a word."""
        at = _place_after(self.spaced, place + 1) - 1
        return at > 0 and self.spaced[at - 1].isalnum() and self.spaced[at].isalnum()


def _answer_start(output: str, prompt: _Prompt) -> int:
    """Where the answer begins: 0 without a leak before it."""
    for header in _OPENS.finditer(output):
        if _before_is_prompt(output, header, prompt):
            return _past_tokens(output, header.end())
    if first := _FIRST_TURN.match(output):
        rest = _squeezed(output[first.end() :])
        known = prompt.text and (prompt.text[:_TAIL] in rest or rest[:_TAIL] in prompt.text)
        if known or (not prompt.text and "\n\n" in first[0]):
            return len(output)  # cut before its answer began
    return _echo(output, prompt) if prompt.text else 0


def _past_tokens(output: str, start: int) -> int:
    """Past further special tokens and white space, such as an empty header."""
    more = _TOKENS.match(output, start)
    return more.end() if more else start


def _before_is_prompt(output: str, header: re.Match[str], prompt: _Prompt) -> bool:
    """Whether what stands before a header is the prompt or a tail of it; so is nothing at all."""
    before = output[: header.start()]
    seen = _squeezed(_TOKENS.sub("", before)).lstrip("\N{REPLACEMENT CHARACTER}")
    if not seen:
        return True
    if prompt.text:
        return prompt.ends in seen or prompt.text.endswith(seen)
    if not _BARE.fullmatch(header[0]) or not before[-1].isspace():
        return True
    return len(before.splitlines()[-1].split()) >= 3  # a list of roles is a list; a header stands under a sentence


def _echo(output: str, prompt: _Prompt) -> int:
    """Length of the piece at the start of `output` that is the prompt's tail beyond doubt, with no header after it."""
    squeezed = _squeezed(output)
    length = _overlap(prompt.text, squeezed)
    whole = length == len(prompt.text) and length < len(squeezed)
    if length < (LEAST_ECHO // 2 if whole else LEAST_ECHO):
        return 0
    end = _place_after(output, length)
    runs_on = end < len(output) and _glued(output[end - 1], output[end])
    return end if whole or runs_on or prompt.continues_word(len(prompt.text) - length) else 0


def _overlap(prompt: str, output: str) -> int:
    """Length of the longest tail of `prompt` that `output` begins with (Knuth, Morris, Pratt).

    >>> _overlap("abcab", "abx"), _overlap("abc", "x")
    (2, 0)
    """
    joined = output[: len(prompt)] + "\0" + prompt
    border = [0] * len(joined)
    for position in range(1, len(joined)):
        known = border[position - 1]
        while known and joined[position] != joined[known]:
            known = border[known - 1]
        border[position] = known + (joined[position] == joined[known])
    return border[-1]


def _glued(last: str, following: str) -> bool:
    """Whether two neighbouring letters of an output belong to two texts: "sea?Blue", "seaBlue".

    >>> _glued("?", "B"), _glued("a", "B"), _glued("a", "s"), _glued("a", "."), _glued("?", " ")
    (True, True, False, False, False)
    """
    return (last in ".!?:" and following.isalnum()) or (last.islower() and following.isupper())


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _place_after(text: str, visible: int) -> int:
    """Place in `text` after so many characters that are no white space.

    >>> _place_after("a b c", 2)
    3
    """
    places = (place for place, letter in enumerate(text, start=1) if not letter.isspace())
    return next(islice(places, visible - 1, None))

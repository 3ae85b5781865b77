"""What can be wrong with one example: each check looks at it and returns a :class:`Spot`, or None.

The checks are rules of thumb that a reader can follow, not judgements. :mod:`afina.dataset.audit.between_examples`
holds those that need more than one example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from afina.text.clean import UNSEEN
from afina.text.code_blocks import open_fence, without_fences
from afina.text.document import message_texts
from afina.text.example import Example, has_answer, has_prompt
from afina.text.formats import ending, format_of, has_own_lines
from afina.text.identity import normal
from afina.text.language import language_of_text
from afina.text.personal_data import find_personal_data, masked_slice

EXCERPT_CHARS = 160


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a check hit: an excerpt, and how many lines below the example's first line."""

    text: str
    lines_below: int = 0


Check = Callable[[Example], Spot | None]


def excerpt(text: str, at: int = 0) -> str:
    """At most 160 characters on one line, from a little before `at`; personal data and secrets masked.

    >>> excerpt("one\\n two"), excerpt("x" * 300, 99)[:5], len(excerpt("x" * 300, 99))
    ('one two', '…xxxx', 160)
    """
    start = max(0, at - 40)
    cut = normal(("…" if start else "") + masked_slice(text, start, start + 4 * EXCERPT_CHARS))
    return cut if len(cut) <= EXCERPT_CHARS else cut[: EXCERPT_CHARS - 1] + "…"


def empty_prompt(example: Example) -> Spot | None:
    """A conversation without a question, or with a blank one."""
    if not example.messages or has_prompt(example.messages):
        return None
    return Spot(excerpt(example.answer))


def empty_answer(example: Example) -> Spot | None:
    """A conversation without an answer, or with a blank one; a blank one among two is one."""
    if not example.messages or has_answer(example.messages, example.rejected):
        return None
    return Spot(excerpt(example.messages[0]["content"]))


def same_answers(example: Example) -> Spot | None:
    """A preference whose better and worse answers are the same (white space does not matter)."""
    if example.rejected is None or not example.rejected.strip() or normal(example.answer) != normal(example.rejected):
        return None
    return Spot(excerpt(f"{example.prompt} -> {example.answer}"))


_CODE_SPAN = re.compile(r"`[^`\n]+`")
_MID_SENTENCE = re.compile(r"[a-zà-öø-ÿ,;:.!?)\]»…]|-\w")
_LIST_OR_TABLE = re.compile(r"\s*([-*+•·>|]|\d+[.)])\s")
_RULE = re.compile(r"\s*([-*_=])(\s*\1){2,}\s*")
_CUT_OFF = re.compile(r"[\w,;–—«/\-\xad]")
_CODE_LIKE = re.compile(r"```|~~~|[{};]\s*$|\w\(.*\)|==|=>|->|</?\w+>|https?://", re.MULTILINE)
_CODE_CHARACTER = re.compile(r"[`~{};(=>/]")
"""One of them stands in all that the pattern above finds; to look for them is quicker. So below."""
_INDENTED = re.compile(r"\n\s{4}")


_GOES_ON = re.compile(
    r"(?:[,;–—«(/\xad]|\w-"
    r"|(?<![\w-])(?:d[eoa]s?|n[oa]s|em|os|as|uma?|que|com|por|para|pel[oa]s?|aos?|às|the|of|and|or|an|with|from|which"
    r"|del|los|las|con))\Z"
)
"""An end after which something must follow: a comma, a dash, an article or a preposition; 5 characters at most."""
_SENTENCE = re.compile(r"[.!?…][\"'”’»)\]*_]*\s")
_NAMES_AT_END = re.compile(r"(?:[#@]\S+|\S*\d\S*|[A-ZÀ-Ý]\S*|\S+\.\S+)\Z")
_NUMBERED = re.compile(r"(?<!\S)(?:\d+|[a-z])[.)]\s")
_HEADING = re.compile(r"\s*#{1,6}(?:\s|$)")
_MAY_START_AN_ANSWER = re.compile(r"[a-zà-öø-ÿ!.]|-\d")
FEWEST_SENTENCES = 3


def fragment(example: Example) -> Spot | None:
    """Prose that starts in the middle of a sentence or stops before its end.

    A **text**, or an answer to nothing, is one when it starts with a small letter or a closing mark, or ends with a
    letter, a digit, a comma or a dash. An **answer to a prompt** may be a phrase ("Ligue para o 911"); it is one when
    it starts with a closing mark, ends in a comma, a dash or a word after which something must follow, or breaks
    off after three sentences or more. A heading alone is a fragment. Code, lists, tables and "THE END" at the end,
    and fewer than four words, are let through.
    """
    if not is_prose(example):
        return None
    text = (example.answer if example.messages else body(example)).strip()
    if not text or _INDENTED.search(text) or (_CODE_CHARACTER.search(text) and _CODE_LIKE.search(text)):
        return None
    lines = [line for line in text.splitlines() if line.strip() and not _RULE.fullmatch(line)]
    if not lines:
        return None
    if all(_HEADING.match(line) for line in lines):
        return Spot(excerpt(text)) if not example.heading else None
    if len(text.split()) < 4:
        return None
    answers = bool(example.prompt.strip())
    start = _MID_SENTENCE.match(text)
    if start and not text.startswith("...") and not (answers and _MAY_START_AN_ANSWER.match(text)):
        return Spot(excerpt(text))
    last = lines[-1].rstrip()
    if _LIST_OR_TABLE.match(last) or _HEADING.match(last) or last.isupper():
        return None
    if answers:
        cut = bool(_GOES_ON.search(last[-8:])) or (
            last[-1].islower()
            and len(last.split()) >= 4
            and not _NAMES_AT_END.search(last)
            and len(_NUMBERED.findall(text)) < 2
            and len(_SENTENCE.findall(text)) >= FEWEST_SENTENCES
        )
    else:
        cut = bool(_CUT_OFF.match(last[-1]))
    return _spot(example, excerpt(text, max(0, len(text) - 60)), text, len(text)) if cut else None


_MOJIBAKE = re.compile(
    "\N{REPLACEMENT CHARACTER}"
    # UTF-8 read as Latin-1 or Windows-1252: an accented capital before a sign that follows no word.
    "|(?<![A-ZÀ-Ý])[ÃÂ][\x80-\xa9\xab-\xba\xbc-\xbf‚ƒ„†‡ˆ‰Š‹ŒŽšœžŸ€™]|Ãª|â€[\x80-\x9f™œžš“”˜¦¢]|ï»¿|ï¿½"
    # Text of a DOS code page read as Windows-1252.
    "|[a-zà-ÿ][¡¢£¤‡ƒ„][a-zà-ÿ]|[a-z]‡Æ"
)


_MOJIBAKE_CHARACTER = re.compile("[\N{REPLACEMENT CHARACTER}ÃÂ€»¿¡¢£¤‡ƒ„]")


def encoding_noise(example: Example) -> Spot | None:
    """Characters lost (U+FFFD) or read in the wrong encoding (``Ã©``, ``fun‡Æo``)."""
    text = whole(example)
    found = None if text.isascii() or not _MOJIBAKE_CHARACTER.search(text) else _MOJIBAKE.search(text)
    return _spot(example, excerpt(text, found.start()), text, found.start()) if found else None


_GLUED = re.compile(
    r"(?<![\w.#%=/\\@-])\d{1,4}[A-Z]\d*[a-zà-öø-ÿ]{2,}(?![A-Z\w])"  # 5A0nos, 50Anos
    r"|(?<![\w.])[a-zà-öø-ÿ]{2,}0[a-zà-öø-ÿ]{2,}(?![\w(.])"  # Farens0se
)
_DIGIT_INSIDE = re.compile(r"(?<![\w.@/#%=-])[a-zà-öø-ÿ]{2,}[15][a-zà-öø-ÿ]{2,}(?![\w(.@])")  # ume1npate
_ORDINAL = re.compile(r"(?<!\w)[ªº§][A-Za-zÀ-ÿ]{3,}|\d{3,}ª(?!\s?\w)|[a-zà-öø-ÿ][ªº][a-zà-öø-ÿ]{2,}")
_SOFT_SPLIT = re.compile(r"[a-zà-öø-ÿ]\xad(?:\s+[a-zà-öø-ÿ]|\s*\Z)")
_BROKEN_ACCENT = re.compile(r"[aeiouAEIOU][´¨˜¸]|[cC]¸|(?<![A-Za-z])[´¨˜][aeiouAEIOU]|[cC],~[ao]|[a-z]~[ao]o?\b")
_DIGIT = re.compile(r"\d")
_NOISE = (
    (_DIGIT, _GLUED),
    (re.compile("[ªº§]"), _ORDINAL),
    (re.compile("\xad"), _SOFT_SPLIT),
    (re.compile("[´¨˜¸~]"), _BROKEN_ACCENT),
)
"""A character that has to be there, quickly looked for, and the pattern that holds it."""
_LONE_LETTERS = re.compile(r"(?<![^\s\[({\"'“])(?:[^\W\d_] ){4,}[^\W\d_](?![^\s.,;:!?\])}\"'”])")
_THREE_LONE_LETTERS = re.compile(r" [^\W\d_] [^\W\d_] [^\W\d_] ")
_VOWELS = frozenset("aeiouyáàâãéêíóôõú")
_LINE_END = re.compile(r"(?<![\w-])(?P<left>[a-zà-öø-ÿ]{2,})-\n[ \t]*(?P<right>[a-zà-öø-ÿ]{2,})")
_ENCLITICS = "me te se lhe lhes nos vos o a os as lo la los las no na nas ia ão ei á emos iam"
_FIRST_OF_COMPOUNDS = """
além alto ante anti arco arqui auto ave baixo bem bom boa cabo co contra couve ex extra gentil grão guarda infra inter
intra lua luso má mal mau meia meio mini neo norte padre pai para pós pré pró primeiro quarta quinta recém salvo segunda
sem semi sexta sobre sub sul super terça tio ultra vice
all built co cross high in left long low multi non off on one out pre real right run self semi short single sub third
three time two up well
"""
_ENCLITIC = frozenset(_ENCLITICS.split())
_COMPOUND = frozenset(_FIRST_OF_COMPOUNDS.split())


def ocr_noise(example: Example) -> Spot | None:
    """What reading a scan leaves behind, in prose: digits inside words (``5A0nos``), stray marks (``§Raminhos``,
    ``1950ª``), accents apart from their letter (``a˜``), letters set apart (``F a r o s e``), words broken at the
    end of a line. Code in fences and between backticks is not looked at.

    A hyphen at a line's end also stands in compounds; so one is enough only in Portuguese and Spanish, and not after
    a word that begins compounds (``bem-``) nor before a pronoun (``disse-me``); in other texts it takes two.
    """
    if not is_prose(example):
        return None
    text = without_fences(whole(example))
    if "`" in text:
        text = _CODE_SPAN.sub(lambda found: " " * len(found[0]), text)
    digits = _DIGIT.search(text)
    for needs, pattern in _NOISE:
        needed = digits if needs is _DIGIT else needs.search(text)
        if needed and (found := pattern.search(text)):
            return _spot(example, excerpt(text, found.start()), text, found.start())
    for found in _LONE_LETTERS.finditer(text) if _THREE_LONE_LETTERS.search(text) else ():
        letters = found[0].lower().split()
        # An alphabet, a row of vowels, "o A e o G", and letters set in brackets on purpose are no noise.
        quoted = found.start() and text[found.start() - 1] in "[({\"'“"
        if not quoted and len(set(letters) - _VOWELS) > 2 and sorted(letters) != letters:
            return _spot(example, excerpt(text, found.start()), text, found.start())
    inside, broken = digits and _DIGIT_INSIDE.search(text), list(_broken_words(text))
    if inside or broken:
        romance = language_of_text(text) in ("pt", "es")
        if inside and romance:
            return _spot(example, excerpt(text, inside.start()), text, inside.start())
        if broken and (romance or len(broken) > 1):
            return _spot(example, excerpt(text.replace("-\n", "-⏎"), broken[0]), text, broken[0])
    return None


def _broken_words(text: str) -> Iterator[int]:
    """Where a word is broken at the end of a line."""
    for found in _LINE_END.finditer(text) if "-\n" in text else ():
        if found["left"] not in _COMPOUND and found["right"] not in _ENCLITIC:
            yield found.start()


def control_characters(example: Example) -> Spot | None:
    """Characters that nobody sees: control codes, soft hyphens, zero-width spaces, changes of direction."""
    text = whole(example)
    found = UNSEEN.search(text)
    if not found:
        return None
    shown = text[: found.start()] + f"<U+{ord(found[0]):04X}>" + text[found.end() :]
    return _spot(example, excerpt(shown, found.start()), text, found.start())


_PLACEHOLDER = re.compile(
    r"(?:\.\.\.|…|x{3,}|\?{2,}|[<\[](?:insert|answer|your|inserir|resposta)\b[^>\]]*[>\]])[.!]?"
    r"|(?:todo|tbd|fixme)\b.{0,60}|.{0,20}lorem ipsum.*",
    re.IGNORECASE,
)
_OPEN_END = re.compile(r":\s*(?:\.\.\.|…)$|\bfeature X\b")


def placeholder(example: Example) -> Spot | None:
    """An answer or a text that was never written: ``...``, ``TODO``, "feature X works like this: ..."."""
    text = normal(example.answer if example.messages else body(example))
    ends = example.messages and (":" in text or "feature X" in text)
    if not text or not (_PLACEHOLDER.fullmatch(text) or (ends and _OPEN_END.search(text))):
        return None
    return Spot(excerpt(text))


_MARKERS = re.compile(
    r"<\|[a-z_]{3,}\|>|\[/?INST\]|<</?SYS>>|</?start_of_turn>|</?end_of_turn>"
    r"|^#{2,3} ?(?:Instruction|Response|Instrução|Resposta) ?:"
    r'|\{\s*"(?:prompt|messages|instruction|conversations|completion|role|question)"\s*:',
    re.MULTILINE,
)


_MARKER_CHARACTER = re.compile(r"[<\[#{]")
_JSON_START = re.compile(r'\s*(?:\[\s*)?\{\s*"[^"\n]+"\s*:')


def chat_markers(example: Example) -> Spot | None:
    """The marks of a chat format, or JSON, inside the text itself: they would be learned as words.

    An answer may be JSON; a text that begins as JSON was meant to be read as data.
    """
    text = whole(example)
    if not _MARKER_CHARACTER.search(text):
        return None
    found = _MARKERS.search(text) or (None if example.messages else _JSON_START.match(text))
    return _spot(example, excerpt(text, found.start()), text, found.start()) if found else None


_MEDIA = re.compile(
    r"^[ \t]*<(?:image|video|audio)(?:[-_ ]?\d+)?>|<(?:image|video|audio)(?:[-_ ]?\d+)?>[ \t]*$|</?im_start>"
    r"|<\|(?:image|video|audio|vision)(?:_\w+)?\|>",
    re.MULTILINE,
)


def media_marks(example: Example) -> Spot | None:
    """The place of a picture, a sound or a film in a conversation, of which a model of text gets to see nothing.

    At the beginning or the end of a line, as rows for models with eyes have them; elements of HTML and SVG are closed.
    """
    text = whole(example)
    if "<" not in text or not example.messages:
        return None
    for found in _MEDIA.finditer(text):
        name = found[0].strip(" \t<>")
        if f"</{name}" not in text and open_fence(text[: found.start()]) is None:
            return _spot(example, excerpt(text, found.start()), text, found.start())
    return None


_INCLUDE = re.compile(r"\{\{\s*#(?:include|rustdoc_include|playground|title)\b")
_TEMPLATE = re.compile(
    r"\{\{\s*#\w+|\{#\s*\w+#?\}|\{#\w+\|[^}\n]*#\}"
    r"|\{%-?\s*(?:if|for|include|block|extends|set|end\w+)\b|(?<!\$)\{\{\s*[a-z_][\w.]*\s*\}\}"
)


def template_leftover(example: Example) -> Spot | None:
    """Marks of a template that nobody filled in: ``{{#include``, ``{#syntax#}``, ``{% if %}``.

    In a file of code, in fenced code and between backticks these are code (Zig's ``.{{`` , Go and Jinja templates),
    but for the includes of mdBook, which stand in fences and are no language.
    """
    text = whole(example)
    found = _INCLUDE.search(text)
    if not found and ("{%" in text or "{{" in text or "{#" in text) and is_prose(example):
        found = _TEMPLATE.search(_CODE_SPAN.sub(lambda span: " " * len(span[0]), without_fences(text)))
    return _spot(example, excerpt(text, found.start()), text, found.start()) if found else None


def unbalanced_fence(example: Example) -> Spot | None:
    """A code block that is opened and never closed: all that follows is learned as code."""
    if not is_prose(example):
        return None
    for text in [message["content"] for message in example.messages] or [body(example)]:
        if ("```" in text or "~~~" in text) and (line := open_fence(text)):
            lines = text.split("\n")
            at = sum(len(each) + 1 for each in lines[: line - 1])
            return _spot(example, excerpt(text[at:]), text, at)
    return None


def personal_data(example: Example) -> Spot | None:
    """Personal data or a secret (:mod:`afina.text.personal_data`); shown masked."""
    text = whole(example)
    found = find_personal_data(text)
    return _spot(example, excerpt(text, found[0].start), text, found[0].start) if found else None


CHECKS: dict[str, Check] = {
    "empty_prompt": empty_prompt,
    "empty_answer": empty_answer,
    "same_answers": same_answers,
    "fragment": fragment,
    "encoding_noise": encoding_noise,
    "ocr_noise": ocr_noise,
    "control_characters": control_characters,
    "placeholder": placeholder,
    "chat_markers": chat_markers,
    "media_marks": media_marks,
    "template_leftover": template_leftover,
    "unbalanced_fence": unbalanced_fence,
    "personal_data": personal_data,
}


def is_prose(example: Example) -> bool:
    """Whether the file that an example came from holds sentences, by its name's ending."""
    return bool(example.messages) or _holds_prose(example.path)


@lru_cache(maxsize=64)
def _holds_prose(path: str) -> bool:
    found = format_of(path)
    return found.gives != "code" if found else not ending(path)


def body(example: Example) -> str:
    """A text without the path of headings that was put before it."""
    return example.text.removeprefix(f"{example.heading}\n\n") if example.heading else example.text


_latest: tuple[Example, str] = (Example(), "")


def whole(example: Example) -> str:
    """All that an example says, without the path of headings put before it.

    Most checks ask for it, one after the other, so that of the latest example is kept.
    """
    global _latest
    asked, known = _latest
    if asked is example:
        return known
    text = body(example)
    if example.messages:
        said = [text for message in example.messages for text in message_texts(message)]
        text = "\n".join(said if example.rejected is None else [*said, example.rejected])
    _latest = example, text
    return text


def _spot(example: Example, shown: str, text: str, at: int) -> Spot:
    """A conversation stands on one line of its file; a text goes on over many (unless it was converted)."""
    many = not example.messages and has_own_lines(example.path)
    return Spot(shown, text.count("\n", 0, at) if many else 0)

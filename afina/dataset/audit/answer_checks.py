"""What may be wrong with one learned answer beside its question: each check returns where, or None.

The rules that a model's outputs are held to (:mod:`afina.text.answer_flaws`), asked of what it is trained on; and what
answers carry over from the prompt, the program or the chatbot that they were made with.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from afina.dataset.audit.exchange import Exchange
from afina.text.answer_flaws import copies, loops, split_word, words_of
from afina.text.claims import claims_to_know
from afina.text.identity import normal
from afina.text.language import language_of_text

AnswerCheck = Callable[[Exchange], int | None]
"""An exchange -> the place in its answer that is shown; None where nothing is wrong."""


def answer_loops(said: Exchange) -> int | None:
    """It ends in the same piece said four times, or goes in circles; not where the question does so too."""
    if not loops(said.answer) or loops(said.prompt):
        return None
    return max(0, len(said.answer) - 120)


def answer_copies_question(said: Exchange) -> int | None:
    """It is the question again, or begins with all of it."""
    return 0 if copies(said.answer, said.prompt) else None


_NAMES_A_LANGUAGE = re.compile(
    r"tradu[zçc]|translat|transl|idioma|l[íi]ngua|language|portugu|ingl[eê]s|english|espanhol|español|spanish"
    r"|castellano|franc[eê]s|french|paraphras|parafras",
    re.IGNORECASE,
)


def answer_in_another_language(said: Exchange) -> int | None:
    """The question is in one language and its answer in another, and neither says that it should be."""
    spoken = language_of_text(said.prose)
    if spoken is None:
        return None
    asked = language_of_text(said.prompt)
    if asked is None or asked == spoken or _NAMES_A_LANGUAGE.search(f"{said.prompt}\n{said.said_before}"):
        return None
    return 0


def split_words(said: Exchange) -> int | None:
    """A word of the question stands in the answer in two pieces ("Ta vira")."""
    if not said.prompt:
        return None
    asked = words_of([said.prompt])
    found = split_word(said.prose, asked)
    return found.start() if found and min(map(len, found.groups())) > 1 else None


_TURN = re.compile(
    r"^(?:#{1,3} ?)?(?:Human|User|Usuário|Utilizador|Usuario|Humano|Question|Pergunta|Instruction|Instrução) ?: ?\S?",
    re.MULTILINE,
)
_DIALOGUE = re.compile(
    r"di[áa]log|conversa|entrevista|interview|chat|script|roteiro|role.?play|faq|perguntas|questions|quiz",
    re.IGNORECASE,
)


def turn_in_answer(said: Exchange) -> int | None:
    """After the answer the next question begins: the text was cut too late, and a model would learn to ask itself."""
    found = _TURN.search(said.prose) if ":" in said.prose else None
    if not found or not said.prose[: found.start()].strip() or _DIALOGUE.search(said.prompt):
        return None
    return found.start()


_REFUSAL = re.compile(
    r"(?:(?:I['’]?m|I am) (?:\w+ )?sorry[,.]? ?(?:but )?|sorry, (?:but )?|unfortunately, |as an? AI[^.\n]{0,40}, )?"
    r"I (?:can(?:not|['’]t| not)|am (?:unable|not able)|won['’]t(?: be able)?|will not|must decline)(?: to)? "
    r"(?:help|assist|provide|fulfil|comply|answer|do that|complete|generate|write|create|discuss|engage|support|access"
    r"|browse)"
    r"|(?:I['’]m|I am) unable to |I (?:don['’]t|do not) have (?:access|the ability|personal|enough information)"
    r"|(?:desculpe|desculpa|lamento|sinto muito|peço desculpas?|infelizmente|perdão)[^.\n]{0,30}?,? (?:mas |que )?"
    r"(?:eu )?não (?:posso|consigo|sou capaz|me é possível|tenho (?:acesso|informações))"
    r"|(?:eu )?não (?:posso|consigo) (?:ajudar|responder|fornecer|atender|fazer isso|cumprir|gerar|auxiliar|prestar)"
    r"|lo siento,? (?:pero )?no puedo",
    re.IGNORECASE,
)
_BY_A_MACHINE = re.compile(
    r"(?:^|[.!?:;,\n]\s*|\bbut )as an? (?:AI|artificial intelligence|(?:large )?language model)\b[^.\n]{0,40},"
    r"|\bI(?:['’]m| am) (?:just |only )?an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|(?:^|[.!?:;,\n]\s*|\bmas )como (?:uma? )?(?:grande )?"
    r"(?:modelo de (?:linguagem|língua|idioma|ia)|ia\b|inteligência artificial|assistente (?:de ia|virtual|digital))"
    r"[^.\n]{0,40}, (?:eu |não )"
    r"|\b(?:eu )?sou (?:apenas |só )?(?:um modelo de (?:linguagem|ia)|uma (?:ia\b|inteligência artificial))"
    r"|(?:^|[.!?:;,\n]\s*)como modelo de lenguaje\b",
    re.IGNORECASE,
)
_MACHINES = ("an ai", "artificial intelligence", "language model", "modelo de", "uma ia", "como ia", "inteligência",
             "assistente")  # fmt: skip
"""One of them stands in all that the pattern finds; to look for them is quicker."""


_LONGEST_CLAIM = 500
"""In characters; to look at longer answers word by word costs time, and finds nothing."""


def refusal(said: Exchange) -> int | None:
    """The answer declines: learned, it is declined again."""
    return 0 if said.asked and is_refusal(said.answer) else None


def is_refusal(text: str) -> bool:
    """Whether a text begins by declining, in English, Portuguese or Spanish.

    >>> is_refusal("I'm sorry, but I can't help with that."), is_refusal("Desculpe, mas não posso ajudar.")
    (True, True)
    >>> is_refusal("I can't wait to help you."), is_refusal("Não posso ir ao jogo.")
    (False, False)
    """
    return bool(_REFUSAL.match(text.lstrip(" \"'*")))


def as_an_ai(said: Exchange) -> int | None:
    """The answer says that a language model wrote it."""
    lower = said.prose.lower() if said.asked else ""
    if not any(word in lower for word in _MACHINES):
        return None
    found = _BY_A_MACHINE.search(said.prose)
    return found.start() if found else None


def says_only_that_it_knows(said: Exchange) -> int | None:
    """The answer claims knowledge and gives none: a model that learns it is a parrot."""
    return 0 if said.asked and len(said.answer) < _LONGEST_CLAIM and claims_to_know(said.answer) else None


def better_is_refusal(said: Exchange) -> int | None:
    """Of two answers the one that declines is said to be the better one."""
    if said.rejected is None or not is_refusal(said.answer) or is_refusal(said.rejected):
        return None
    return 0


_LABEL = re.compile(
    r"(?:#{1,3} ?|\*\*)?(?:Answer|Response|Output|Assistant|Resposta|Saída|Assistente|Completion|Bot|GPT)\*{0,2} ?:",
    re.IGNORECASE,
)


def label_in_answer(said: Exchange) -> int | None:
    """It begins with the name of its own field ("Answer:")."""
    if not said.asked or not _LABEL.match(said.answer) or _LABEL.match(said.prompt):
        return None
    return 0


_LITERAL = re.compile(r"\['.*'\]|\{'[^'\n]+': .*\}|array\(\[.*\].*\)", re.DOTALL)
_ASKS_FOR_DATA = re.compile(r"json|list|array|python|dict|vetor|matriz|c[óo]digo|code|program|token|\[", re.IGNORECASE)


def python_literal(said: Exchange) -> int | None:
    """A list or an object as Python prints it where an answer should stand: ``['Faro']``."""
    if not said.asked or said.answer[:1] not in "[{a" or not _LITERAL.fullmatch(said.answer):
        return None
    return None if _ASKS_FOR_DATA.search(f"{said.prompt}\n{said.said_before}") else 0


_ANSWERS_AHEAD = re.compile(
    r"(?:answer|response|output|resposta|saída|completion|gabarito)\*{0,2} ?:\s*\Z", re.IGNORECASE
)


def prompt_holds_answer(said: Exchange) -> int | None:
    """The question says its own answer, behind "Answer:": nothing is learned but to copy."""
    answer = normal(said.answer)
    if not said.prompt or len(answer) < 4:
        return None
    prompt = normal(said.prompt)
    at = prompt.find(answer)
    return 0 if at > 0 and _ANSWERS_AHEAD.search(prompt[:at]) else None


ANSWER_CHECKS: dict[str, AnswerCheck] = {
    "answer_loops": answer_loops,
    "answer_copies_question": answer_copies_question,
    "answer_language": answer_in_another_language,
    "split_words": split_words,
    "turn_in_answer": turn_in_answer,
    "refusal": refusal,
    "as_an_ai": as_an_ai,
    "claims_to_know": says_only_that_it_knows,
    "better_is_refusal": better_is_refusal,
    "label_in_answer": label_in_answer,
    "python_literal": python_literal,
    "prompt_holds_answer": prompt_holds_answer,
}

"""What the teacher is asked, per language, as plain data; and how its answer is read.

The answer is one JSON object, ``{"questions": [{"question", "paraphrases", "answer", "quote"}, ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afina.endpoint.answers import WrongContent, read_json_answer
from afina.recipe import Teacher

TEMPERATURE = 0.3
"""Low: the facts are in the section, only the wording should vary."""

LONGEST_TEXT = 300
"""Characters of a question, an answer or a quote in :func:`answer_schema`: a text that goes in circles ends."""

SYSTEM: Mapping[str, str] = {
    "pt-PT": """\
És um professor que escreve perguntas e respostas em português europeu sobre um excerto de um documento.
Regras:
- Escreve exatamente {questions} perguntas, cada uma com {paraphrases} reformulações da mesma pergunta.
- Cada pergunta compreende-se sem o excerto: diz de quem ou de que se trata, sem «o texto», «o excerto» ou «acima».
- As reformulações pedem o mesmo por outras palavras e têm a mesma resposta.
- A resposta vem só do excerto, curta e completa. Não acrescentes nomes, números ou factos que lá não estejam.
- `quote` é a passagem do excerto, copiada letra por letra, que prova a resposta.
- Se o excerto não tiver nada que se possa perguntar, devolve uma lista vazia.
Responde apenas com JSON, sem mais texto:
{{"questions": [{{"question": "...", "paraphrases": ["..."], "answer": "...", "quote": "..."}}]}}""",
    "pt-BR": """\
Você é um professor que escreve perguntas e respostas em português do Brasil sobre um trecho de um documento.
Regras:
- Escreva exatamente {questions} perguntas, cada uma com {paraphrases} reformulações da mesma pergunta.
- Cada pergunta é compreensível sem o trecho: diga de quem ou do que se trata, sem "o texto", "o trecho" ou "acima".
- As reformulações pedem o mesmo com outras palavras e têm a mesma resposta.
- A resposta vem só do trecho, curta e completa. Não acrescente nomes, números ou fatos que não estejam nele.
- `quote` é a passagem do trecho, copiada letra por letra, que prova a resposta.
- Se o trecho não tiver nada que se possa perguntar, devolva uma lista vazia.
Responda apenas com JSON, sem mais texto:
{{"questions": [{{"question": "...", "paraphrases": ["..."], "answer": "...", "quote": "..."}}]}}""",
    "en": """\
You are a teacher who writes questions and answers in English about a section of a document.
Rules:
- Write exactly {questions} questions, each with {paraphrases} rephrasings of the same question.
- Each question can be understood without the section: say who or what it is about, never "the text" or "above".
- The rephrasings ask for the same in other words and have the same answer.
- The answer comes from the section alone, short and complete. Add no name, number or fact that does not stand there.
- `quote` is the passage of the section, copied letter by letter, that proves the answer.
- If there is nothing in the section to ask about, return an empty list.
Answer with JSON only, without any other text:
{{"questions": [{{"question": "...", "paraphrases": ["..."], "answer": "...", "quote": "..."}}]}}""",
}

USER: Mapping[str, str] = {
    "pt-PT": "Lugar no documento: {heading}\n\nExcerto:\n<<<\n{text}\n>>>",
    "pt-BR": "Lugar no documento: {heading}\n\nTrecho:\n<<<\n{text}\n>>>",
    "en": "Place in the document: {heading}\n\nSection:\n<<<\n{text}\n>>>",
}


@dataclass(frozen=True, slots=True)
class TeacherQuestion:
    """One question as the teacher wrote it, not yet checked."""

    question: str
    answer: str
    quote: str
    paraphrases: tuple[str, ...] = ()


def prompt_for(text: str, heading: str, language: str, teacher: Teacher) -> list[dict[str, str]]:
    """The messages that ask about one section.

    >>> teacher = Teacher(url="http://127.0.0.1:1/v1", model="m", questions_per_section=2)
    >>> asked = prompt_for("Faro marcou aos 30.", "Jogo > Golos", "pt-PT", teacher)
    >>> asked[0]["content"].splitlines()[2][:33], asked[1]["content"].splitlines()[0]
    ('- Escreve exatamente 2 perguntas,', 'Lugar no documento: Jogo > Golos')
    """
    system = SYSTEM[language].format(questions=teacher.questions_per_section, paraphrases=teacher.paraphrases)
    user = USER[language].format(heading=heading or "-", text=text)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def answer_schema(teacher: Teacher) -> dict[str, Any]:
    """The form of an answer as a JSON schema, for whoever can be held to one.

    >>> schema = answer_schema(Teacher(model="base", questions_per_section=2))
    >>> schema["properties"]["questions"]["maxItems"], sorted(read_answer('{"questions": []}'))
    (2, [])
    """
    text = {"type": "string", "maxLength": LONGEST_TEXT}
    paraphrases = {"type": "array", "items": text, "minItems": teacher.paraphrases, "maxItems": teacher.paraphrases}
    keys = {"question": text, "paraphrases": paraphrases, "answer": text, "quote": text}
    item = {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}
    questions = {"type": "array", "items": item, "maxItems": teacher.questions_per_section}
    return {
        "type": "object",
        "properties": {"questions": questions},
        "required": ["questions"],
        "additionalProperties": False,
    }


def read_answer(content: str) -> list[TeacherQuestion]:
    """The questions in an answer; an empty list where the teacher found nothing to ask.

    >>> read_answer('```json\\n{"questions": [{"question": "Q?", "answer": "A", "quote": "A."}]}\\n```')
    [TeacherQuestion(question='Q?', answer='A', quote='A.', paraphrases=())]

    Raises:
        WrongContent: no JSON, not the keys asked for, not text where text is due.
    """
    parsed = read_json_answer(content)
    rows = parsed.get("questions") if isinstance(parsed, dict) else parsed
    if not isinstance(rows, list):
        raise WrongContent("no list `questions`")
    return [_item(row, number) for number, row in enumerate(rows, start=1)]


def _item(row: Any, number: int) -> TeacherQuestion:
    if not isinstance(row, dict):
        raise WrongContent(f"question {number} is not an object")
    texts = []
    for key in ("question", "answer", "quote"):
        value = row.get(key, "" if key == "quote" else None)
        if not isinstance(value, str):
            raise WrongContent(f"question {number} has no text `{key}`")
        texts.append(value.strip())
    paraphrases = row.get("paraphrases") or []
    if not isinstance(paraphrases, list) or not all(isinstance(each, str) for each in paraphrases):
        raise WrongContent(f"the `paraphrases` of question {number} are not texts")
    try:
        json.dumps([texts, paraphrases], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WrongContent(f"question {number} holds half a character") from None
    question, answer, quote = texts
    return TeacherQuestion(question, answer, quote, tuple(each.strip() for each in paraphrases))

"""Answers held to a form: response_format, whole and streamed, alone and in a batch."""

from __future__ import annotations

import concurrent.futures
import copy
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Asked, serving

from afina.errors import DataError, RecipeError
from afina.model.generate.grammar import Grammars, json_grammar
from afina.model.generate.request import Request
from afina.recipe import Chat
from afina.serve.opened import Served
from afina.tokenizer.chat import Renderer

QUESTION = [{"role": "user", "content": "Onde nasceu Ana Faro?"}]
TOWN = {"type": "string", "enum": ["Faro", "Olhão", "Tavira"]}
SCHEMA = {
    "type": "object",
    "properties": {"town": TOWN, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["town", "age"],
    "additionalProperties": False,
}


def form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with serving(tmp_path_factory.mktemp("forms"), places=8) as running:
        yield running


def ask(asked: Asked, **more: Any) -> Any:
    wanted = {"model": "base", "messages": QUESTION, "max_tokens": 80, "temperature": 1.5}
    return asked.client.chat.completions.create(**wanted | more)


def streamed(asked: Asked, **more: Any) -> tuple[str, str | None]:
    text, end = "", None
    for piece in ask(asked, stream=True, **more):
        text += piece.choices[0].delta.content or ""
        end = piece.choices[0].finish_reason or end
    return text, end


def right(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"town", "age"} and value["town"] in TOWN["enum"] and 0 <= value["age"] <= 120


@pytest.mark.parametrize("temperature", [0, 2.0])
def test_an_answer_fits_its_schema(asked: Asked, temperature: float):
    for seed in range(5):
        more = {"response_format": form(SCHEMA), "temperature": temperature, "seed": seed}
        choice = ask(asked, **more).choices[0]
        assert right(choice.message.content) and choice.finish_reason == "stop"
        assert streamed(asked, **more) == (choice.message.content, "stop")


def test_forms_in_a_batch_leave_the_others_alone(asked: Asked):
    """Rows with a form and rows without share a forward; each is what it is alone."""
    wanted = [
        {"response_format": form(SCHEMA), "seed": 1},
        {"seed": 2, "max_tokens": 30},
        {"response_format": form({"type": "array", "items": TOWN, "minItems": 1, "maxItems": 3}), "seed": 3},
        {"temperature": 0, "max_tokens": 30},
    ]
    alone = [ask(asked, **each).choices[0].message.content for each in wanted]
    steps, before = asked.driver.engine.stats, asked.driver.engine.stats.steps
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: ask(asked, **each).choices[0].message.content, wanted * 2))
    assert together == alone * 2 and right(alone[0]) and set(json.loads(alone[2])) <= set(TOWN["enum"])
    assert steps.steps - before < 4 * 80


def test_a_json_object_is_one(asked: Asked):
    ended = 0
    for seed in range(8):
        choice = ask(asked, response_format={"type": "json_object"}, seed=seed, max_tokens=200).choices[0]
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
            ended += 1
    assert ended


def test_a_form_of_text_is_none(asked: Asked):
    plain = ask(asked, seed=1, max_tokens=9).choices[0].message.content
    assert ask(asked, seed=1, max_tokens=9, response_format={"type": "text"}).choices[0].message.content == plain


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 3},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "string", "pattern": "(?=a)b"},
        {"not": {"type": "object"}},
        {"$ref": "https://example.test/schema"},
    ],
    ids=["no type", "no such place", "look-ahead", "not", "another document"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_compiled_is_a_400(asked: Asked, schema: dict[str, Any], stream: bool):
    with pytest.raises(openai.BadRequestError, match="cannot be compiled"):
        ask(asked, response_format=form(schema), stream=stream)
    assert asked.driver.failure is None


@pytest.mark.parametrize(
    "wrong", [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {}}}, "json"]
)
def test_a_form_that_is_none_is_a_400(asked: Asked, wrong: Any):
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ask(asked, response_format=wrong)


def test_pydantic_models_are_parsed_by_the_client(asked: Asked):
    from typing import Literal

    from pydantic import BaseModel

    class Person(BaseModel):
        town: Literal["Faro", "Olhão"]
        alive: bool

    done = asked.client.chat.completions.parse(
        model="base", messages=QUESTION, response_format=Person, max_tokens=60, temperature=1.0
    )
    assert isinstance(done.choices[0].message.parsed, Person)


def test_probabilities_are_the_models_own(asked: Asked):
    """Those of the tokens that the form forbids are told, too."""
    choice = ask(asked, response_format=form(TOWN), temperature=0, logprobs=True, top_logprobs=20).choices[0]
    first = choice.logprobs.content[0]
    assert first.token == '"' and any(each.logprob > first.logprob for each in first.top_logprobs)


@given(
    words=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=5), min_size=1, max_size=3)
)
def test_whatever_the_words_the_answer_is_one_of_them(asked: Asked, words: list[str]):
    engine = asked.driver.engine
    matcher = engine.grammars.matcher(json_grammar({"enum": words}))
    tokens = engine.grammars._tokens()
    for word in words:
        matcher.reset()
        assert (
            matcher.consume_tokens(tokens.tokenize_str(json.dumps(word, ensure_ascii=False))) and matcher.is_accepting()
        )


THINKS = (
    "{%- for message in messages %}<|{{ message.role }}|>"
    "{%- if message.role == 'assistant' %}{{ '\\n<think>\\n' ~ (message.reasoning_content or '') }}"
    "{{ '\\n</think>\\n\\n' }}{% endif %}{{ message.content }}{{ eos_token }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>\\n<think>\\n' }}{% endif %}"
)
"""As models write that always think: the prompt opens the thought."""


def test_a_form_is_the_answers_where_the_prompt_opens_a_thought(asked: Asked):
    """The JSON was told as what the model thinks, and the answer was empty."""
    tokenizer = copy.deepcopy(asked.models.tokenizer)
    tokenizer.chat_template = THINKS
    renderer = Renderer(tokenizer, Chat())
    assert renderer.template.abilities.thought_marks == ("<think>", "</think>")
    asked.models.served["thinker"] = Served("thinker", renderer, None)
    try:
        free = ask(asked, model="thinker", max_tokens=8, seed=1).choices[0].message
        assert not free.content and free.reasoning_content, "without a form it thinks first"
        held = ask(asked, model="thinker", response_format=form(SCHEMA)).choices[0].message
        assert right(held.content) and getattr(held, "reasoning_content", None) is None
        assert right(streamed(asked, model="thinker", response_format=form(SCHEMA))[0])
    finally:
        del asked.models.served["thinker"]


def test_white_space_of_json_ends(asked: Asked):
    grammars = asked.driver.engine.grammars
    tokens = grammars._tokens()
    for text, fits in [
        ('{"a": [1,\n    2]}', True),
        ('{\n  "a":[1, 2]\n}', True),
        ('{  "a":[1]}', False),
        ('{\n\n"a":[1]}', False),
    ]:
        matcher = grammars.matcher(json_grammar({"type": "object"}))
        assert matcher.consume_tokens(tokens.tokenize_str(text)) is fits, text


def test_a_tokenizer_that_cannot_be_read_says_so():
    class Slow:
        backend_tokenizer = None

        def decode(self, ids: list[int]) -> str:
            return "é"

    grammars = Grammars(Slow(), 10, [1])
    with pytest.raises(DataError, match="not a fast one"):
        grammars.matcher(json_grammar({}))
    assert grammars.token_bytes(3) == "é".encode()


def test_the_engine_refuses_a_grammar_of_its_own(asked: Asked):
    with pytest.raises(RecipeError, match="cannot be compiled"):
        asked.driver.engine.submit(Request(prompt=[5], max_new_tokens=4, grammar="{"))

"""Tools: offered through the chat template, called by the model, answered by the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import TOOLS_TEMPLATE, Asked, serving

from afina.serve.messages import Tool
from afina.serve.protocol import ChatRequest
from afina.serve.tools import Call, CallReader, WrittenCallReader
from afina.tokenizer.abilities import Abilities, WrittenCall

QUESTION = [{"role": "user", "content": "Onde nasceu Ana Faro?"}]
TOWN = {"type": "string", "enum": ["Faro", "Olhão"]}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "looks", "parameters": parameters}}


TOOLS = [tool("weather", town=TOWN), tool("age_of", years={"type": "integer", "minimum": 0, "maximum": 9})]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with serving(tmp_path_factory.mktemp("tools"), template=TOOLS_TEMPLATE, context=2048) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with serving(tmp_path_factory.mktemp("plain")) as running:
        yield running


def ask(asked: Asked, **more: Any) -> Any:
    wanted = {"model": "base", "messages": QUESTION, "max_tokens": 120, "temperature": 1.0, "seed": 3, "tools": TOOLS}
    return asked.client.chat.completions.create(**wanted | more)


def collected(stream: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    """A stream's text, its calls and why it ended, put together as clients do."""
    text, calls, end = "", {}, None
    for piece in stream:
        delta = piece.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or []:
            known = calls.setdefault(call.index, ["", ""])
            known[0] += call.function.name or ""
            known[1] += call.function.arguments or ""
        end = piece.choices[0].finish_reason or end
    return text, [(name, arguments) for name, arguments in calls.values()], end


def test_the_template_is_asked_what_it_does_with_tools(asked: Asked, plain: Asked):
    able, none = asked.models.base.renderer.template.abilities, plain.models.base.renderer.template.abilities
    assert able.offers and able.replays and able.hermes and able.calls == "object"
    assert none == Abilities()


def test_a_demanded_call_is_one_whole_and_streamed(asked: Asked):
    choice = ask(asked, tool_choice="required").choices[0]
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None and len(calls) == 1
    assert calls[0][0] in ("weather", "age_of") and json.loads(calls[0][1])
    assert collected(ask(asked, tool_choice="required", stream=True)) == ("", calls, "tool_calls")


@pytest.mark.parametrize("name", ["weather", "age_of"])
def test_the_named_function_is_called(asked: Asked, name: str):
    chosen = {"type": "function", "function": {"name": name}}
    for seed in range(4):
        call = ask(asked, tool_choice=chosen, seed=seed, temperature=2.0).choices[0].message.tool_calls[0]
        value = json.loads(call.function.arguments)
        assert call.function.name == name and call.id and call.type == "function"
        assert value.get("town") in TOWN["enum"] if name == "weather" else 0 <= value["years"] <= 9


def test_references_inside_parameters_are_found(asked: Asked):
    parameters = {
        "type": "object",
        "$defs": {"town": TOWN},
        "properties": {"a": {"$ref": "#/$defs/town"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    referring = {"type": "function", "function": {"name": "go", "parameters": parameters}}
    call = ask(asked, tools=[referring], tool_choice="required").choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["a"] in TOWN["enum"]


def test_calls_and_results_go_back_into_the_history(asked: Asked):
    message = ask(asked, tool_choice="required").choices[0].message
    call = message.tool_calls[0]
    turns = [*QUESTION, message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "sol em Faro"}]
    seen: list[Any] = []
    renderer = asked.models.base.renderer
    done = ask(asked, messages=turns, tool_choice="none", max_tokens=5)
    assert done.usage.prompt_tokens > len(renderer.prompt(QUESTION))
    read = ChatRequest.model_validate({"model": "base", "messages": turns}).messages
    seen = [each.as_turn("", {call.id: call.function.name}) for each in read]
    text = renderer.prompt_text(seen)
    assert f'"name": "{call.function.name}"' in text and "<tool_response>\nsol em Faro" in text
    assert len(renderer.prompt(seen)) == done.usage.prompt_tokens


def test_none_leaves_the_tools_out(asked: Asked):
    without = asked.client.chat.completions.create(model="base", messages=QUESTION, max_tokens=9, seed=1)
    told = ask(asked, tool_choice="none", max_tokens=9, seed=1, temperature=1.0)
    assert told.usage.prompt_tokens == without.usage.prompt_tokens
    assert told.choices[0].message.content == without.choices[0].message.content
    assert ask(asked, max_tokens=1).usage.prompt_tokens > without.usage.prompt_tokens


def test_auto_answers_in_words_where_the_model_does(asked: Asked):
    for seed in range(3):
        choice = ask(asked, seed=seed, max_tokens=20).choices[0]
        text, calls, end = collected(ask(asked, seed=seed, max_tokens=20, stream=True))
        assert (text, calls, end) == (choice.message.content, [], choice.finish_reason)
        assert "tool_calls" not in choice.message.model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tools": None, "tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "nada"}}}, "names none of the tools"),
        ({"response_format": {"type": "json_object"}}, "both have a form and call tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0"),
        ({"tools": [tool("a b")]}, "tools.0.function.name"),
        ({"tools": [tool("f", x={"type": 3})], "tool_choice": "required"}, "cannot be compiled"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "no tool_call_id"),
    ],
)
def test_tools_that_do_not_go_together_are_a_400(asked: Asked, more: dict[str, Any], words: str):
    with pytest.raises(openai.BadRequestError, match=words):
        ask(asked, **more)


@pytest.mark.parametrize(
    "arguments",
    ["[" * 100_000, '{"a": "\\ud83d"}', '{"a": ' + "1" * 5000 + "}", '{"a": NaN}', '{"a": -Infinity}'],
    ids=["endless", "half", "digits", "nan", "infinite"],
)
def test_what_a_model_writes_and_nobody_could_send_stays_text(arguments: str):
    """Half of a surrogate pair is what a small model makes of an emoji: the answer could not be encoded, a 500."""
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    form = WrittenCall('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>")
    for reader in (CallReader({"f"}), WrittenCallReader({"f"}, form)):
        pieces = [*reader.add(text), *reader.finish()]
        assert "".join(map(str, pieces)) == text and not any(isinstance(each, Call) for each in pieces)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}}
    return value


@pytest.mark.parametrize(
    ("arguments", "parameters", "form"),
    [
        ("[" * 100_000, None, None),
        ('{"a": ' * 400 + "1" + "}" * 400, None, None),
        ('{"a": "\\ud800"}', None, None),
        ('{"a": ' + "1" * 1000 + "}", None, None),
        ("[1]", None, None),
        (None, nested(400), None),
        (None, {"type": "object", "properties": {"\ud800": {}}}, None),
        (None, None, nested(400)),
    ],
    ids=["endless", "deep", "half a character", "digits", "list", "deep tool", "half in a tool", "deep form"],
)
def test_nested_values_that_nobody_could_write_are_a_400(
    asked: Asked, arguments: str | None, parameters: Any, form: Any
):
    """What stands inside a text or a free object is no key of ours, and was looked at by nobody: a 500."""
    turns: list[Any] = list(QUESTION)
    wanted: dict[str, Any] = {"model": "base", "messages": turns, "max_tokens": 2}
    if arguments is not None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        turns += [{"role": "assistant", "content": None, "tool_calls": [call]}]
        turns += [{"role": "tool", "tool_call_id": "1", "content": "x"}]
    if parameters is not None:
        wanted["tools"] = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    if form is not None:
        wanted["response_format"] = {"type": "json_schema", "json_schema": {"name": "f", "schema": form}}
    answer = asked.http.post(
        f"{asked.url}/v1/chat/completions",
        content=json.dumps(wanted).encode(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text


def test_a_template_without_tools_refuses_them_in_words(plain: Asked):
    with pytest.raises(openai.BadRequestError, match="has no place for tools"):
        ask(plain)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match="no place for calls"):
        ask(plain, tools=None, messages=[*turns, {"role": "tool", "tool_call_id": "1", "content": "x"}])
    assert ask(plain, tool_choice="none", max_tokens=3).choices[0].message.content is not None
    assert ask(plain, tools=[], max_tokens=3).choices[0].message.content is not None


CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Olhão"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        (CALL, "", 1),
        (f"Já vejo.\n{CALL}\n{CALL}", "Já vejo.", 2),
        (CALL.removesuffix("\n</tool_call>"), "", 1),
        ("<tool_call>{broken}</tool_call> e mais", "<tool_call>{broken}</tool_call> e mais", 0),
        ('<tool_call>\n{"name": "nada"}\n</tool_call>', '<tool_call>\n{"name": "nada"}\n</tool_call>', 0),
        ("a < b e <tool", "a < b e <tool", 0),
        ("só texto \n", "só texto \n", 0),
    ],
)
@given(data=st.data())
def test_however_an_answer_comes_it_is_read_as_whole(text: str, words: str, calls: int, data: Any):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=8)))
    reader, ready = CallReader({"weather"}), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        ready += reader.add(text[start:end])
    ready += reader.finish()
    found = [each for each in ready if isinstance(each, Call)]
    assert "".join(each for each in ready if isinstance(each, str)) == words and len(found) == calls == reader.calls
    assert all((each.name, json.loads(each.arguments)) == ("weather", {"town": "Olhão"}) for each in found)


def test_a_tool_without_parameters_takes_nothing():
    made = Tool.model_validate({"type": "function", "function": {"name": "now", "strict": None}})
    assert made.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


def test_one_call_at_a_time_ends_after_the_first(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    from afina.serve.answers import chat_requests

    wanted = ChatRequest.model_validate(
        {"model": "base", "messages": QUESTION, "tools": TOOLS, "parallel_tool_calls": False, "stop": "X"}
    )
    (request,) = chat_requests(asked.models.base, wanted, 2048)
    assert request.stop == ("X", "</tool_call>") and request.grammar is None

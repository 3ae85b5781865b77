"""Twenty conversations through each of the programs that people use, whole and streamed.

What is right is what the engine writes for the same prompt without any server. OpenAI's client in Python is among the
tests' own requirements; the others are asked where they are there: ``pip install 'afina[clients]'`` for LangChain and
LiteLLM, and for JavaScript node and ``npm install openai`` in a folder that NODE_PATH names (or above tests/). Nothing
is fetched by the tests. What Open WebUI and Continue send was written down by us, in ``tests/clients``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import TOOLS_TEMPLATE, Asked, serving
from thorough import times
from waiting import LONGEST

from afina.model.generate.request import Request
from afina.serve.answers import AnswerText

FOLDER = Path(__file__).parent / "clients"
CONVERSATIONS: list[list[str]] = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))
LIMIT = 12
SHAPES = 4
"""Kinds of requests of a program; each takes its share of the twenty conversations."""
Turns = list[dict[str, Any]]
Ask = Callable[[Turns, bool], str]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with serving(tmp_path_factory.mktemp("clients"), template=TOOLS_TEMPLATE) as running:
        yield running


@pytest.fixture(scope="module")
def right(asked: Asked) -> list[list[str]]:
    """Both answers of each conversation, by the engine alone."""
    import asyncio

    renderer = asked.models.base.renderer

    async def written(turns: Turns) -> str:
        request = Request(prompt=renderer.prompt(turns), max_new_tokens=LIMIT)
        text = ""
        async for piece in asked.driver.answer(request):
            text = piece.done.text if piece.done else text
        return "".join(map(str, AnswerText(chat=True).add(text, last=True)))

    found = []
    for conversation in CONVERSATIONS:
        turns: Turns = []
        said = []
        for content in conversation:
            turns.append({"role": "user", "content": content})
            said.append(asyncio.run(written(turns)))
            turns.append({"role": "assistant", "content": said[-1]})
        found.append(said)
    assert len(found) == 20 and len({tuple(said) for said in found}) > 10
    return found


def talk(ask: Ask, right: list[list[str]], begin: int = 0, every: int = 1) -> None:
    """Twenty conversations (or each `every`-th of them) of two turns, each turn whole and streamed."""
    for conversation, expected in list(zip(CONVERSATIONS, right, strict=True))[begin::every]:
        turns: Turns = []
        for content, answer in zip(conversation, expected, strict=True):
            turns.append({"role": "user", "content": content})
            assert ask(turns, False) == answer
            assert ask(turns, True) == answer
            turns.append({"role": "assistant", "content": answer})


def test_openais_client_in_python(asked: Asked, right: list[list[str]]):
    client = asked.client

    def ask(turns: Turns, stream: bool) -> str:
        wanted = {"model": "base", "messages": turns, "temperature": 0, "max_tokens": LIMIT, "n": 1, "store": False}
        if not stream:
            return client.chat.completions.create(**wanted).choices[0].message.content
        pieces = client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
        return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)

    talk(ask, right, every=times(5, 1))


def test_openais_client_in_javascript(asked: Asked, right: list[list[str]]):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = FOLDER / "openai.mjs"
    probe = f"require('node:module').createRequire({json.dumps(str(script))}).resolve('openai')"
    if subprocess.run([node, "-e", probe], capture_output=True, check=False).returncode:
        pytest.skip("the npm package openai is not there: npm install openai, and NODE_PATH=that folder/node_modules")
    done = subprocess.run(
        [node, str(script), f"{asked.url}/v1"],
        input=json.dumps(CONVERSATIONS),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[[answer, answer] for answer in said] for said in right]


def test_langchain(asked: Asked, right: list[list[str]]):
    chat = pytest.importorskip("langchain_openai", reason="pip install 'afina[clients]'").ChatOpenAI(
        model="base", base_url=f"{asked.url}/v1", api_key="key", temperature=0, max_tokens=LIMIT, max_retries=0
    )

    def ask(turns: Turns, stream: bool) -> str:
        if stream:
            return "".join(piece.content for piece in chat.stream(turns))
        return chat.invoke(turns).content

    talk(ask, right)


def test_langchain_with_forms_and_tools(asked: Asked):
    openai = pytest.importorskip("langchain_openai", reason="pip install 'afina[clients]'")
    from typing import Literal

    from pydantic import BaseModel

    class Person(BaseModel):
        """Where somebody lives."""

        town: Literal["Faro", "Olhão"]
        alive: bool

    chat = openai.ChatOpenAI(model="base", base_url=f"{asked.url}/v1", api_key="key", max_tokens=100, max_retries=0)
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(Person, method=method).invoke("Onde?"), Person)
    called = chat.bind_tools([Person], tool_choice="Person").invoke("Onde?")
    assert called.tool_calls[0]["name"] == "Person"
    from langchain_core.messages import HumanMessage, ToolMessage

    result = ToolMessage("sim", tool_call_id=called.tool_calls[0]["id"])
    assert chat.bind_tools([Person]).invoke([HumanMessage("Onde?"), called, result]).content is not None


def test_litellm(asked: Asked, right: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for prices
    litellm = pytest.importorskip("litellm", reason="pip install 'afina[clients]'")
    more = {"model": "openai/base", "api_base": f"{asked.url}/v1", "api_key": "key", "temperature": 0}

    def ask(turns: Turns, stream: bool) -> str:
        done = litellm.completion(messages=turns, max_tokens=LIMIT, num_retries=0, stream=stream, **more)
        if stream:
            return "".join(piece.choices[0].delta.content or "" for piece in done)
        return done.choices[0].message.content

    talk(ask, right)


def test_litellms_message_goes_back_into_the_history(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="pip install 'afina[clients]'")
    more = {"model": "openai/base", "api_base": f"{asked.url}/v1", "api_key": "key", "max_tokens": 4}
    turns: list[Any] = [{"role": "user", "content": "Onde?"}]
    first = litellm.completion(messages=turns, **more).choices[0].message
    turns += [first.model_dump(), {"role": "user", "content": "E agora?"}]
    assert litellm.completion(messages=turns, **more).choices[0].finish_reason in ("stop", "length")


def recorded(name: str) -> list[Any]:
    shapes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert len(shapes) == SHAPES
    return [pytest.param(shape, place, id=f"{name}: {shape['what']}") for place, shape in enumerate(shapes)]


@pytest.mark.parametrize(("shape", "place"), [*recorded("open_webui"), *recorded("continue")])
def test_requests_as_programs_write_them(asked: Asked, right: list[list[str]], shape: dict[str, Any], place: int):
    def ask(turns: Turns, stream: bool) -> str:
        sent = [dict(turn) for turn in turns]
        if shape.get("parts"):
            sent = [
                turn | {"content": [{"type": "text", "text": turn["content"]}]} if turn["role"] == "user" else turn
                for turn in sent
            ]
        body = shape["body"] | {"messages": sent, "stream": stream}
        answer = asked.http.post(f"{asked.url}/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        if not stream:
            return answer.json()["choices"][0]["message"]["content"]
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        chunks = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in chunks)

    if shape["body"].get("stop") == ["e"]:  # of another length: whole and streamed are compared with each other
        assert all(
            ask(turn, False) == ask(turn, True)
            for turn in ([{"role": "user", "content": content}] for content, _ in CONVERSATIONS[place::SHAPES])
        )
    else:
        talk(ask, right, place, SHAPES * times(3, 1))

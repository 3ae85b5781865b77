"""The server, asked by the official client, unmodified."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
import uvicorn
from tiny import make_base, make_recipe
from waiting import LONGEST, until

from afina.errors import BaseError
from afina.model.base import identify_base
from afina.model.generate.engine_torch import Engine
from afina.model.load_torch import attach_adapter, load_base
from afina.recipe import Adapter, Chat
from afina.serve.app import make_app
from afina.serve.driver import Driver
from afina.serve.opened import Models, Target, find_target, open_models
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.whole import write_json

QUESTION = [{"role": "user", "content": "Onde nasceu Ana Faro?"}]


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """An adapter whose B is random, so that it says something else than the base."""
    model = attach_adapter(load_base(base, make_recipe(base), torch.device("cpu")), Adapter(rank=4, alpha=8), seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    identity = identify_base(base, str(base), load_tokenizer(str(base), Chat()))
    write_json(folder / "afina.json", {"base": identity.as_json(), "afina": "0"})
    return folder


@dataclass
class Running:
    """A server in a thread of the test."""

    url: str
    models: Models
    driver: Driver
    base: Path
    server: uvicorn.Server

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="key", max_retries=0)


def run_server(
    models: Models, *, places: int = 8, queue_limit: int = 8, **options: Any
) -> tuple[uvicorn.Server, Driver]:
    renderer = models.base.renderer
    engine = Engine(models.model, models.tokenizer, renderer.stop_ids(), places=places)
    driver = Driver(engine, queue_limit)
    app = make_app(models, driver, **{"api_key": "key", **options})
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    until(lambda: server.started)
    return server, driver


def url_of(server: uvicorn.Server) -> str:
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    base = make_base(folder / "base")
    adapters = {
        name: Target(name, str(make_adapter(base, folder / name, seed)), Chat(), Path())
        for seed, name in enumerate(("um", "dois"), 1)
    }
    models, warnings = open_models(find_target(str(base)), adapters)
    assert not warnings
    server, driver = run_server(models, change_adapters=True)
    yield Running(url_of(server), models, driver, base, server)
    server.should_exit = True


def expected(running: Running, name: str, new: int = 8) -> str:
    """What transformers itself writes for the question, adapter by adapter."""
    served = running.models.served[name]
    ids = torch.tensor([served.renderer.prompt(QUESTION)])
    model = load_base(running.base, make_recipe(running.base), torch.device("cpu"))
    if served.folder:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, served.folder)
    out = model.generate(
        input_ids=ids, max_new_tokens=new, do_sample=False, eos_token_id=served.renderer.stop_ids(), pad_token_id=0
    )
    written = [token for token in out[0, ids.shape[1] :].tolist() if token not in served.renderer.stop_ids()]
    # Of a character that the limit cut in half nothing is shown, and one space before the first word is no answer's.
    text = str(running.models.tokenizer.decode(written)).rstrip("\N{REPLACEMENT CHARACTER}")
    return text[1:] if text.startswith(" ") and not text.startswith("  ") else text


def test_the_client_lists_models(running: Running):
    cards = {card.id: card for card in running.client.models.list().data}
    assert list(cards) == ["base", "um", "dois"] and cards["um"].parent == "base" and cards["base"].parent is None
    assert all(card.max_model_len == 64 for card in cards.values())
    assert running.client.models.retrieve("dois").id == "dois"


@pytest.mark.parametrize("name", ["base", "um", "dois"])
def test_each_name_answers_as_its_own_weights_do(running: Running, name: str):
    done = running.client.chat.completions.create(model=name, messages=QUESTION, temperature=0, max_tokens=8)
    choice = done.choices[0]
    assert choice.message.content == expected(running, name)
    assert choice.finish_reason == "length" and done.usage and done.usage.completion_tokens == 8


def test_base_and_two_adapters_at_once_do_not_mix(running: Running):
    import concurrent.futures

    names = ["base", "um", "dois"] * 4
    right = {name: expected(running, name) for name in set(names)}

    def ask(name: str) -> str:
        pieces = running.client.chat.completions.create(
            model=name, messages=QUESTION, temperature=0, max_tokens=8, stream=True
        )
        return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)

    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(ask, names)) == [right[name] for name in names]
    assert len(set(right.values())) == 3


def test_a_stream_is_the_whole_answer_in_pieces(running: Running):
    wanted: dict[str, Any] = {
        "model": "um",
        "messages": QUESTION,
        "max_tokens": 12,
        "seed": 7,
        "temperature": 1.2,
        "n": 2,
    }
    whole = running.client.chat.completions.create(**wanted)
    pieces = list(running.client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True}))
    texts, ends = ["", ""], [None, None]
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices] and texts[0] != texts[1]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert pieces[-1].usage == whole.usage


def test_completions_stop_and_logprobs(running: Running):
    text = running.client.completions.create(model="base", prompt="Faro", temperature=0, max_tokens=6, logprobs=2)
    choice = text.choices[0]
    assert choice.logprobs and len(choice.logprobs.tokens or []) == 6
    for value, tops in zip(choice.logprobs.token_logprobs or [], choice.logprobs.top_logprobs or [], strict=True):
        assert value == pytest.approx(max(tops.values())) and value <= 0  # greedy: the likeliest was written
    stop = choice.text[2:4]
    cut = running.client.completions.create(model="base", prompt="Faro", temperature=0, max_tokens=6, stop=[stop])
    assert cut.choices[0].text == choice.text[: choice.text.index(stop)] and cut.choices[0].finish_reason == "stop"
    chat = running.client.chat.completions.create(
        model="um", messages=QUESTION, temperature=0, max_tokens=3, logprobs=True, top_logprobs=3
    )
    assert (
        chat.choices[0].logprobs
        and [len(token.top_logprobs) for token in chat.choices[0].logprobs.content or []] == [3] * 3
    )


def test_several_prompts_and_token_ids(running: Running):
    ids = running.models.tokenizer("Faro")["input_ids"]
    both = running.client.completions.create(model="base", prompt=["Faro", "Lagos"], temperature=0, max_tokens=4, n=2)
    one = running.client.completions.create(model="base", prompt=ids, temperature=0, max_tokens=4)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3] and both.choices[0].text == one.choices[0].text
    assert both.usage and both.usage.prompt_tokens == len(ids) + len(running.models.tokenizer("Lagos")["input_ids"])


def test_ids_of_no_token_and_empty_prompts(running: Running):
    for ids in ([10**9], [[5], [400_000]], [2**63]):
        with pytest.raises(openai.BadRequestError, match="token ids run from 0"):
            running.client.completions.create(model="um", prompt=ids, max_tokens=2)
    with pytest.raises(openai.BadRequestError):
        running.client.completions.create(model="um", prompt=[], max_tokens=2)
    end = running.models.tokenizer.eos_token_id
    empty, document = (
        running.client.completions.create(model="um", prompt=prompt, temperature=0, max_tokens=4).choices[0].text
        for prompt in ([[]], [end])
    )
    assert empty == document


def test_limits_and_options_that_go_together(running: Running):
    asked: dict[str, Any] = {"model": "um", "messages": QUESTION, "temperature": 0}
    short = running.client.chat.completions.create(**asked, max_tokens=5, max_completion_tokens=2)
    assert short.usage and short.usage.completion_tokens == 2 and short.choices[0].logprobs is None
    told = running.client.chat.completions.create(
        **asked, max_tokens=2, top_logprobs=1, extra_body={"stream_options": {"include_usage": True}}
    )
    assert told.choices[0].logprobs and told.usage


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "nada"}, openai.NotFoundError, "there are: base, um, dois"),
        ({"messages": [QUESTION[0] | {"content": "Faro " * 90}]}, openai.BadRequestError, "context length is 64"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty is not served"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools.0.function: Field required"),
        ({"extra_body": {"top_k": 4}}, openai.BadRequestError, "top_k"),
        ({"extra_body": {"chat_template_kwargs": {"chat_template": "x"}}}, openai.BadRequestError, "chat_template"),
        ({"extra_body": {"chat_template_kwargs": {"tokenize": True}}}, openai.BadRequestError, "tokenize"),
    ],
)
def test_errors_are_openais(running: Running, change: dict[str, Any], error: type[openai.APIStatusError], said: str):
    with pytest.raises(error, match=said) as raised:
        running.client.chat.completions.create(**{"model": "base", "messages": QUESTION, "max_tokens": 4} | change)
    assert isinstance(raised.value.body, dict) and set(raised.value.body) == {"message", "type", "param", "code"}


def test_a_wrong_key_and_half_a_json(running: Running):
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="other", max_retries=0).models.list()
    half = httpx.post(
        f"{running.url}/v1/completions",
        content='{"model": "ba',
        headers={"Authorization": "Bearer key", "Content-Type": "application/json"},
        timeout=LONGEST,
    )
    assert half.status_code == 400 and "JSON" in half.json()["error"]["message"]


def test_a_full_queue_is_429_and_a_client_that_hangs_up_frees_its_place(running: Running):
    models, _ = open_models(find_target(str(running.base)), {})
    server, driver = run_server(models, places=1, queue_limit=1)
    url, headers = url_of(server), {"Authorization": "Bearer key"}
    gate = threading.Event()
    step = driver.engine.step
    driver.engine.step = lambda: (gate.wait(LONGEST), step())[1]  # type: ignore[method-assign]
    body = {"model": "base", "prompt": "Faro", "max_tokens": 50, "stream": True}
    streams = [httpx.Client(timeout=LONGEST) for _ in range(2)]
    try:
        opened = [
            client.send(client.build_request("POST", f"{url}/v1/completions", json=body, headers=headers), stream=True)
            for client in streams
        ]
        full = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=LONGEST)
        assert full.status_code == 429 and full.json()["error"]["code"] == "queue_full" and full.headers["retry-after"]
        for response in opened:
            response.close()
        for client in streams:
            client.close()
        gate.set()
        until(lambda: not driver.open and not driver.engine.busy)
        whole = body | {"stream": False}
        again = httpx.post(f"{url}/v1/completions", json=whole, headers=headers, timeout=LONGEST)
        assert again.status_code == 200
    finally:
        gate.set()
        server.should_exit = True


def test_adapters_come_and_go_as_in_vllm(running: Running, tmp_path: Path):
    headers = {"Authorization": "Bearer key"}
    folder = make_adapter(running.base, tmp_path / "três", 3)

    def post(what: str, **body: str) -> httpx.Response:
        return httpx.post(f"{running.url}/v1/{what}_lora_adapter", json=body, headers=headers, timeout=LONGEST)

    assert post("load", lora_name="três", lora_path=str(folder)).text.startswith("Success")
    done = running.client.chat.completions.create(model="três", messages=QUESTION, temperature=0, max_tokens=8)
    assert done.choices[0].message.content == expected(running, "três")
    assert "is taken" in post("load", lora_name="três", lora_path=str(folder)).json()["error"]["message"]
    assert post("unload", lora_name="três").text.startswith("Success")
    with pytest.raises(openai.NotFoundError):
        running.client.chat.completions.create(model="três", messages=QUESTION, max_tokens=4)
    assert post("unload", lora_name="três").status_code == 404
    for place in (str(tmp_path), "x" * 3000, "a\0b"):
        assert post("load", lora_name="x", lora_path=place).status_code == 404


def test_an_adapter_of_another_base_is_not_loaded(running: Running, tmp_path: Path):
    other = make_base(tmp_path / "other", seed=5)
    folder = make_adapter(other, tmp_path / "adapter", 1)
    with pytest.raises(BaseError, match="weights differ"):
        running.models.load("outro", folder)


def test_health_and_metrics(running: Running):
    assert httpx.get(f"{running.url}/health", timeout=LONGEST).json() == {"status": "ok"}
    running.client.completions.create(model="um", prompt="Faro", max_tokens=3, temperature=0)
    text = httpx.get(f"{running.url}/metrics", timeout=LONGEST).text
    assert 'afina_requests_total{finish="length",model="um"}' in text and "afina_first_token_seconds_bucket" in text


def test_the_template_takes_arguments(running: Running):
    renderer = Renderer(running.models.tokenizer, Chat(template_args={"a": 1}))
    assert renderer.with_arguments({}) is renderer
    assert renderer.with_arguments({"enable_thinking": False}).chat.template_args == {"a": 1, "enable_thinking": False}
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    done = running.client.chat.completions.create(
        model="um", messages=QUESTION, temperature=0, max_tokens=8, extra_body=body
    )
    assert done.choices[0].message.content == expected(running, "um")


def test_a_stream_ends_as_openais_does(running: Running):
    body = {"model": "base", "messages": QUESTION, "max_tokens": 2, "stream": True}
    headers = {"Authorization": "Bearer key"}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=LONGEST)
    lines = answer.text.split("\n\n")
    assert (
        lines[-2] == "data: [DONE]" and json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"
    )

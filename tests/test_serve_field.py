"""What people's clients, monitors and proxies do to the server, beyond what OpenAI's own do."""

from __future__ import annotations

import errno
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import TOOLS_TEMPLATE, Asked, serving
from test_serve import run_server, url_of

from afina.errors import AfinaError, RecipeError
from afina.recipe import Chat
from afina.serve import app
from afina.serve.identity import ask_over_http
from afina.serve.listening import not_listening
from afina.serve.messages import TextPart
from afina.serve.opened import Target, find_target
from afina.serve.preflight import check_address
from afina.serve.protocol import ChatRequest, CompletionRequest
from afina.serve.serve import (
    ServeOptions,
    check_names,
    check_origins,
    check_running,
    origin_as_sent,
    settings_text,
)

QUESTION = [{"role": "user", "content": "Onde nasceu Ana Faro?"}]
ASKED: dict[str, Any] = {"model": "base", "messages": QUESTION, "temperature": 0, "max_tokens": 4}
PROMPT: dict[str, Any] = {"model": "base", "prompt": "Faro", "temperature": 0, "max_tokens": 4}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    template = "{% if mark is defined %}{{ mark }}{% endif %}" + TOOLS_TEMPLATE
    with serving(tmp_path_factory.mktemp("field"), template=template, context=192) as running:
        yield running


def post(asked: Asked, body: dict[str, Any], path: str = CHAT) -> httpx.Response:
    return asked.http.post(f"{asked.url}{path}", json=body, follow_redirects=False)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def why_not(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


# ---- who asks


@pytest.fixture(scope="module")
def keyless(asked: Asked) -> Iterator[str]:
    server, _ = run_server(asked.models, api_key=None)
    yield url_of(server)
    server.should_exit = True


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "a b"])
def test_without_a_key_nobody_asks_by_a_name_that_others_can_own(keyless: str, host: str):
    """A page whose name was made to lead here is of the same origin to its browser: it could ask, and read."""
    headers = {"Host": host}
    for given in (
        httpx.post(f"{keyless}{CHAT}", json=ASKED, headers=headers),
        httpx.get(f"{keyless}/v1/models", headers=headers),
    ):
        assert "no name of this machine" in why_not(given, 421) and "--api-key" in given.text


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "host.docker.internal:8000", "mac.local"])
def test_by_its_own_names_it_answers(keyless: str, host: str):
    assert said(httpx.post(f"{keyless}{CHAT}", json=ASKED, headers={"Host": host}, timeout=60))


def test_with_a_key_any_name_will_do(asked: Asked):
    assert said(asked.http.post(f"{asked.url}{CHAT}", json=ASKED, headers={"Host": "models.example"}))


# ---- keys


@pytest.mark.parametrize("keys", [("max_tokens",), ("max_completion_tokens",), ("max_tokens", "max_completion_tokens")])
def test_minus_one_token_is_as_many_as_there_is_room_for(asked: Asked, keys: tuple[str, ...]):
    """What LM Studio's own example sends; it was refused as too few."""
    without = {key: value for key, value in ASKED.items() if key != "max_tokens"}
    whole, given = post(asked, without), post(asked, without | dict.fromkeys(keys, -1))
    assert said(given) == said(whole) and given.json()["usage"] == whole.json()["usage"]
    assert "x-afina-max-tokens" not in given.headers
    both = post(asked, without | {"max_tokens": -1, "max_completion_tokens": 2})
    assert both.json()["usage"]["completion_tokens"] == 2
    for few in (0, -2):
        assert "has to be 1 or more, or -1" in why_not(post(asked, without | dict.fromkeys(keys, few)))


def test_minus_one_token_of_a_text_is_not_sixteen(asked: Asked):
    usage = post(asked, PROMPT | {"max_tokens": -1}, "/v1/completions").json()["usage"]
    told = post(asked, PROMPT | {"max_tokens": 9999}, "/v1/completions").json()["usage"]
    assert usage == told and usage["completion_tokens"] != 16


DEFAULTS: dict[str, Any] = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1, "ignore_eos": False, "min_tokens": 0,
    "skip_special_tokens": True, "stop_token_ids": [], "use_beam_search": False, "length_penalty": 1.0,
    "include_stop_str_in_output": False, "mirostat": 0, "typical_p": 1.0, "bad_words": [],
    "add_generation_prompt": True, "continue_final_message": False, "echo": False, "documents": [],
}  # fmt: skip
"""As clients of vLLM, llama.cpp and Ollama write them out."""


@pytest.mark.parametrize("key", DEFAULTS)
def test_what_other_servers_know_is_taken_where_it_changes_nothing(asked: Asked, key: str):
    assert said(post(asked, ASKED | {key: DEFAULTS[key]})) == said(post(asked, ASKED))
    default = DEFAULTS[key]
    changed = not default if isinstance(default, bool) else [7] if isinstance(default, list) else 0.5
    assert why_not(post(asked, ASKED | {key: changed})) == f"{key}: {key} is not served here"


def test_all_of_them_at_once(asked: Asked):
    assert said(post(asked, ASKED | DEFAULTS | {"top_k": 0})) == said(post(asked, ASKED))


def test_with_a_top_p_of_zero_the_likeliest_token_is_left(asked: Asked):
    """OpenAI takes it; it was refused."""
    for body, path in ((ASKED, CHAT), (PROMPT, "/v1/completions")):
        greedy = post(asked, body | {"max_tokens": 8}, path).json()["choices"]
        drawn = post(asked, body | {"max_tokens": 8, "temperature": 1.5, "top_p": 0, "seed": 3}, path).json()["choices"]
        assert drawn == greedy


@pytest.mark.parametrize("key", ["temperature", "top_p"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_number_that_is_none_is_refused(asked: Asked, key: str, number: str):
    """Python's clients can write one, which JSON has not."""
    body = json.dumps({name: value for name, value in ASKED.items() if name != key})
    text = f'{body[:-1]}, "{key}": {number}}}'
    answer = asked.http.post(f"{asked.url}{CHAT}", content=text, headers={"Content-Type": "application/json"})
    assert key in why_not(answer)


def test_a_null_among_a_templates_arguments_is_not_given(asked: Asked):
    """As of every key of a request."""
    assert said(post(asked, ASKED | {"chat_template_kwargs": {"mark": None}})) == said(post(asked, ASKED))
    marked, plain = (
        post(asked, ASKED | {"chat_template_kwargs": {"mark": mark}}).json()["usage"]["prompt_tokens"]
        for mark in ("Faro Faro Faro", None)
    )
    assert marked > plain


def test_a_result_that_answers_no_call_is_refused(asked: Asked):
    """A history that was cut in its middle: the model read a result of nothing, under an empty name."""
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sol"}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    for turns in (
        [*QUESTION, result],
        [*QUESTION, result, {"role": "assistant", "content": None, "tool_calls": [call]}],
    ):
        assert "'call_1', which no message before it calls" in why_not(post(asked, ASKED | {"messages": turns}))
    whole = [*QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
    assert post(asked, ASKED | {"messages": whole}).status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stop": [None]}, "stop: Input should be a valid string; stop.0: Input should be a valid string"),
        ({"chat_template_kwargs": {"mark": [1]}}, "chat_template_kwargs.mark: Input should be a valid boolean, or "),
        ({"response_format": {"type": "json_schema"}}, "response_format.type: Input should be 'text', or "),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid string, or "),
    ],
    ids=["stop", "an argument", "a form", "a content"],
)
def test_what_is_wrong_is_said_with_the_clients_own_key(asked: Asked, change: dict[str, Any], words: str):
    """It was `stop.constrained-str` and `response_format.function-wrap[_read_keys()].type`."""
    answer = post(asked, ASKED | change)
    assert why_not(answer).startswith(words) and answer.json()["error"]["param"] == words.partition(":")[0]


def test_every_key_of_openais_own_client_is_known():
    """A key that its next version sends is taken, ignored and said, or refused in words, and not by its spelling."""
    from openai.types import completion_create_params
    from openai.types.chat import chat_completion_content_part_text_param
    from openai.types.chat import completion_create_params as of_chats

    sent = {
        ChatRequest: of_chats.CompletionCreateParamsBase,
        CompletionRequest: completion_create_params.CompletionCreateParamsBase,
        TextPart: chat_completion_content_part_text_param.ChatCompletionContentPartTextParam,
    }
    for request, keys in sent.items():
        known = {*request.model_fields, *request.IGNORED, *request.NEUTRAL}
        assert {*keys.__annotations__, "stream"} - known <= ({"stream"} if request is TextPart else set())


def test_a_seed_of_minus_one_is_none(asked: Asked):
    """As llama.cpp and LM Studio write out their default: asked again, the same answer came every time."""
    body = ASKED | {"temperature": 1.5, "max_tokens": 8}
    texts = {seed: {said(post(asked, body | {"seed": seed})) for _ in range(6)} for seed in (-1, 7)}
    assert len(texts[7]) == 1 < len(texts[-1])
    assert ChatRequest.model_validate(body | {"seed": -2}).seed_of(0) is not None


def test_more_answers_than_can_ever_wait_are_not_told_to_come_again(asked: Asked):
    """With eight places and eight that wait: 429 and Retry-After, however often it was asked."""
    most = asked.driver.most
    for body, path, key in (
        (ASKED | {"n": most + 1}, CHAT, "n"),
        (PROMPT | {"prompt": ["Faro"] * (most + 1)}, "/v1/completions", "prompt"),
        (PROMPT | {"prompt": ["Faro"] * most, "n": 128}, "/v1/completions", "n"),
    ):
        answer = post(asked, body, path)
        assert f"this server holds {most} at most: ask in several requests" in why_not(answer)
        assert answer.json()["error"]["param"] == key
    assert len(post(asked, ASKED | {"n": most, "max_tokens": 1}).json()["choices"]) == most


@pytest.mark.parametrize(
    "half",
    [
        *({"\ud800": 1}, {"user": {"\ud800": 1}}, {"metadata": {"a": "\ud800"}}, {"model": "\ud800"}),
        *({"chat_template_kwargs": {"\ud800": 1}}, {"chat_template_kwargs": {"mark": "\ud800"}}, {"stop": "\ud800"}),
        *({"tools": [{"\ud800": 1}]}, {"messages": [{"role": "user", "content": "\ud800"}]}, {"tool_choice": "\ud800"}),
    ],
)
def test_half_a_character_in_any_key_is_an_answer(asked: Asked, half: dict[str, Any]):
    answer = asked.http.post(
        f"{asked.url}{CHAT}", content=json.dumps(ASKED | half), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (200, 400, 404) and answer.json()


def test_what_stands_before_the_server_hands_on_a_stream_as_it_comes(asked: Asked):
    """nginx holds an answer back until it has some pages of it, unless it is told otherwise."""
    answer = post(asked, ASKED | {"stream": True})
    assert answer.headers["x-accel-buffering"] == "no" and answer.headers["cache-control"] == "no-cache"


# ---- addresses and methods


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions", "/v1/models/"]
)
def test_slashes_too_many_are_none(asked: Asked, path: str):
    """As base URLs with a slash at their end give them: a redirect without a body, or nothing there."""
    method = "GET" if "models" in path else "POST"
    answer = asked.http.request(method, f"{asked.url}{path}", json=ASKED, follow_redirects=False)
    assert answer.status_code == 200 and answer.json().get("choices", answer.json().get("data"))


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/base", "/metrics"])
def test_a_monitor_asks_for_the_head_alone(asked: Asked, path: str):
    """`wget --spider http://127.0.0.1:8000/health` was told 405."""
    head, whole = (asked.http.request(method, f"{asked.url}{path}") for method in ("HEAD", "GET"))
    assert head.status_code == whole.status_code == 200 and not head.content and whole.content
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_another_method_says_which_one(asked: Asked):
    assert why_not(asked.http.get(f"{asked.url}{CHAT}"), 405) == f"{CHAT} is asked by POST, not by GET"
    asks = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}
    assert "--cors ORIGIN" in why_not(asked.http.options(f"{asked.url}{CHAT}", headers=asks), 405)


def test_a_client_that_adds_v1_itself_is_told_so(asked: Asked):
    told = why_not(post(asked, ASKED, "/v1/v1/chat/completions"), 404)
    assert told.endswith("this client adds /v1 itself, so its base URL ends before it")


# ---- bodies


BODY = json.dumps(ASKED).encode()
LATIN = json.dumps({**ASKED, "user": "Zé"}, ensure_ascii=False).encode("latin-1")


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (gzip.compress(BODY), {"Content-Encoding": "gzip"}, 415, "packed (gzip)"),
        (BODY, {"Content-Type": "application/x-www-form-urlencoded"}, 415, "x-www-form-urlencoded: send"),
        (BODY, {"Content-Type": "text/plain;charset=UTF-8"}, 415, "Content-Type: application/json"),
        (BODY, {"Content-Type": ""}, 415, "without saying what it is"),
        (LATIN, {}, 400, "cannot be read as JSON in UTF-8"),
        (b"", {}, 400, "the request has no body"),
        (b"[]", {}, 400, "valid dictionary"),
    ],
    ids=["gzip", "a form", "text", "nothing", "latin-1", "empty", "list"],
)  # fmt: skip
def test_a_body_that_cannot_be_read_says_why(
    asked: Asked, body: bytes, headers: dict[str, str], status: int, words: str
):
    """curl without a header, PowerShell's encoding, an SDK that packs: all were "There was an error parsing the body",
    or no dictionary."""
    given = {"Content-Type": "application/json", **headers}
    assert words in why_not(asked.http.post(f"{asked.url}{CHAT}", content=body, headers=given), status)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"]
)
def test_a_charset_beside_json_is_taken_and_so_are_pieces(asked: Asked, kind: str):
    for content in (BODY, b"\xef\xbb\xbf" + BODY, iter([BODY[:9], BODY[9:]])):
        answer = asked.http.post(f"{asked.url}{CHAT}", content=content, headers={"Content-Type": kind})
        assert said(answer) == said(post(asked, ASKED))


def test_a_body_without_end_is_refused_before_it_is_read(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    """Who has no key filled the memory of the machine: by the length that is told, and by what comes without one."""
    address = asked.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=60) as told:
        told.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {app.MOST_BYTES + 1}\r\n\r\n".encode()
        )
        assert b" 413 " in told.recv(4096).partition(b"\r\n")[0]
    monkeypatch.setattr(app, "MOST_BYTES", 1 << 20)
    large = json.dumps(ASKED | {"user": "x" * (1 << 20)}).encode()
    for content in (large, iter([large[: 1 << 19], large[1 << 19 :]])):
        answer = asked.http.post(f"{asked.url}{CHAT}", content=content, headers={"Content-Type": "application/json"})
        assert why_not(answer, 413) == "the body is longer than 1 MiB: send less text in one request"
    assert said(post(asked, ASKED)) == said(post(asked, ASKED | {"user": "x" * (1 << 19)}))


# ---- where it listens, and what it is called


def test_an_origin_is_what_browsers_send():
    """With the port that a scheme has by itself, or in capitals, it was taken and no page could ever ask."""
    sent = {
        "http://localhost:80": "http://localhost",
        "https://App.Example:443": "https://app.example",
        "HTTP://localhost:3000": "http://localhost:3000",
        "http://[::1]:80": "http://[::1]",
        "tauri://localhost": "tauri://localhost",
        "app://obsidian.md": "app://obsidian.md",
    }
    assert {each: origin_as_sent(each) for each in sent} == sent
    for wrong in ("localhost:3000", "http://a/", "http://a/b", "http://u@a", "http://a:b", "http://a b", "null", ""):
        assert origin_as_sent(wrong) is None
        with pytest.raises(RecipeError, match="is no origin"):
            check_origins([wrong], "local")


def test_no_adapter_takes_the_name_of_the_run_or_of_its_base(tmp_path: Path):
    """`--adapter demo=runs/other` beside the run demo: it was served in the run's place, and the run not at all."""
    run = Target("demo", "models/tiny", Chat(), tmp_path, adapter=tmp_path, run=tmp_path)
    other = Target("x", "models/tiny", Chat(), tmp_path)
    for name, what in (("demo", "the run"), ("tiny", "the base")):
        with pytest.raises(RecipeError, match=f"--adapter {name} is what {what} is called already"):
            settings_text("openai", run, {name: other}, ServeOptions(engine="local"), print)
    check_names(run, {"other": other})
    # A run that is called as its base was refused as two of one name, behind the weights and with no way out.
    assert (run.base_name, replace(run, name="tiny").base_name) == ("tiny", "tiny-base")
    assert replace(run, adapter=None).base_name == "demo"


def test_why_a_server_cannot_listen_is_the_systems_reason(monkeypatch: pytest.MonkeyPatch):
    """Whatever it was, something was said to listen there."""

    def in_the_way(host: str, port: int) -> str:
        problem = not_listening(host, port)
        assert problem is not None and problem.fix
        return f"{problem.where}: {problem.what}"

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert in_the_way("127.0.0.1", port) == f"--port: something listens on 127.0.0.1:{port} already"
    assert not_listening("127.0.0.1", port) is None
    assert "address of another machine" in in_the_way("203.0.113.7", port)
    assert [in_the_way("127.0.0.1", each) for each in (0, -1, 65536)] == [
        f"--port: {each} is no port" for each in (0, -1, 65536)
    ]

    def barred(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as other:
        other.setattr(socket.socket, "bind", barred, raising=False)
        assert in_the_way("127.0.0.1", 80) == "--port: this user may not listen on port 80"

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert in_the_way("[::1]", 8000) == "--host: '[::1]' is a name of no machine"
    problem = not_listening("[::1]", 8000)
    assert problem is not None and problem.fix == "--host ::1"


def test_an_address_of_version_six_is_written_in_brackets():
    """It was `http://::1:8000`, which nobody could ask: the proof that ends the start neither."""
    assert ServeOptions(host="::1").url == "http://[::1]:8000" == ServeOptions(host="::").url
    assert ServeOptions(host="0.0.0.0").url == ServeOptions().url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("key", ["", " ", "a\n", " a", "chave-é"])
def test_a_key_that_no_client_could_send_is_refused(key: str):
    """`--api-key "$KEY"` where it is not set: a server that let nobody in, itself neither."""
    with pytest.raises(RecipeError, match=r"the key (is empty|holds what no client)"):
        check_address("127.0.0.1", key)
    check_address("127.0.0.1", None)
    check_address("127.0.0.1", "sk-a b")


def test_a_base_goes_by_its_folders_name_where_one_stands_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`afina serve .` had a model without a name."""
    (tmp_path / "tiny/inner").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path / "tiny")
    assert [find_target(each).name for each in (".", "./", "inner/..", "../current")] == ["tiny"] * 3 + ["current"]
    assert find_target("Qwen/Qwen3-8B").name == "Qwen3-8B"
    monkeypatch.chdir(tmp_path / "tiny/inner")
    assert find_target("..").name == "tiny"


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b""])
def test_what_is_no_server_of_this_kind_is_named(answer: bytes):
    """Another program's port, and a server that ends in the middle of an answer: a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        threading.Thread(target=speak, daemon=True).start()
        ask = ask_over_http(f"http://127.0.0.1:{listener.getsockname()[1]}", None)
        with pytest.raises(AfinaError, match="the server does not answer"):
            ask("base", QUESTION, 4)


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000/v1", "http:///v1", "ftp://box"])
def test_an_address_without_a_scheme_is_refused_in_words(url: str, tmp_path: Path):
    """ "unknown url type: localhost", and the advice to look whether it runs."""
    target = find_target(str(tmp_path))
    object.__setattr__(target, "run", tmp_path)
    with pytest.raises(RecipeError, match="is no address of a server"):
        check_running(target, url, ServeOptions())

"""What OpenAI's clients send along: taken, ignored and said, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serving import Asked, serving

from afina.serve.answers import AnswerText

QUESTION = [{"role": "user", "content": "Onde nasceu Ana Faro?"}]
ASKED: dict[str, Any] = {"model": "base", "messages": QUESTION, "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with serving(tmp_path_factory.mktemp("keys"), context=256, origins=["http://page.test"]) as running:
        yield running


def post(asked: Asked, body: dict[str, Any], path: str = "chat/completions") -> httpx.Response:
    return asked.http.post(f"{asked.url}/v1/{path}", json=body)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


NULLS = ["max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "seed", "stop", "stream", "stream_options"]
NULLS += ["logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "tools", "tool_choice"]
NULLS += ["parallel_tool_calls", "response_format", "user", "store", "metadata", "service_tier", "reasoning_effort"]
NULLS += ["functions", "function_call", "modalities", "audio", "prediction", "chat_template_kwargs", "something_new"]


@pytest.mark.parametrize("key", NULLS)
def test_null_is_the_default(asked: Asked, key: str):
    without = {name: value for name, value in ASKED.items() if name != key}
    answer = post(asked, without | {"seed": 5, "max_tokens": 4} | {key: None})
    assert answer.status_code == 200 and "x-afina-ignored" not in answer.headers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", False),
        ("metadata", {"chat": "1"}),
        ("service_tier", "auto"),
        ("reasoning_effort", "low"),
        ("user", "ana"),
        ("user", {"name": "Ana", "id": "1"}),
        ("verbosity", "low"),
        ("safety_identifier", "x"),
        ("prompt_cache_key", "x"),
        ("prompt_cache_options", {"mode": "explicit", "ttl": "30m"}),
        ("prediction", {"type": "content", "content": "Faro"}),
    ],
)
def test_a_key_that_means_nothing_here_is_ignored_and_said(asked: Asked, key: str, value: Any):
    answer = post(asked, ASKED | {key: value})
    assert said(answer) == said(post(asked, ASKED)) and answer.headers["x-afina-ignored"] == key
    streamed = post(asked, ASKED | {key: value, "stream": True})
    assert streamed.headers["x-afina-ignored"] == key


@pytest.mark.parametrize("key", ["frequency_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [0, 0.0])
def test_a_neutral_value_is_taken(asked: Asked, key: str, value: float):
    assert post(asked, ASKED | {key: value}).status_code == 200
    assert post(asked, ASKED | {key: False}).status_code == 400


def test_an_unknown_key_is_refused_with_the_nearest_known_one(asked: Asked):
    error = post(asked, ASKED | {"max_token": 3}).json()["error"]
    assert "max_token is not known here; did you mean max_tokens?" in error["message"] and error["param"] == "max_token"
    inner = post(asked, ASKED | {"stream_options": {"include_usages": True}}).json()["error"]
    assert "did you mean include_usage?" in inner["message"] and inner["param"] == "stream_options.include_usages"


def test_max_tokens_beyond_the_room_is_clamped_and_said(asked: Asked):
    body = ASKED | {"max_tokens": 100_000}
    answer = post(asked, body)
    usage = answer.json()["usage"]
    room = 256 - usage["prompt_tokens"]
    assert answer.headers["x-afina-max-tokens"] == str(room) and usage["completion_tokens"] <= room
    assert post(asked, body | {"stream": True}).headers["x-afina-max-tokens"] == str(room)
    assert "x-afina-max-tokens" not in post(asked, ASKED).headers
    text = post(asked, {"model": "base", "prompt": "Faro", "max_tokens": 9999, "temperature": 0}, "completions")
    assert text.status_code == 200 and int(text.headers["x-afina-max-tokens"]) < 256


def test_an_answer_goes_back_into_the_history_as_it_came(asked: Asked):
    first = asked.client.chat.completions.create(**ASKED).choices[0].message
    plain = [*QUESTION, {"role": "assistant", "content": first.content}, *QUESTION]
    dumped = [*QUESTION, first.model_dump(), *QUESTION]
    assert {"refusal", "annotations", "audio", "function_call", "tool_calls"} <= set(dumped[1])
    answers = [
        asked.client.chat.completions.create(**ASKED | {"messages": turns}).choices[0].message.content
        for turns in (plain, dumped, [*QUESTION, first, *QUESTION])
    ]
    assert len(set(answers)) == 1


def test_names_parts_and_other_keys_of_messages(asked: Asked):
    parts = [{"type": "text", "text": "Onde nasceu "}, {"type": "text", "text": "Ana Faro?"}]
    turn = {"role": "user", "content": parts, "name": "ana"}
    answer = post(asked, ASKED | {"messages": [turn]})
    assert said(answer) == said(post(asked, ASKED)) and answer.headers["x-afina-ignored"] == "messages.name"
    extras = {"role": "assistant", "content": "Faro", "reasoning_content": "...", "provider_specific_fields": {"a": 1}}
    history = post(asked, ASKED | {"messages": [*QUESTION, extras, *QUESTION]})
    assert history.headers["x-afina-ignored"] == "messages.provider_specific_fields, messages.reasoning_content"
    refused = [*QUESTION, {"role": "assistant", "content": None, "refusal": "Não."}, *QUESTION]
    told = [*QUESTION, {"role": "assistant", "content": "Não."}, *QUESTION]
    assert said(post(asked, ASKED | {"messages": refused})) == said(post(asked, ASKED | {"messages": told}))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "images are not served here"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "sound is not served here"),
        ({"type": "file", "file": {"file_id": "x"}}, "files are not served here"),
    ],
)
def test_what_is_no_text_is_refused_in_words(asked: Asked, part: dict[str, Any], words: str):
    with pytest.raises(openai.BadRequestError, match=words):
        asked.client.chat.completions.create(**ASKED | {"messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": None}], "no content"),
        ([*QUESTION, {"role": "tool", "content": "x"}], "no place for calls"),
        ([*QUESTION, {"role": "assistant", "content": "x", "audio": {"id": "a"}}], "audio is not served here"),
    ],
)
def test_messages_that_say_nothing_are_refused(asked: Asked, turns: list[Any], words: str):
    error = post(asked, ASKED | {"messages": turns})
    assert error.status_code == 400 and words in error.json()["error"]["message"]


@pytest.mark.parametrize("path", ["embeddings", "responses", "images/generations", "audio/speech", "moderations"])
def test_routes_of_openai_that_are_not_served_say_so(asked: Asked, path: str):
    answer = post(asked, {"model": "base", "input": "Faro"}, path)
    error = answer.json()["error"]
    assert answer.status_code == 404 and set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith(f"/v1/{path} is not served here; there are /v1/chat/completions")


def test_the_clients_embeddings_call_and_a_wrong_base_url_say_what_is_wrong(asked: Asked):
    with pytest.raises(openai.NotFoundError, match="not served here"):
        asked.client.embeddings.create(model="base", input="Faro")
    client = openai.OpenAI(base_url=asked.url, api_key="key", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="base URL ends with /v1"):
        client.chat.completions.create(**ASKED)


def test_a_page_that_is_named_may_ask_and_no_other(asked: Asked):
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    url = f"{asked.url}/v1/chat/completions"
    allowed = asked.http.options(url, headers=asks | {"Origin": "http://page.test"})
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "http://page.test"
    assert asked.http.options(url, headers=asks | {"Origin": "http://other.test"}).status_code == 400
    answer = asked.http.post(url, json=ASKED, headers={"Origin": "http://page.test"})
    assert answer.headers["access-control-allow-origin"] == "http://page.test"
    assert "X-Afina-Ignored" in answer.headers["access-control-expose-headers"]
    refused = asked.http.post(url, json={}, headers={"Origin": "http://page.test"})
    assert refused.status_code == 400 and refused.headers["access-control-allow-origin"] == "http://page.test"
    # Chrome asks so where a page of the internet asks this network; the whole question was refused.
    inwards = asks | {"Origin": "http://page.test", "Access-Control-Request-Private-Network": "true"}
    allowed = asked.http.options(url, headers=inwards)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-private-network"] == "true"
    assert asked.http.options(url, headers=inwards | {"Origin": "http://other.test"}).status_code == 400


def test_bytes_of_half_characters_are_the_tokens_own(asked: Asked):
    """The likeliest tokens at each place come to every byte; half a character's bytes are not those of U+FFFD."""
    seen: dict[str, bytes] = {}
    for seed in range(6):
        body = ASKED | {"temperature": 2.0, "seed": seed, "max_tokens": 40, "logprobs": True, "top_logprobs": 20}
        for token in post(asked, body).json()["choices"][0]["logprobs"]["content"]:
            for each in token["top_logprobs"]:
                seen[json.dumps(each["bytes"])] = bytes(each["bytes"])
    halves = [each for each in seen.values() if len(each) == 1 and each[0] >= 0x80]
    assert len(halves) > 5 and "\N{REPLACEMENT CHARACTER}".encode() not in seen.values()


def test_no_half_character_and_no_leading_space_is_sent(asked: Asked):
    for seed in range(12):
        body = ASKED | {"temperature": 2.0, "seed": seed, "max_tokens": 9}
        whole = said(post(asked, body))
        pieces = asked.client.chat.completions.create(**body, stream=True)
        streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        assert streamed == whole and not whole.endswith("\N{REPLACEMENT CHARACTER}")
        assert not whole.startswith(" ") or whole.startswith("  ")


def test_one_space_before_the_first_word_is_no_answers():
    def shown(*pieces: str) -> str:
        text = AnswerText(chat=True)
        ready = [each for piece in pieces for each in text.add(piece)]
        return "".join(map(str, [*ready, *text.add("", last=True)]))

    assert shown(" Faro") == shown(" ", "Faro") == shown("Faro") == "Faro"
    assert shown("  x = 1") == shown(" ", " x = 1") == "  x = 1"
    assert shown(" ") == "" and shown("a ") == "a "
    assert "".join(map(str, AnswerText(chat=False).add(" Faro"))) == " Faro"


def test_no_setting_that_is_taken_ends_the_engine(asked: Asked):
    for temperature, top_p in ((5e-324, 0.5), (1e-310, 1.0), (2.0, 5e-324)):
        answer = post(asked, ASKED | {"temperature": temperature, "top_p": top_p})
        assert answer.status_code == 200, answer.text
    assert post(asked, ASKED).status_code == 200 and asked.driver.failure is None


def test_a_failing_answer_is_an_error_and_not_an_end(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    import torch

    weight = asked.driver.engine._call.model.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    try:
        answer = post(asked, ASKED)
        assert answer.status_code == 500 and "could not go on" in answer.json()["error"]["message"]
        with pytest.raises(openai.APIError, match="could not go on"):
            list(asked.client.chat.completions.create(**ASKED, stream=True))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert post(asked, ASKED).status_code == 200

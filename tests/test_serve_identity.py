"""Before the start, and the proof afterwards: the server is asked what the run was asked."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_serve import Running, make_adapter, run_server, url_of
from tiny import NAMES, TOWNS, make_base, make_recipe
from waiting import LONGEST

from afina.errors import AfinaError, RecipeError, ResultError
from afina.evaluate.evaluate import ProbeAnswers, answer_row
from afina.evaluate.probes import SAMPLES, Question
from afina.model.generate.generate_torch import Answer, generate
from afina.model.load_torch import load_base, open_adapter
from afina.recipe import Chat, Evaluate
from afina.serve.commands import client_settings
from afina.serve.identity import (
    AT_ONCE,
    Parting,
    Stored,
    ask_over_http,
    check_identity,
    opener_of,
    refuse_wrong,
    stored_answers,
)
from afina.serve.opened import Target, find_target, open_models
from afina.serve.preflight import look_before
from afina.serve.serve import ServeOptions, serve
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of a run matters here: recipe, adapter, and the answers of base and adapter."""
    folder = tmp_path_factory.mktemp("identity") / "corrida"
    base = make_base(folder.parent / "base")
    adapter = make_adapter(base, folder / "adapter", 1)
    recipe = make_recipe(base, evaluate=Evaluate(max_new_tokens=8)).model_copy(update={"name": "corrida"})
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    renderer = Renderer(load_tokenizer(str(base), Chat()), Chat())
    questions = [f"Onde nasceu {name} {town}?" for name in NAMES for town in TOWNS[:2]]
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question in questions]
    model = load_base(base, recipe, torch.device("cpu"))
    before = [answer.text for answer in generate(model, renderer, prompts, max_new_tokens=8)]
    after = [answer.text for answer in generate(open_adapter(model, adapter), renderer, prompts, max_new_tokens=8)]
    rows = zip(questions, before, after, strict=True)
    text = "".join(json.dumps({"prompt": q, "base": b, "adapter": a}) + "\n" for q, b, a in rows)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
    return folder


def served(run: Path, adapter: Path | None = None) -> Running:
    """A server of a run's base, with the run's adapter or another under its name."""
    target = find_target(str(run))
    wrong = Target("corrida", target.base, Chat(), Path(), target.recipe, run, adapter or target.adapter)
    models, _ = open_models(wrong, {})
    server, driver = run_server(models)
    return Running(url_of(server), models, driver, Path(target.base), server)


def compared(running: Running, run: Path) -> Any:
    try:
        return check_identity(ask_over_http(running.url, "key"), run, "corrida", "base")
    finally:
        running.server.should_exit = True


def test_the_runs_own_adapter_is_itself(run: Path):
    found = compared(served(run), run)
    assert (found.asked, found.same, found.problems) == (12, {"base": 12, "corrida": 12}, [])
    assert found.tellable == 12 and found.alike == 0


@pytest.mark.parametrize(
    "body",
    [b'{"choices": []}', b'{"choices": null}', b"[]", b"{}", b"[" * 100_000, b"\xff"],
    ids=lambda body: str(body[:20]),
)
def test_a_server_that_answers_something_else_is_named(body: bytes):
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(AfinaError, match="the server answers something else"):
            ask_over_http(url, None)("m", [{"role": "user", "content": "Olá"}], 4)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", b""],
    ids=["no HTTP", "cut off", "nothing"],
)
def test_what_is_no_server_is_said(said: bytes):
    """Another program on the port, or one that ended in the middle: a traceback."""

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=[listening], daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(AfinaError, match=r"the server does not answer(.|\n)*is it running"):
            ask_over_http(url, None)("m", [{"role": "user", "content": "Olá"}], 4)


def test_no_proxy_of_the_environment_stands_before_this_machines_own_server(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Behind a company's proxy a server could not be compared with its run, and the proxy was given its key."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert compared(served(run), run).problems == []
    assert "127.0.0.1:9" in str([vars(each) for each in opener_of("http://oracle.example").handlers])


def test_another_adapter_under_its_name_is_found_out(run: Path, tmp_path: Path):
    other = make_adapter(run.parent / "base", tmp_path / "other", 9)
    found = compared(served(run, other), run)
    assert found.same["base"] == 12 and found.same["corrida"] < 12
    with pytest.raises(ResultError, match="not the trained one") as raised:
        refuse_wrong(found)
    assert raised.value.exit_code == 5


def test_an_adapter_of_zeros_is_found_out(run: Path, tmp_path: Path):
    shutil.copytree(run / "adapter", tmp_path / "zero")
    file = tmp_path / "zero/adapter_model.safetensors"
    save_file({name: torch.zeros_like(weight) for name, weight in load_file(file).items()}, file)
    found = compared(served(run, tmp_path / "zero"), run)
    assert found.alike == found.tellable == 12
    assert any("the adapter is not applied" in problem for problem in found.problems)


def test_another_template_is_found_out(run: Path):
    """Base and adapter are the run's: what they are asked is not. (At the start it would be refused.)"""
    running, chatml = served(run), Chat(template="chatml")
    for each in running.models.served.values():
        each.renderer = Renderer(load_tokenizer(str(running.base), chatml), chatml)
    found = compared(running, run)
    assert found.same["base"] < 12 and found.same["corrida"] < 12
    with pytest.raises(ResultError, match="not the trained one"):
        refuse_wrong(found)


def test_another_base_below_the_adapter_is_found_out(run: Path):
    """Its weights were changed after they had been looked at."""
    running = served(run)
    with torch.no_grad():
        running.models.model.get_base_model().model.norm.weight[::2] = -1.0
    found = compared(running, run)
    assert found.same["base"] < 12 and found.same["corrida"] < 12 and len(found.problems) == 2


def test_answers_share_the_steps_of_the_engine(run: Path):
    """24 answers of 8 tokens: one by one they are 192 steps, each of which reads all weights."""
    running = served(run)
    found = compared(running, run)
    stats = running.driver.engine.stats
    assert (found.problems, stats.requests) == ([], 24)
    assert stats.written > 150 and stats.steps < stats.written / 3, stats


def test_several_questions_are_under_way_at_a_time_and_each_answer_stands_beside_its_own(run: Path):
    stored, _ = stored_answers(run)
    right = {}
    for each in stored:
        right |= {("b", str(each.messages)): each.base, ("c", str(each.messages)): each.trained}
    together, seen = threading.Barrier(AT_ONCE, timeout=LONGEST), list[tuple[int, int | None]]()

    def ask(name: str, messages: Any, limit: int) -> str:
        together.wait()  # until as many have asked
        return right[name, str(messages)]

    def progress(done: int, total: int | None, what: str) -> None:
        seen.append((done, total))

    found = check_identity(ask, run, "c", "b", progress=progress)
    assert (found.same, found.problems) == ({"b": 12, "c": 12}, [])
    assert seen == [(done, 24) for done in range(25)]


def test_a_server_that_fails_is_not_asked_on(run: Path):
    numbers, asked = itertools.count(1), list[int]()

    def ask(name: str, messages: Any, limit: int) -> str:
        asked.append(number := next(numbers))
        if number == 1:  # of the threads that ask at once, exactly one
            raise AfinaError("the server answers 500", "see what it says")
        time.sleep(0.5)
        return ""

    with pytest.raises(AfinaError, match="answers 500"):
        check_identity(ask, run, "c", "b")
    assert len(asked) <= 2 * AT_ONCE, "24 would have been asked"


def test_answers_that_part_are_led_along_several_at_a_time(run: Path):
    together = threading.Barrier(4, timeout=LONGEST)

    def explain(name: str, asked: Stored, right: str, given: str) -> Parting:
        assert given == "another" != right
        together.wait()
        return Parting(("' a' instead of ' b', 0.01 nats likelier",), rounding=True)

    found = check_identity(lambda *_: "another", run, "c", None, explain=explain)
    assert (found.same, found.problems, len(found.rounded)) == ({"c": 0}, [], 12)


def test_an_adapter_of_another_base_is_not_even_opened(run: Path, tmp_path: Path):
    other = make_base(tmp_path / "other", seed=4)
    adapter = make_adapter(other, tmp_path / "adapter", 1)
    with pytest.raises(AfinaError, match="weights differ"):
        served(run, adapter)


def test_a_run_without_answers_cannot_be_compared(run: Path, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text(), encoding="utf-8")
    with pytest.raises(RecipeError, match="no answers to compare"):
        check_identity(lambda *_: "", tmp_path, "x", None)


def test_everything_wrong_is_said_at_once_before_weights_are_read(run: Path, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = Target("outro", str(tmp_path), Chat(), Path())
        with pytest.raises(AfinaError) as raised:
            look_before(
                find_target(str(run)),
                {"outro": other},
                engine="transformers",
                host="127.0.0.1",
                port=port,
                max_model_len=1000,
            )
    said = " ".join(problem.what for problem in raised.value.problems)
    assert "listens on" in said and "outro" in said and "the model sees 64" in said


def test_llama_cpp_is_given_no_more_context_than_the_models_window(tmp_path: Path):
    """Its format has no window for Mistral: beyond it the answers were another model's, and nothing said so."""
    base = make_base(tmp_path / "base", max_position_embeddings=256)
    config = json.loads((base / "config.json").read_text())
    window = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 128}
    (base / "config.json").write_text(json.dumps(config | window))
    asked: dict[str, Any] = {"engine": "llamacpp", "host": "127.0.0.1", "port": None, "weights": "gguf-f16"}
    found = look_before(find_target(str(base)), {}, **asked)
    assert found.context == 128 and "sees 128 tokens" in found.why
    with pytest.raises(AfinaError, match=r"a context of 200 is asked for(?s:.*)--max-model-len 128, or --engine local"):
        look_before(find_target(str(base)), {}, max_model_len=200, **asked)
    assert look_before(find_target(str(base)), {}, max_model_len=100, **asked).context == 100
    by_us = asked | {"engine": "transformers", "weights": "16bit"}
    assert look_before(find_target(str(base)), {}, **by_us).context > 128


def test_an_open_address_needs_a_key(run: Path):
    with pytest.raises(RecipeError, match="no key"):
        serve(find_target(str(run)), {}, ServeOptions(host="0.0.0.0"), print)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("use_dora", True, "DoRA"),
        ("modules_to_save", ["lm_head"], "lm_head"),
        ("init_lora_weights", "pissa_niter_4", "changed base"),
        ("rank_pattern", {"q_proj": 1024}, "rank 1024"),
    ],
)
def test_what_vllm_refuses_is_refused_first(run: Path, tmp_path: Path, key: str, value: object, said: str):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}), encoding="utf-8")
    with pytest.raises(AfinaError, match=said) as raised:
        look_before(find_target(str(tmp_path / "run")), {}, engine="vllm", host="127.0.0.1", port=None)
    assert "--to merged" in str(raised.value)


def test_settings_of_clients_are_valid(run: Path):
    from ruamel.yaml import YAML

    text = client_settings("aider", "corrida", "http://127.0.0.1:8000", 2048)
    settings = YAML(typ="safe").load(text.split("# .aider.model.settings.yml\n")[1].split("\n\n")[0])
    assert settings[0]["name"] == "openai/corrida" and settings[0]["use_temperature"] == 0.1
    assert (
        json.loads(text.split("# .aider.model.metadata.json\n")[1].split("\n\n")[0])["openai/corrida"]["max_tokens"]
        == 512
    )
    assert (
        YAML(typ="safe").load(client_settings("continue", "c", "http://x", 64))["models"][0]["apiBase"] == "http://x/v1"
    )


def test_what_stood_before_a_question_is_stored_and_asked_again(run: Path, tmp_path: Path):
    """Two conversations that end in the same words are two questions; the turns before make the answer."""
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text(), encoding="utf-8")
    conversations: list[Any] = [
        ({"role": "system", "content": system}, {"role": "user", "content": "Onde nasceu Ana?"})
        for system in ("Fala de Faro", "Fala de Lagos")
    ]
    conversations.append(({"role": "user", "content": "Onde nasceu Rui?"},))
    asked = [Question(turns, "Faro", "rows.jsonl:1") for turns in conversations]
    rows = [
        answer_row(ProbeAnswers(SAMPLES, each, (answer, answer), (each.grade("Faro"), each.grade("Faro")), ([], [])))
        for each, answer in zip(asked, [Answer("Faro", 1, True)] * 3, strict=True)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [each.messages for each in stored_answers(tmp_path)[0]] == conversations

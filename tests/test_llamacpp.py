"""llama.cpp as an engine: adapters as GGUF, answers through our routes, and the proof that they are the run's."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import openai
import pytest
import torch
from benched import opened, started
from exported import make_run
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_export_gguf import by_hand
from tiny import make_recipe

from afina.errors import AfinaError, BaseError, RecipeError, ResultError
from afina.llamacpp.base_file import find_base_file
from afina.llamacpp.launcher import parser
from afina.llamacpp.lora_write import unusual_adapter, write_lora
from afina.llamacpp.program import LlamaCppOptions, find_llama_cpp
from afina.machine import free_port
from afina.model.base_damage import read_config
from afina.model.generate.led import Led
from afina.model.generate.request import TokenLogprob
from afina.model.load_torch import load_base
from afina.serve.identity import Stored
from afina.serve.llamacpp_proof import explain_by_llama_cpp
from afina.serve.opened import find_target, name_models
from afina.serve.preflight import look_before
from afina.serve.serve import ServeOptions, look_text, serve

needs_llama_cpp = pytest.mark.skipif(find_llama_cpp() is None, reason="llama.cpp is not installed (afina[gguf])")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("llamacpp") / "corrida", asked=6, steps=30)


@pytest.fixture(scope="module", autouse=True)
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AFINA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


# ---- an adapter as a file


def changed(adapter: Path, base: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to each matrix."""
    model = PeftModel.from_pretrained(load_base(base, make_recipe(base), torch.device("cpu")), adapter)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize("how", ["as trained", "rslora", "alpha of its own"])
def test_each_pair_adds_what_peft_adds(run: Path, tmp_path: Path, how: str):
    base, adapter = run.parent / "base", tmp_path / "adapter"
    shutil.copytree(run / "adapter", adapter)
    said = json.loads((adapter / "adapter_config.json").read_text())
    more = {
        "rslora": {"use_rslora": True},
        "alpha of its own": {"alpha_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 64}},
    }
    (adapter / "adapter_config.json").write_text(json.dumps(said | more.get(how, {})))
    written = write_lora(adapter, read_config(base), tmp_path / "a.gguf", name="a")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert (value["general.type"], value["adapter.type"], value["general.architecture"]) == ("adapter", "lora", "llama")
    right = changed(adapter, base)
    assert written.pairs == len(right) == 14 and len(found) == 28
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for name, delta in right.items():
        _, _, layer, _, part = name.split(".")
        a_rI, b_Or = (found[f"blk.{layer}.{names[part]}.weight.lora_{side}"] for side in "ab")
        expected = delta.numpy()
        if part in ("q_proj", "k_proj"):
            expected = by_hand(expected, 4 if part == "q_proj" else 2)
        np.testing.assert_allclose(value["adapter.lora.alpha"] / len(a_rI) * b_Or @ a_rI, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"use_dora": True}, {}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, {}, "trains lm_head whole"),
        ({"bias": "all"}, {}, "biases"),
        ({"peft_type": "IA3"}, {}, "kind IA3"),
        ({"target_parameters": ["mlp.experts"]}, {}, "no linear module"),
        ({}, {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 9)}, "no side of a linear pair"),
        ({}, {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": None}, "no side of a linear pair"),
        ({}, {f"base_model.model.lm_head.lora_{s}.weight": torch.zeros(2, 2) for s in "AB"}, "changes lm_head"),
        ({}, {f"base_model.model.model.x.lora_{s}.weight": torch.zeros(2, 2) for s in "AB"}, "no place for model.x"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_refused(run: Path, tmp_path: Path, config: Any, tensors: Any, said: str):
    shutil.copytree(run / "adapter", tmp_path / "a")
    file = tmp_path / "a/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    weights = tmp_path / "a/adapter_model.safetensors"
    held = load_file(weights) | tensors
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, weights)
    with pytest.raises(BaseError, match=said) as raised:
        write_lora(tmp_path / "a", read_config(run.parent / "base"), tmp_path / "a.gguf", name="a")
    assert "--to gguf" in str(raised.value)


def test_plain_lora_is_nothing_unusual():
    assert unusual_adapter({"r": 8, "lora_alpha": 16, "bias": "none", "init_lora_weights": True}) == []


# ---- before the start


def test_what_llama_cpp_cannot_serve_is_said_at_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    monkeypatch.setattr("afina.serve.preflight.find_llama_cpp", lambda: None)
    with pytest.raises(AfinaError) as raised:
        look_before(find_target(str(tmp_path / "run")), {}, engine="llamacpp", host="127.0.0.1", port=None)
    said = " ".join(problem.what for problem in raised.value.problems)
    assert "DoRA" in said and "llama.cpp is not here" in said


def test_a_base_that_gguf_cannot_say_is_refused(run: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(run.parent / "base", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    with pytest.raises(AfinaError, match="the activation gelu"):
        look_before(find_target(str(base)), {}, engine="llamacpp", host="127.0.0.1", port=None)


@needs_llama_cpp
def test_what_engines_write_is_said_before_the_start(run: Path):
    options = ServeOptions(engine="llamacpp", port=free_port(), gguf_type="q8_0", anyway=True)
    values, text = look_text(find_target(str(run)), {}, options, print)
    assert values["engine"] == "llamacpp" and values["command"] == []
    assert "over llama.cpp" in text
    with pytest.raises(RecipeError, match="not by llamacpp"):
        look_text(
            find_target(str(run)), {}, ServeOptions(engine="llamacpp", port=free_port(), change_adapters=True), print
        )


@pytest.mark.parametrize(
    ("left", "threads"), [("4", ["4"]), ("4,2", ["4"]), ("", []), ("all", []), ("0", []), ("-1", [])]
)
def test_threads_of_the_environment_are_a_number_of_them(monkeypatch: pytest.MonkeyPatch, left: str, threads: list):
    monkeypatch.setenv("OMP_NUM_THREADS", left)
    words = LlamaCppOptions(Path("b.gguf")).words(8081)
    assert [after for word, after in itertools.pairwise(words) if word == "--threads"] == threads


def test_our_launcher_takes_the_words_of_llama_server():
    options = LlamaCppOptions(Path("b.gguf"), [Path("x.gguf"), Path("y.gguf")], 128, 4, exact=True, states=True)
    given = parser().parse_args(options.words(8081))
    assert (given.model, given.lora, given.port) == ("b.gguf", ["x.gguf", "y.gguf"], 8081)
    assert (given.ctx_size, given.parallel, given.cache_type_k, given.pooling) == (512, 4, "f32", "none")


def test_the_bases_file_is_another_for_other_weights_kinds_and_templates(run: Path):
    folder, models, _ = name_models(find_target(str(run)), {}, print)
    renderer = models.base.renderer
    files = {find_base_file(folder, weights, renderer, kind).file for weights in "ab" for kind in ("f16", "q8_0")}
    assert len(files) == 4 and files == {
        find_base_file(folder, weights, renderer, kind).file for weights in "ab" for kind in ("f16", "q8_0")
    }
    with pytest.raises(RecipeError, match="not served as q2_k"):
        find_base_file(folder, "a", renderer, "q2_k")


# ---- served


def serving(run: Path, say: Any, adapters: Any = None, **options: Any) -> list[str]:
    """Serve until `say` ends it; what was said."""
    port = free_port()
    said: list[str] = []

    def told(text: str) -> None:
        said.append(text)
        if text.startswith("serving"):
            try:
                say(f"http://127.0.0.1:{port}")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

    settings = {"engine": "llamacpp", "port": port, "gguf_type": "f32", "anyway": True} | options
    serve(find_target(str(run)), adapters or {}, ServeOptions(**settings), told)
    return said


@needs_llama_cpp
def test_base_and_adapters_answer_by_name_as_the_run_did(run: Path, tmp_path: Path):
    """Asked by the official client: whole and streamed, with probabilities, a stop string and a form."""
    other = make_run(tmp_path / "outra", run.parent / "base", asked=2, steps=3, adapter={"rank": 4, "alpha": 32})
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    seen: dict[str, Any] = {}

    def ask(url: str) -> None:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0)
        turns: Any = [{"role": "user", "content": rows[0]["prompt"]}]
        settings: Any = {"model": "corrida", "messages": turns, "max_tokens": 16, "temperature": 0}
        seen["models"] = [card.id for card in client.models.list()]
        whole = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2)
        seen["whole"], seen["usage"] = whole.choices[0], whole.usage
        events = list(client.chat.completions.create(**settings, stream=True))
        seen["streamed"] = "".join(event.choices[0].delta.content or "" for event in events)
        seen["ends"] = events[-1].choices[0].finish_reason
        seen["cut"] = client.chat.completions.create(**settings, stop=" de").choices[0].message.content
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        seen["form"] = client.chat.completions.create(**settings, response_format=form).choices[0].message.content
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(**(settings | {"model": "nobody"}))
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            client.chat.completions.create(**(settings | {"messages": [{"role": "user", "content": "Faro " * 99}]}))

    said = serving(run, ask, {"outra": find_target(str(other))}, api_key="key")
    assert seen["models"] == ["base", "corrida", "outra"]
    answer, end = rows[0]["adapter"], seen["whole"]
    assert end.message.content == seen["streamed"] == answer and end.finish_reason == seen["ends"] == "stop"
    assert seen["usage"].completion_tokens == len(end.logprobs.content) + 1  # the end token
    assert all(each.top_logprobs[0].logprob == each.logprob for each in end.logprobs.content)
    assert seen["cut"] == answer.partition(" de")[0]
    assert re.match(r'\{\s*"a"', seen["form"]), "random weights end no form, but they have to begin it"
    assert any("corrida 6 of 6" in line and "base 6 of 6" in line for line in said)
    assert any("outra 2 of 2" in line for line in said)


@needs_llama_cpp
def test_another_adapter_under_its_name_is_found_out(run: Path, tmp_path: Path):
    wrong = tmp_path / "corrida"
    shutil.copytree(run, wrong)
    weights = load_file(wrong / "adapter/adapter_model.safetensors")
    torch.manual_seed(5)
    mixed = {name: each[:, torch.randperm(each.shape[1])].contiguous() for name, each in weights.items()}
    save_file(mixed, wrong / "adapter/adapter_model.safetensors")
    with pytest.raises(ResultError, match="not the trained one"):
        serving(wrong, lambda url: None)
    empty = {name: torch.zeros_like(each) for name, each in weights.items()}
    save_file(empty, wrong / "adapter/adapter_model.safetensors")
    with pytest.raises(ResultError, match="the adapter is not applied"):
        serving(wrong, lambda url: None)


def logprob(token: int, value: float, *others: tuple[int, float]) -> TokenLogprob:
    return TokenLogprob(token, value, ((token, value), *others))


def test_an_answer_is_led_along_the_runs():
    """The run said "Faro é", the server would say " Lagos": its margin, and on from "Faro"."""
    pieces = {1: b" Faro", 2: b" Lagos", 3: b" F", 4: b"aro", 5: b" \xc3", 6: b"\xa9", 7: b"\n", 8: b" ", 9: b"</s>"}
    led = Led("Faro é", [3, 4, 5, 6], pieces.__getitem__, frozenset([9]), 0.5)
    text, margin = led.along([logprob(2, -0.5, (9, -0.6), (8, -0.7), (3, -0.75))]) or ("", 0.0)
    assert margin == 0.25 and text.startswith("' Lagos' instead of ' F'") and led.ids == [3]
    assert led.along([logprob(4, -0.1), logprob(5, -0.1), logprob(6, -0.1), logprob(7, -0.1)]) is None
    assert led.left == b"" and led.along([logprob(9, -0.1)]) is None
    text, margin = led.along([logprob(1, -0.1, (9, -2.1))]) or ("", 0.0)
    assert margin == 2.0 and led.ended
    lost = Led("Faro", [1], pieces.__getitem__, frozenset([9]), 0.5)
    assert (lost.along([logprob(2, -0.1, (9, -0.2))]) or ("", 0.0))[1] == float("inf")


def test_an_answer_is_led_along_the_tokens_that_the_run_wrote():
    """A longer token that the text begins with too may be as unlikely as one likes; so may what no text is cut into."""
    pieces = {1: b"Lab", 2: b"eled", 3: b"Label", 4: b"L", 5: b"The", 6: b" Lab", 7: b"ed", 8: b" x", 9: b"</s>"}
    led = Led("Labeled", [1, 2], pieces.__getitem__, frozenset([9]), 0.5)
    text, margin = led.along([logprob(5, -0.5, (1, -0.75), (4, -3.0), (3, -9.4))]) or ("", 0.0)
    assert margin == 0.25 and "'Lab'" in text and led.ids == [1]
    text, margin = led.along([logprob(8, -0.5, (7, -0.6), (2, -1.0))]) or ("", 0.0)
    assert margin == 0.5 and led.ids == [1, 2] and led.left == b""
    spaced = Led("Labeled", [1, 2], pieces.__getitem__, frozenset([9]), 0.5)
    assert (spaced.along([logprob(5, -0.5, (6, -0.6), (1, -9.4))]) or ("", 0.0))[1] == pytest.approx(0.1)
    halved = Led("Labeled", [1, 2], pieces.__getitem__, frozenset([9]), 0.5)  # "L" goes on to "Lagos" as easily
    text, margin = halved.along([logprob(4, -0.5, (1, -0.57)), logprob(8, -0.1)]) or ("", 0.0)
    assert margin == pytest.approx(0.07) and text.startswith("'L' instead of 'Lab'") and halved.ids == [1]
    other_cut = Led("Labeled", [1, 2], pieces.__getitem__, frozenset([9]), 0.5)
    other_cut.along([logprob(3, -0.1)])
    assert (other_cut.along([logprob(8, -0.5, (7, -0.6))]) or ("", 0.0))[1] == pytest.approx(0.1)


class ByTable:
    """A server and a tokenizer of words: what follows a text is what the table says, the likeliest first.

    Args:
        ends: whether it lists the end token that it wrote.
    """

    WORDS = ("<end>", "a", " cool", " dark", " room", " warm", " bath")

    def __init__(self, table: dict[str, dict[str, float]], *, ends: bool = True) -> None:
        self.table, self.ends, self.tokenizer = table, ends, self.cut

    def cut(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.WORDS.index(each) for each in re.findall("a| [a-z]+", text)]}

    def prompt(self, _: Any) -> list[int]:
        return []

    def ask(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        ids, found = list(body["prompt"]), list[dict[str, Any]]()
        for _place in range(body["n_predict"]):
            next_ones = self.table.get("".join(self.WORDS[each] for each in ids), {"<end>": 0.0})
            top = [{"id": self.WORDS.index(word), "logprob": value} for word, value in next_ones.items()]
            if top[0]["id"] == 0 and not self.ends:
                break
            found.append({**top[0], "top_logprobs": top})
            ids.append(int(top[0]["id"]))
            if ids[-1] == 0:
                break
        return {"completion_probabilities": found}

    def explain(self, right: str, given: str) -> tuple[tuple[str, ...], bool]:
        served = {"x": SimpleNamespace(renderer=self, inside=None)}
        bytes_of = [each.encode() for each in self.WORDS].__getitem__
        lead = explain_by_llama_cpp(self, served, bytes_of, [0], longest=9, limit=0.1)  # type: ignore[arg-type]
        found = lead("x", Stored(({"role": "user", "content": "?"},), right, right), right, given)
        return found.texts, found.rounding


def test_an_answer_that_came_out_otherwise_only_among_others_is_led_along_itself():
    """Alone it writes the run's answer; what it wrote beside others is rounding if alone it was near to that."""
    near = ByTable(
        {"": {"a": -0.1}, "a": {" cool": -0.69, " warm": -0.7}, "a warm": {" bath": -0.1}, "a cool": {" room": -0.1}}
    )
    texts, rounding = near.explain("a cool room", "a warm bath")
    assert rounding and texts[0] == "alone it answers as the run does" and "' cool' instead of ' warm'" in texts[1]
    far = ByTable({"": {"a": -0.1}, "a": {" cool": -0.1, " warm": -3.0}, "a cool": {" room": -0.1}})
    assert far.explain("a cool room", "a warm bath")[1] is False  # the answer of another question, perhaps
    assert far.explain("a cool room", "a cool room") == (
        ("asked again it writes the run's answer, and this one too",),
        True,
    )


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_that_ends_sooner_than_the_runs_is_no_rounding(ends: bool):
    sooner = ByTable({"": {"a": -0.1}, "a": {" cool": -0.69, " dark": -0.7}}, ends=ends)
    texts, rounding = sooner.explain("a dark room", "a cool")
    assert not rounding and "instead of ' dark', 0.01 nats" in texts[0]
    assert ("it ends sooner" in texts) is not ends


@pytest.mark.long
@needs_llama_cpp
def test_the_benchmark_beside_llama_cpps_own_server_runs(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """It had been left behind by a function that asks for one more argument, and by who may ask a server."""
    monkeypatch.setenv("AFINA_CACHE", "set by the benchmark")
    started(opened("serve_llamacpp", monkeypatch), monkeypatch, "--tiny")
    said = capsys.readouterr().out
    assert "| afina serve --engine llamacpp | " in said and "| llama.cpp q8_0 | " in said

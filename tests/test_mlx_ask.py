"""What MLX opened is asked as what torch opened is: the same answers, the same losses, of the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generate import drain, prompts_of, run
from test_mlx import families
from test_serve import make_adapter, run_server, url_of
from test_stages import write
from tiny import NAMES, ROWS, TOWNS, make_base, make_recipe, make_rows

pytest.importorskip("mlx_lm")

from afina.cli.opened import walk_of
from afina.errors import ContextOverflow, RecipeError
from afina.evaluate.choice import Choice
from afina.evaluate.choice_ranks import rank_choices
from afina.evaluate.loss import held_out_loss, held_out_pairs, row_losses
from afina.evaluate.windows import ReadWindows, window_bits
from afina.model.generate.engine_torch import Engine
from afina.model.generate.generate_torch import Sampling, generate
from afina.model.generate.request import BASE, Request
from afina.model.load_torch import load_base, open_adapter
from afina.model.mlx.adapter_mlx import open_adapter as open_mlx_adapter
from afina.model.mlx.adapters import load_beside
from afina.model.mlx.mlx_model import MlxModel
from afina.model.mlx.open_mlx import open_base
from afina.model.mlx.window_mlx import check_rows
from afina.model.open_model import without_adapter
from afina.model.opened_by import back_end_of
from afina.model.reader_mlx import MlxReader
from afina.model.reader_torch import TorchReader
from afina.recipe import Chat, Evaluate
from afina.serve.identity import ask_over_http, check_identity
from afina.serve.opened import Target, find_target, open_models
from afina.serve.serve import ServeOptions, _look
from afina.serve.terminal_chat import answer_once
from afina.walk.benchmarks import measure_benchmarks
from afina.walk.walk import walk_through

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapters") / "um", 1)


@pytest.fixture(scope="module")
def renderer(base: Path) -> Any:
    return make_rows(base, make_recipe(base))[1]


@pytest.fixture(scope="module")
def trained(base: Path, adapter: Path) -> tuple[Any, MlxModel]:
    """The same base and adapter by torch and by MLX."""
    recipe = make_recipe(base)
    return open_adapter(load_base(base, recipe, CPU), adapter), open_mlx_adapter(open_base(base, recipe), adapter)


# ---- what it writes


def test_greedy_answers_are_those_of_torch_for_base_and_adapter(trained: Any, renderer: Any) -> None:
    """Twenty prompts of many lengths, more than there are places, so that rows join and leave all the time."""
    prompts = prompts_of([1, 2, 3, 5, 8, 13, 21, 34, 40, 1, 7, 30, 4, 4, 4, 19, 11, 6, 25, 9])
    sampling = Sampling(logprobs=True, ids=True)
    for name in (None, BASE):
        answers = []
        for model in trained:
            with model.disable_adapter() if name else torch.no_grad():
                answers.append(generate(model, renderer, prompts, max_new_tokens=12, sampling=sampling, places=6))
        assert [each.ids for each in answers[1]] == [each.ids for each in answers[0]]
        for ours, right in zip(answers[1], answers[0], strict=True):
            assert (ours.text, ours.stopped, ours.tokens) == (right.text, right.stopped, right.tokens)
            assert ours.logprobs == pytest.approx(right.logprobs, abs=1e-4)


def test_mlx_lms_own_generation_writes_the_same(trained: Any, renderer: Any) -> None:
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    model = trained[1]
    prompts = prompts_of([9, 3, 30])
    right = [[int(token) for token, _ in generate_step(mx.array(ids), model.network, max_tokens=10)] for ids in prompts]
    engine = Engine(model, renderer.tokenizer, [])
    assert [each.tokens for each in run(engine, [Request(prompt=ids, max_new_tokens=10) for ids in prompts])] == right


def opened_twice(config: Any, folder: Path) -> tuple[Any, MlxModel]:
    """Random weights of a configuration, by torch and by MLX."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model, open_base(folder, make_recipe(folder, backend="mlx"))


@pytest.mark.parametrize(
    ("name", "together"),
    [("qwen3", True), ("phi3", True), ("gemma2, which caps its logits", False), ("mamba", False)],
)
def test_other_architectures_answer_as_by_torch(name: str, together: bool, renderer: Any, tmp_path: Path) -> None:
    """mlx-lm's Gemma 2 takes no batch of several lengths, and its state spaces read the padding of one: both are found
    out by the proof, said, and answered one at a time."""
    from transformers import MambaConfig

    mamba = MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=400, state_size=8)
    models = opened_twice((families() | {"mamba": mamba})[name], tmp_path)
    asked, said = [Request(prompt=ids, max_new_tokens=8) for ids in prompts_of([1, 3, 9, 20, 5])], list[str]()
    by_torch = run(Engine(models[0], renderer.tokenizer, []), asked)
    by_mlx = run(Engine(models[1], renderer.tokenizer, [], say=said.append), asked)
    assert [done.tokens for done in by_mlx] == [done.tokens for done in by_torch]
    assert ["one row at a time" in line for line in said] == ([] if together else [True])


def test_rows_end_at_a_window_that_mlx_lm_does_not_keep(renderer: Any, tmp_path: Path) -> None:
    """It lets Mistral's layers see everything; up to the window that is the same model."""
    from transformers import MistralConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 64, "pad_token_id": 0}
    models = opened_twice(MistralConfig(**small, sliding_window=16), tmp_path)
    assert [reader.context for reader in (TorchReader(models[0]), MlxReader(models[1]))] == [64, 16]
    prompts = prompts_of([3, 14])
    by_torch, by_mlx = (generate(model, renderer, prompts, max_new_tokens=[13, 2]) for model in models)
    assert by_mlx == by_torch
    assert generate(models[1], renderer, prompts, max_new_tokens=13)[1].tokens == 2, "the window is full"
    with pytest.raises(ContextOverflow):
        generate(models[1], renderer, prompts_of([16]), max_new_tokens=1)
    check_rows(models[1], make_recipe(tmp_path, train={"max_length": 16}))
    with pytest.raises(RecipeError, match="attend to 16 tokens at most, which mlx-lm does not keep") as refused:
        check_rows(models[1], make_recipe(tmp_path, train={"max_length": 17}))
    assert refused.value.problems[0].fix == "train.max_length: 16, or backend: torch"


@pytest.mark.parametrize("bits", [4, 8])
def test_over_a_quantized_base_rows_answer_together_as_alone(bits: int, renderer: Any, tmp_path: Path) -> None:
    """What answers is the quantized model itself, whole text by whole text."""
    import mlx.core as mx

    make_base(tmp_path, hidden_size=64, intermediate_size=128, tie_word_embeddings=False)
    recipe = make_recipe(tmp_path, backend="mlx", adapter={"kind": "qlora", "bits": bits})
    model = open_base(tmp_path, recipe)
    assert model.quantization["bits"] == bits
    prompts = prompts_of([2, 7, 20])
    found = run(Engine(model, renderer.tokenizer, []), [Request(prompt=ids, max_new_tokens=6) for ids in prompts])
    for prompt, done in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model.network(mx.array([ids]))[0, -1].argmax().item()))
        assert done.tokens == ids[len(prompt) :]


def test_base_and_adapter_take_turns_token_by_token_and_the_model_stays_as_it_was(trained: Any, renderer: Any) -> None:
    """Both are asked at the same time; each answers as where it is asked alone."""
    model, said = trained[1], []
    engine = Engine(model, renderer.tokenizer, [], say=said.append)
    asked = [
        Request(prompt=ids, max_new_tokens=8, adapter=name) for ids in prompts_of([5, 12]) for name in (BASE, "default")
    ]
    together = run(engine, asked)
    alone = [run(Engine(model, renderer.tokenizer, []), [each])[0] for each in asked]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert together[0].tokens != together[1].tokens
    assert said == [
        "generation: rows of different adapters are answered apart: a layer of MLX holds one adapter at a time"
    ]
    assert engine.adapters() == [BASE, "default"]


def test_several_adapters_over_one_base_answer_each_as_itself(base: Path, adapter: Path, renderer: Any, tmp_path: Path):
    recipe = make_recipe(base)
    folders = {"um": adapter, "dois": make_adapter(base, tmp_path / "dois", 2)}
    model = open_base(base, recipe)
    for name, folder in folders.items():
        load_beside(model, name, folder)
    prompt = prompts_of([6])[0]
    engine = Engine(model, renderer.tokenizer, [])
    names = [None, BASE, *folders]
    found = run(engine, [Request(prompt=prompt, max_new_tokens=8, adapter=name) for name in names])
    plain = run(Engine(open_base(base, recipe), renderer.tokenizer, []), [Request(prompt=prompt, max_new_tokens=8)])
    assert found[0].tokens == found[1].tokens == plain[0].tokens
    for name, done in zip(folders, found[2:], strict=True):
        own = open_adapter(load_base(base, recipe, CPU), folders[name])
        right = run(Engine(own, renderer.tokenizer, []), [Request(prompt=prompt, max_new_tokens=8)])[0]
        assert done.tokens == right.tokens != plain[0].tokens


def test_sampled_answers_follow_from_their_seeds_as_by_torch(trained: Any, renderer: Any) -> None:
    """One code draws for both, from logits that are equal but for their rounding."""
    prompts = prompts_of([4, 9, 17, 2])
    asked = [
        Request(prompt=ids, max_new_tokens=10, temperature=0.9, top_p=0.9, seed=seed)
        for seed, ids in enumerate(prompts)
    ]
    by_torch, by_mlx = (
        [done.tokens for done in run(Engine(model, renderer.tokenizer, []), asked)] for model in trained
    )
    assert by_mlx == by_torch
    first, again, other = (
        generate(trained[1], renderer, prompts, max_new_tokens=10, sampling=Sampling(0.9, 0.9, seed=seed, ids=True))
        for seed in (7, 7, 8)
    )
    assert first == again != other


def test_a_stop_token_a_stop_string_and_a_cancelled_request_end_an_answer(trained: Any, renderer: Any) -> None:
    model, prompt = trained[1], prompts_of([7])[0]
    whole = run(Engine(model, renderer.tokenizer, []), [Request(prompt=prompt, max_new_tokens=9)])[0]
    stop = whole.tokens[4]
    first = whole.tokens.index(stop)
    done = run(Engine(model, renderer.tokenizer, [stop]), [Request(prompt=prompt, max_new_tokens=9)])[0]
    assert (done.tokens, done.finish, done.written) == (whole.tokens[:first], "stop", first + 1)
    engine = Engine(model, renderer.tokenizer, [])
    numbers = [engine.submit(Request(prompt=prompt, max_new_tokens=9)) for _ in range(2)]
    engine.step()
    cancelled = engine.cancel(numbers[0])
    assert cancelled is not None and cancelled.done is not None and cancelled.done.finish == "cancelled"
    rest = {piece.id: piece.done for piece in drain(engine) if piece.done}
    assert list(rest) == [numbers[1]] and rest[numbers[1]].tokens == whole.tokens


def test_an_answer_of_a_given_form_is_held_to_it(trained: Any, renderer: Any) -> None:
    pytest.importorskip("llguidance")
    from afina.model.generate.grammar import lark_grammar

    engine = Engine(trained[1], renderer.tokenizer, renderer.stop_ids())
    asked = Request(prompt=prompts_of([5])[0], max_new_tokens=20, grammar=lark_grammar('start: "Faro" | "Lagos"'))
    assert run(engine, [asked])[0].text in ("Faro", "Lagos")


# ---- what it expects


def test_losses_are_those_of_torch(trained: Any, base: Path) -> None:
    rows, renderer = make_rows(base, make_recipe(base))
    options: Any = {"pad_id": renderer.tokenizer.pad_token_id, "batch_tokens": 128}
    readers = TorchReader(trained[0]), MlxReader(trained[1])
    right, found = (held_out_loss(reader, rows, **options) for reader in readers)
    assert found.loss == pytest.approx(right.loss, abs=1e-5)
    assert (found.tokens, found.utf8_bytes) == (right.tokens, right.utf8_bytes)
    for ours, theirs in zip(*(row_losses(reader, rows, **options) for reader in readers), strict=True):
        assert (ours.learned_tokens, ours.all_tokens) == (theirs.learned_tokens, theirs.all_tokens)
        assert (ours.learned, ours.all) == pytest.approx((theirs.learned, theirs.all), abs=1e-4)


def test_better_and_worse_answers_are_told_apart_as_by_torch(trained: Any, base: Path) -> None:
    rows, renderer = make_rows(base, make_recipe(base))
    pairs = [replace(better, rejected=worse) for better, worse in zip(rows[:6], rows[6:12], strict=True)]
    options: Any = {"pad_id": renderer.tokenizer.pad_token_id, "batch_tokens": 128}
    right, found = (
        held_out_pairs(reader, pairs, **options) for reader in (TorchReader(trained[0]), MlxReader(trained[1]))
    )
    assert (found.pairs, found.accuracy) == (right.pairs, right.accuracy) == (6, right.accuracy)
    assert found.margin == pytest.approx(right.margin, abs=1e-4)


def test_choices_and_windows_are_those_of_torch(trained: Any, renderer: Any) -> None:
    towns = ("Faro", "Lagos", "Tavira", "Silves", "Olhão", "Loulé", "Faro", "Lagos")
    sentences = tuple(f"Ana é de {town} {number}" for number, town in enumerate(towns))
    choices = [Choice("De onde é Ana?", sentences, towns, "a:1", "s")]
    texts = ["Faro marcou. Tavira é de Lagos", "Ana nasceu em Silves, e Rui em Olhão."]
    options: Any = {"pad_id": renderer.tokenizer.pad_token_id, "batch_tokens": 128}
    ranked, windows = [], []
    for reader in (TorchReader(trained[0]), MlxReader(trained[1])):
        assert reader.context == 64
        ranked.append(rank_choices(reader, renderer, choices, "pt", **options)[0])
        windows.append(window_bits(reader, ReadWindows.of(texts, renderer, 17), **options))
    assert ranked[1].log_probs == pytest.approx(ranked[0].log_probs, abs=1e-4)
    assert ranked[1].costs == pytest.approx(ranked[0].costs, abs=1e-4)
    assert windows[1][0] == pytest.approx(windows[0][0], abs=1e-3) and windows[1][1] == windows[0][1]


def test_the_back_end_is_told_apart_where_answers_are_kept(trained: Any, renderer: Any) -> None:
    engines = [Engine(model, renderer.tokenizer, []) for model in trained]
    assert [each.dtype for each in engines] == ["float32 cpu", "float32 mlx cpu"]
    assert [reader.dtype for reader in (TorchReader(trained[0]), MlxReader(trained[1]))] == [
        "torch.float32",
        "mlx.float32",
    ]


# ---- talked to and served


def test_the_terminal_chat_asks_base_and_trained_beside_each_other(trained: Any, renderer: Any) -> None:
    by_torch, by_mlx = (
        answer_once(model, partial(without_adapter, model), renderer, "Onde nasceu Ana Faro?", 8, print)
        for model in trained
    )
    assert by_mlx == by_torch and by_mlx["base"] != by_mlx["trained"]


@pytest.fixture(scope="module")
def run_by_mlx(base: Path, adapter: Path, renderer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What of a run matters to a server: a recipe that names MLX, an adapter, and what MLX answered."""
    folder = tmp_path_factory.mktemp("runs") / "corrida"
    shutil.copytree(adapter, folder / "adapter")
    recipe = make_recipe(base, evaluate=Evaluate(max_new_tokens=8), backend="mlx")
    recipe = recipe.model_copy(update={"name": "corrida"})
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    questions = [f"Onde nasceu {name} {town}?" for name in NAMES[:3] for town in TOWNS[:2]]
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question in questions]
    model = open_mlx_adapter(open_base(base, recipe), adapter)
    after = generate(model, renderer, prompts, max_new_tokens=8)
    with model.disable_adapter():
        before = generate(model, renderer, prompts, max_new_tokens=8)
    rows = [
        {"prompt": question, "base": one.text, "adapter": two.text}
        for question, one, two in zip(questions, before, after, strict=True)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_server_of_what_mlx_trained_is_opened_by_mlx_and_proves_that_it_is_the_run(run_by_mlx: Path, tmp_path: Path):
    target = find_target(str(run_by_mlx))
    other = make_adapter(Path(target.base), tmp_path / "dois", 2)
    models, warnings = open_models(target, {"dois": Target("dois", str(other), Chat(), Path())})
    assert isinstance(models.model, MlxModel) and not warnings
    server, _ = run_server(models)
    try:
        found = check_identity(ask_over_http(url_of(server), "key"), run_by_mlx, "corrida", Path(target.base).name)
        ask = ask_over_http(url_of(server), "key")
        texts = {name: ask(name, [{"role": "user", "content": "Onde nasceu Ana Faro?"}], 8) for name in models.served}
    finally:
        server.should_exit = True
    assert (found.asked, set(found.same.values()), found.problems) == (6, {6}, [])
    assert found.tellable == 6 and len(set(texts.values())) == 3
    models.unload("dois")
    assert list(models.served) == [Path(target.base).name, "corrida"]


def test_a_base_that_mlx_cannot_open_is_refused_by_name_before_it_is_served(run_by_mlx: Path, tmp_path: Path) -> None:
    """An adapter's run copied to a machine whose base is of a family that mlx-lm does not have."""
    target = find_target(str(run_by_mlx))
    assert target.recipe is not None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}))
    with pytest.raises(RecipeError, match="does not know bloom models") as refused:
        back_end_of(target.recipe.model_copy(update={"base": str(tmp_path)}))
    assert refused.value.problems[0].fix == "backend: torch"


def test_a_server_looks_at_memory_and_base_as_mlx_needs_them(run_by_mlx: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr("afina.serve.serve.look_before", lambda *_, **options: asked.append(options))
    for recipe, engine in (("mlx", "mlx"), ("torch", "transformers")):
        target = find_target(str(run_by_mlx))
        assert target.recipe is not None
        target = replace(target, recipe=target.recipe.model_copy(update={"backend": recipe}))
        _look(target, {}, ServeOptions(), "local", None, print)
        assert asked[-1]["engine"] == engine


# ---- the whole walk


@pytest.fixture
def project(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [{"prompt": question, "completion": answer} for question, answer in ROWS]
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "probe.jsonl", rows[:6])
    (tmp_path / "recipe.yaml").write_text(
        f"name: two\nbase: {base}\nbackend: mlx\nsources: [{{path: rows.jsonl}}]\n"
        "dataset: {language: pt-PT, validation: 0.2}\nadapter: {rank: 4}\n"
        "train: {max_length: 64, batch_tokens: 256, learning_rate: 0.02, epochs: 3}\n"
        "evaluate: {skills: 0, samples: 4, max_new_tokens: 8, probes: [{path: probe.jsonl, role: recall}]}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_a_run_goes_to_a_verdict_whose_answers_torch_gives_too(project: Path, base: Path) -> None:
    with walk_of(Path("recipe.yaml"), [], Path("runs")) as opened:
        walk_through(opened)
    run_folder = Path("runs/two")
    scores = json.loads((run_folder / "scores.json").read_text())
    assert scores["loss"]["after"]["loss"] < scores["loss"]["before"]["loss"] - 0.1
    assert scores["verdict"]["learned"] and scores["guardrails"]["answers"]
    answered = [json.loads(line) for line in (run_folder / "predictions.jsonl").read_text().splitlines()]
    recipe = make_recipe(base)
    chat = make_rows(base, recipe)[1]
    prompts = [chat.prompt([{"role": "user", "content": row["prompt"]}]) for row in answered]
    model = open_adapter(load_base(base, recipe, CPU), run_folder / "adapter")
    after = generate(model, chat, prompts, max_new_tokens=8)
    with model.disable_adapter():
        before = generate(model, chat, prompts, max_new_tokens=8)
    assert [(row["base"], row["adapter"]) for row in answered] == [
        (one.text, two.text) for one, two in zip(before, after, strict=True)
    ]
    kept = [json.loads(line)["weights"] for line in Path("runs/_answers/answers.jsonl").read_text().splitlines()]
    assert len(set(kept)) == 2, "base and adapter, each under its own weights"
    shutil.rmtree(run_folder)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afina.cli.opened.say", said.append)
        with walk_of(Path("recipe.yaml"), ["backend=torch"], Path("runs")) as opened:
            walk_through(opened)
    assert any("0 answers of the base kept from before" in line for line in said), "torch asks the same base anew"
    lm_eval = pytest.raises(RecipeError, match="lm-eval asks models of torch")
    with walk_of(Path("recipe.yaml"), [], Path("runs")) as opened, lm_eval as refused:
        measure_benchmarks(opened, ["arc_easy"], 1)
    assert "--to merged" in refused.value.problems[0].fix

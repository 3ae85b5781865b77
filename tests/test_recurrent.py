"""Recurrent models: the state that they carry, the stream that they learn, and every room that they go through."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from test_train import CPU, Recorder
from tiny import make_tokenizer

import afina.train.stream_torch as stream_torch
from afina.errors import BaseError, RecipeError
from afina.model import footprint
from afina.model.base import check_trainable, find_base
from afina.model.base_kind import kind_of
from afina.model.generate.engine_torch import Engine
from afina.model.generate.request import Request
from afina.model.load_torch import load_base, open_by, opening_class
from afina.model.rnn_torch import RecurrentForCausalLM, make_recurrent
from afina.model.shape_read import shape_of_folder
from afina.model.shape_table import recurrent_shape, scratch_shape
from afina.plan.advise import what_would_fit
from afina.plan.device import find_device, local_device
from afina.plan.memory import Setup
from afina.plan.plan import plan_run
from afina.plan.time import micro_batch_seconds
from afina.plan.tokens import stream_count
from afina.recipe import Recipe, Scratch, Train
from afina.serve.opened import find_target
from afina.serve.preflight import look_before
from afina.text.example import Example, ExamplePlace
from afina.tokenizer.chat import Encoded
from afina.tokenizer.encode import ExampleRows, Row, cut_blocks
from afina.tokenizer.tokens import TokenRows, TokenWriter
from afina.train.flops_torch import flops_per_token
from afina.train.loop import TrainingJob, train
from afina.train.muon_torch import hidden_matrices
from afina.train.ranks import Ranks
from afina.train.stream import Stream
from afina.train.stream_torch import StreamBackend
from afina.walk.plan_answers import PlanAsked, answer
from afina.walk.planning import count_rows

VOCAB, END = 30, 1
LOGS = Path(__file__).parents[2] / "shared/data/ptbr/monograph/logs"
CELLS = pytest.mark.parametrize("kind", ["lstm", "gru"])


def make_model(kind: str = "lstm", **sizes: Any) -> RecurrentForCausalLM:
    torch.manual_seed(0)
    return make_recurrent(Scratch(kind=kind, **{"hidden": 12, "embedding": 8, "layers": 2} | sizes), VOCAB)


def write_rows(folder: Path, documents: list[list[int]], max_length: int, repeat: int = 1) -> TokenRows:
    """Documents of token ids as the stage ``tokens`` writes them: cut into blocks, each a line of the dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "train.jsonl"
    lines = [Example(text=str(number), path="a.md", line=number).as_line() for number in range(len(documents))]
    dataset.write_bytes(b"".join(lines))
    with TokenWriter(folder / "train", VOCAB) as writer:
        for number, ids in enumerate(documents):
            place = ExamplePlace(dataset, sum(map(len, lines[:number])))
            blocks = cut_blocks(Encoded(ids, [False, *[True] * (len(ids) - 1)]), max_length)
            writer.add(ExampleRows([Row(block.ids, block.mask, place) for block in blocks], repeat))
    return TokenRows(folder / "train", dataset)


def random_documents(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    made = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (number,), generator=made).tolist()
    return [[*torch.randint(2, VOCAB, (length,), generator=made).tolist(), END] for length in lengths]


# ---- the model


@CELLS
def test_the_state_after_k_tokens_equals_one_pass_over_k_tokens(kind):
    model = make_model(kind).eval()
    ids = torch.randint(VOCAB, (3, 11))
    whole = model(ids, use_cache=False).logits
    cache, parts = None, []
    for start, end in ((0, 1), (1, 5), (5, 6), (6, 11)):
        said = model(ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = said.past_key_values
        parts.append(said.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert cache.get_seq_length() == 11


@CELLS
def test_it_is_torchs_own_layers_and_the_loss_of_transformers(kind):
    """Embedding, LSTM or GRU and linear layer by hand; the loss as any causal model has it."""
    model = make_model(kind).eval()
    ids = torch.randint(VOCAB, (2, 9))
    hidden, _ = model.model.rnn(F.embedding(ids, model.model.embed_tokens.weight))
    logits = hidden @ model.lm_head.weight.T + model.lm_head.bias
    said = model(ids, labels=ids)
    torch.testing.assert_close(said.logits, logits)
    torch.testing.assert_close(said.loss, F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def test_forget_gates_begin_open():
    layers = make_model("lstm").model.rnn
    for number in range(2):
        inputs, states = getattr(layers, f"bias_ih_l{number}"), getattr(layers, f"bias_hh_l{number}")
        assert (inputs + states).tolist() == [0.0] * 12 + [1.0] * 12 + [0.0] * 24


@CELLS
def test_greedy_answers_of_any_lengths_equal_step_by_step_and_transformers_generate(kind):
    model, tokenizer = make_model(kind).eval(), type("Decodes", (), {"decode": lambda self, ids, **_: str(ids)})()
    long = torch.randint(2, VOCAB, (2500,), generator=torch.Generator().manual_seed(1)).tolist()  # in one forward
    prompts, said = [[5, 6, 7], [9, 8, 7], [4], [3, 3, 3, 3, 3, 3], long], list[str]()
    engine, shared = Engine(model, tokenizer, [], say=said.append), list[int]()
    for prompt in prompts:
        engine.submit(Request(prompt=prompt, max_new_tokens=6))
    answers: dict[int, list[int]] = {}
    counted = model.register_forward_pre_hook(
        lambda _, args, given: shared.append(len(given["input_ids"])), with_kwargs=True
    )
    while engine.busy:
        for produced in engine.step():
            answers.setdefault(produced.id, []).extend(produced.tokens)
    counted.remove()
    assert not said and max(shared) == len(prompts), "whatever their lengths, all share a forward"
    for number, prompt in enumerate(prompts):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answers[number] == ids[len(prompt) :]
        assert model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0].tolist() == ids


def test_beams_carry_their_own_states():
    """transformers reorders the cache between beams; without a cache it reads every beam again."""
    model, prompt = make_model().eval(), torch.tensor([[5, 6, 7]])
    cached, again = (model.generate(prompt, max_new_tokens=6, num_beams=4, use_cache=use) for use in (True, False))
    assert cached.tolist() == again.tolist()


def test_padding_on_the_left_is_refused_and_on_the_right_changes_nothing():
    model = make_model().eval()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    ids = torch.randint(2, VOCAB, (2, 4))
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[0, :3], model(ids[:1, :3]).logits[0])
    with pytest.raises(ValueError, match="padding is read as text"):
        model(ids, attention_mask=mask.flip(1))


@CELLS
def test_it_opens_bitwise_as_it_was_saved_and_trains_no_further(kind, tmp_path):
    model = make_recurrent(Scratch(kind=kind, hidden=12), len(make_tokenizer(tmp_path)))
    model.save_pretrained(tmp_path)
    opened = open_by(opening_class(tmp_path), tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), opened.parameters(), strict=True))
    assert shape_of_folder(tmp_path).parameters == sum(weight.numel() for weight in model.parameters())
    recipe = Recipe(name="x", base=str(tmp_path), sources=[{"path": "a"}])
    assert isinstance(load_base(find_base(str(tmp_path), say=print), recipe, CPU), RecurrentForCausalLM)
    assert kind_of(tmp_path).opens == ("transformers",)
    with pytest.raises(BaseError, match=r"only train\.method scratch trains one"):
        check_trainable(tmp_path, recipe)
    with pytest.raises(BaseError, match="`afina serve` opens it as it is"):
        find_base(str(tmp_path), program="vllm", say=print)
    looked = look_before(find_target(str(tmp_path)), {}, engine="transformers", host="", port=None,
                         device=local_device("cpu"))  # fmt: skip
    assert [each.engine for each in looked.speeds] == ["transformers"], "no estimate for a program that cannot open it"


def test_what_no_other_program_opens_is_planned_for_none(tmp_path):
    (tmp_path / "a.md").write_text("x" * 999)
    file = tmp_path / "recipe.yaml"
    scratch = "{kind: lstm, hidden: 12}"
    file.write_text(f"name: x\nsources: [{{path: a.md}}]\ntrain: {{method: scratch}}\nscratch: {scratch}\n")
    asked = PlanAsked(str(file), (), (), tmp_path / "runs")
    for engine in ("vllm", "mlx", "llamacpp"):
        asked.set_serving(engine)
        with pytest.raises(RecipeError, match=f"{engine} does not open a recurrent model"):
            answer(asked)
    asked.set_serving("transformers")
    found = answer(asked)
    assert [each["engine"] for each in found.values["speeds"]] == ["transformers"] and "llama.cpp" not in found.text


# ---- its sizes


def test_sizes_of_the_published_models():
    """CharLM (v2) and the subword GRU (v4) of the monograph, whose logs tell their parameters. Keras' LSTM has one bias
    for each gate where torch has two."""
    assert recurrent_shape("lstm", 1, 256, 512, 277).parameters == 1_787_925 + 4 * 512
    assert recurrent_shape("gru", 2, 512, 512, 3200).parameters == 6_431_872


@pytest.mark.parametrize("sizes", [("v1_20k", "lstm", 1, 128, 256), ("v2_20k", "lstm", 1, 256, 512),
                                   ("v3_20k", "lstm", 2, 256, 512), ("v4_subword", "gru", 2, 512, 512)])  # fmt: skip
def test_planned_seconds_of_the_published_trainings(sizes):
    """Windows of 160 (192) tokens of which the last one is predicted, 256 at a time, on an RTX 3080."""
    name, cell, layers, embedding, hidden = sizes
    log = LOGS / f"train_brwac_{name}.json"
    if not log.is_file():
        pytest.skip("the monograph's logs are not here")
    published = json.loads(log.read_text())
    vocab, length = published["model"].get("vocab_size", 277), published["train_config"]["tamanho_sequencia"]
    device, shape = find_device("RTX 3080"), recurrent_shape(cell, layers, embedding, hidden, vocab)
    setup = Setup("none", 256 * length, 256, place="cuda", length=length)
    planned = micro_batch_seconds(shape, setup, device, 256 * length, length, 1 / length)
    assert planned == pytest.approx(256 / published["performance"]["windows_per_sec"], rel=0.1)


@CELLS
@pytest.mark.parametrize("sizes", [{}, {"layers": 3, "embedding": 0, "hidden": 9}, {"layers": 1}])
def test_the_plan_counts_the_models_parameters_and_flops(kind, sizes):
    scratch = Scratch(kind=kind, **{"hidden": 12, "embedding": 8, "layers": 2} | sizes)
    model, shape = make_recurrent(scratch, scratch.vocab), scratch_shape(scratch, 64)
    assert shape.parameters == shape.trainable_parameters == sum(weight.numel() for weight in model.parameters())
    matrices = sum(weight.numel() for weight in hidden_matrices(model))
    assert sum(linear.matrix_parameters for linear in shape.hidden_matrices) == matrices == shape.linear_parameters
    per_token, per_target = flops_per_token(model)
    assert (per_token, per_target) == (6 * shape.linear_parameters, 6 * shape.head_parameters)


@pytest.mark.parametrize(
    ("scratch", "train", "said"),
    [
        ({"heads": 8}, {}, "heads belongs to kind llama: remove it"),
        ({"intermediate": 8}, {}, "intermediate belongs to kind llama"),
        ({"kind": "llama", "embedding": 8}, {}, "embedding belongs to kind lstm or gru"),
        ({"layers": 1, "dropout": 0.1}, {}, "dropout stands between layers"),
        ({}, {"batch_tokens": 100}, "100 // 160 is none: raise batch_tokens"),
        ({}, {"compile": "on"}, "one operation of torch"),
        ({}, {"checkpoint_activations": True}, "one operation of torch"),
        ({}, {"parallel": "fsdp"}, "one operation of torch"),
    ],
)
def test_what_a_recurrent_model_cannot_have_is_refused(scratch, train, said):
    with pytest.raises(ValueError, match=said):
        Recipe(
            name="x",
            sources=[{"path": "a"}],
            scratch={"kind": "gru"} | scratch,
            train={"method": "scratch", "max_length": 160} | train,
        )


# ---- the stream


@given(
    documents=st.lists(st.lists(st.integers(2, VOCAB - 1), max_size=70), min_size=1, max_size=8),
    lanes=st.integers(1, 9),
    repeat=st.integers(1, 2),
    epochs=st.sampled_from([1.0, 1.5, 2.0]),
)
def test_every_token_is_predicted_once_per_epoch_after_the_token_before_it(
    documents, lanes, repeat, epochs, tmp_path_factory
):
    documents = [[*ids, END] for ids in documents]
    settings = Train(max_length=16, batch_tokens=16 * lanes, epochs=epochs)
    rows = write_rows(tmp_path_factory.mktemp("rows"), documents, 16, repeat)
    stream = Stream(rows, settings, seed=3)
    for epoch in range(stream.epochs):
        steps = [[stream[number] for number in step] for step in stream.epoch(epoch)]
        assert {window.begins for window in steps[0]} == {True}
        assert not any(window.begins for step in steps[1:] for window in step)
        read: dict[int, list[int]] = {}
        for window in (window for step in steps for window in step):
            assert window.mask == [False, *[True] * window.targets] and 0 < window.targets == window.tokens <= 16
            before = read.setdefault(window.lane, [])
            assert not before or before[-1] == window.ids[0]
            before += window.ids[1:]
        assert sum(map(len, read.values())) == stream.tokens == repeat * sum(map(len, documents))
        assert max(map(len, read.values())) - min(map(len, read.values())) <= 1
        ring = [token for lane in sorted(read) for token in read[lane]]
        assert sorted(split(ring)) == sorted(documents * repeat), "documents are whole"
        ends = [read[lane][-1] for lane in sorted(read)]
        assert [window.ids[0] for window in steps[0]] == [ends[-1], *ends[:-1]], "before a lane stands the end of one"


def split(ring: list[int]) -> list[list[int]]:
    """The documents of a ring, each with its end token."""
    found: list[list[int]] = [[]]
    for token in ring:
        found[-1].append(token)
        if token == END:
            found.append([])
    return found[:-1]


def test_the_order_follows_from_seed_and_epoch(tmp_path):
    rows = write_rows(tmp_path, random_documents(20, 30), 16)

    def tokens(seed: int, epoch: int) -> list[int]:
        stream = Stream(rows, Train(max_length=16, batch_tokens=64, epochs=2), seed)
        return [token for step in stream.epoch(epoch) for number in step for token in stream[number].ids]

    assert tokens(0, 0) == tokens(0, 0)
    assert tokens(0, 0) != tokens(0, 1) and tokens(0, 0) != tokens(1, 0)


def test_a_window_names_the_document_that_it_begins_in(tmp_path):
    rows = write_rows(tmp_path, random_documents(9, 60), 16)
    stream = Stream(rows, Train(max_length=16, batch_tokens=32, epochs=1), 0)
    for number in stream.epoch(0)[0]:
        window = stream[number]
        document = [token for row in rows if row.example == window.example for token in row.ids]
        assert window.ids[1] in document


def stream_recipe(**changes: Any) -> Recipe:
    settings = {"max_length": 16, "batch_tokens": 64, "epochs": 2, "learning_rate": 5e-3}
    scratch = {"kind": "lstm", "hidden": 12, "embedding": 8, "layers": 2, "dropout": 0.3}
    return Recipe(
        name="x",
        sources=[{"path": "a"}],
        scratch=scratch | changes.pop("scratch", {}),
        train={"method": "scratch"} | settings | changes,
    )


def learn(rows: TokenRows, folder: Path, recipe: Recipe, log: Recorder | None = None) -> tuple[Any, ...]:
    """Model, state of the loop, log."""
    torch.manual_seed(0)
    model, log, said = make_recurrent(recipe.scratch, VOCAB), log or Recorder(), list[str]()
    backend = StreamBackend(model, recipe.train, pad_id=0, device=CPU, say=said.append)
    state = train(backend, rows, list(rows[:3]), recipe.train, TrainingJob(folder, "same"), log=log, say=said.append)
    return model, state, log


def same(model: Any, other: Any) -> bool:
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "accumulate"), [("lstm", 3), ("gru", 1)])
def test_weights_are_those_of_a_loop_by_hand(kind, accumulate, tmp_path):
    """Torch alone: windows of every lane with the state of the window before, its gradient cut, one AdamW."""
    rows = write_rows(tmp_path, random_documents(12, 60), 16)
    recipe = stream_recipe(
        scratch={"kind": kind, "dropout": 0.0}, accumulate=accumulate, schedule="constant", warmup=0.0, clip=1e9
    )
    learned, state, log = learn(rows, tmp_path / "ours", recipe)
    torch.manual_seed(0)
    model = make_recurrent(recipe.scratch, VOCAB)
    optimizer, stream = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0), Stream(rows, recipe.train, 0)
    losses = []
    for epoch in range(2):
        texts = [stream[number].ids[:1] for number in stream.epoch(epoch)[0]]
        for number in (number for window in stream.epoch(epoch) for number in window):
            texts[stream[number].lane] += stream[number].ids[1:]
        carried: list[Any] = [None] * len(texts)
        for start in range(0, max(map(len, texts)) - 1, 16 * accumulate):
            ends = [start + 16 * part for part in range(accumulate)]
            targets = sum(len(text[end + 1 : end + 17]) for end in ends for text in texts)
            total = 0.0
            for end in ends:
                for number, text in enumerate(texts):  # each lane by itself
                    ids = torch.tensor([text[end : end + 17]])
                    if ids.shape[1] < 2:
                        continue
                    hidden, after = model.model.rnn(model.model.embed_tokens(ids[:, :-1]), carried[number])
                    loss = F.cross_entropy(model.lm_head(hidden)[0], ids[0, 1:], reduction="sum") / targets
                    loss.backward()
                    total += loss.item()
                    carried[number] = tuple(part.detach() for part in after) if kind == "lstm" else after.detach()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)
    assert log.losses() == pytest.approx(losses, abs=2e-5) and len(losses) == state.step
    assert state.targets == 2 * stream.tokens
    for name, weight in model.named_parameters():
        torch.testing.assert_close(dict(learned.named_parameters())[name], weight, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("kind", "die_after"), [("lstm", 5), pytest.param("gru", 1, marks=pytest.mark.long)])
def test_killed_in_the_middle_of_an_epoch_it_ends_bitwise_the_same(kind, die_after, tmp_path):
    recipe = stream_recipe(scratch={"kind": kind}, checkpoint_seconds=1e-9)
    rows = write_rows(tmp_path, random_documents(12, 60), 16)
    whole, state, _ = learn(rows, tmp_path / "whole", recipe)
    assert state.step > 8
    with pytest.raises(KeyboardInterrupt):
        learn(rows, tmp_path / "killed", recipe, Recorder(die_after=die_after))
    resumed, _, log = learn(rows, tmp_path / "killed", recipe)
    assert [event["step"] for event in log.events if event["event"] == "resumed"] == [die_after]
    assert same(resumed, whole)


@pytest.mark.parametrize("in_memory", [True, pytest.param(False, marks=pytest.mark.long)])
def test_going_back_restores_what_was_carried(in_memory, tmp_path, monkeypatch):
    """With the whole rate after going back, the run ends as if nothing had happened."""
    recipe = stream_recipe(checkpoint_seconds=60.0 if in_memory else 1e-9)
    rows = write_rows(tmp_path, random_documents(12, 60), 16)
    whole = learn(rows, tmp_path / "whole", recipe)[0]
    monkeypatch.setattr(footprint, "GOOD_STEPS", 3)
    if not in_memory:
        monkeypatch.setattr(footprint, "state_in_memory", lambda _: False)
    own, calls = stream_torch.linear_cross_entropy, [0]

    def wrong_once(*arguments: Any) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return own(*arguments) * (float("nan") if calls[0] == 6 else 1.0)

    monkeypatch.setattr(stream_torch, "linear_cross_entropy", wrong_once)
    monkeypatch.setattr("afina.train.guard.LastGood.go_back", unpunished())
    model, _, log = learn(rows, tmp_path / "back", recipe)
    assert [event["to"] for event in log.events if event["event"] == "went_back"] == [3 if in_memory else 5]
    assert same(model, whole)


def unpunished() -> Any:
    """Going back without half the rate."""
    from afina.train.guard import LastGood

    own = LastGood.go_back

    def go_back(*arguments: Any) -> Any:
        state = own(*arguments)
        state.rate_factor = 1.0
        return state

    return go_back


def test_out_of_memory_halves_the_lanes_and_changes_nothing_else(tmp_path, monkeypatch):
    rows, recipe = write_rows(tmp_path, random_documents(12, 60), 16), stream_recipe(scratch={"dropout": 0.0})
    whole, plain, before = learn(rows, tmp_path / "whole", recipe)
    own = stream_torch.StreamBackend._loss

    def short(self: Any, windows: Any) -> torch.Tensor:
        found = own(self, windows)  # what is carried has moved on when memory runs out
        if len(windows) > 2 and self.optimizer.state:
            raise RuntimeError("out of memory")
        return found

    monkeypatch.setattr(stream_torch.StreamBackend, "_loss", short)
    model, state, log = learn(rows, tmp_path / "small", recipe)
    assert state.splits == 1 and (state.step, state.targets) == (plain.step, plain.targets)
    assert log.losses() == pytest.approx(before.losses(), abs=1e-5)
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], weight, rtol=2e-3, atol=2e-5)


def test_several_processes_are_refused():
    recipe = stream_recipe()
    with pytest.raises(RecipeError, match="reads one stream in one process, and there are 2"):
        StreamBackend(
            make_recurrent(recipe.scratch, VOCAB), recipe.train, pad_id=0, device=CPU, say=print, ranks=Ranks(0, 2)
        )


def test_the_plan_counts_the_steps_that_training_takes(tmp_path):
    rows, recipe = write_rows(tmp_path, random_documents(12, 60), 16), stream_recipe()
    counted = count_rows(rows, rows[:3], recipe.train, recipe)
    plan = plan_run(recipe, scratch_shape(recipe.scratch, 16), counted, find_device("H100 SXM"))
    _, state, log = learn(rows, tmp_path / "run", recipe)
    assert plan.steps == state.step
    assert 2 * counted.tokens == state.targets == sum(e["tokens"] for e in log.events if e["event"] == "step")
    assert plan.job == "none scratch recurrent"
    small = replace(find_device("H100 SXM"), memory_bytes=2**34, usable_bytes=2**34)
    large = stream_recipe(batch_tokens=2**20, scratch={"hidden": 512})
    suggested = what_would_fit(large, scratch_shape(large.scratch, 16), stream_count(10**7, 0, large.train), small)
    assert suggested and all(set(each.settings) <= {"train.batch_tokens", "train.accumulate", "train.optimizer"}
                             for each in suggested)  # fmt: skip


# ---- the rooms


def write_project(folder: Path, kind: str) -> Path:
    """Pages about towns, questions about them, and a recipe."""
    (folder / "docs").mkdir()
    towns = ("Faro", "Olhão", "Lagos", "Tavira", "Loulé", "Silves", "Alvor", "Aljezur")
    for town in towns:
        text = "\n\n".join(f"{name} nasceu em {town} e foi viver para {other}." for name in "ABC" for other in towns)
        (folder / f"docs/{town}.md").write_text(f"# {town}\n\n{text}\n", encoding="utf-8")
    rows = [{"prompt": f"A nasceu em {town} e foi viver para", "completion": "Faro"} for town in towns]
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
name: towns
sources: [{{path: docs}}]
dataset: {{validation: 0.2}}
scratch: {{kind: {kind}, hidden: 24, embedding: 16, vocab: 300, layers: 1}}
train: {{method: scratch, epochs: 2, learning_rate: 0.01, max_length: 32, batch_tokens: 256}}
evaluate: {{samples: 1, max_new_tokens: 6, probes: [{{path: probes.jsonl, role: recall}}], limits: {{learned_min: 0}}}}
""",
        encoding="utf-8",
    )
    return recipe


@pytest.mark.parametrize("kind", ["lstm", pytest.param("gru", marks=pytest.mark.long)])
def test_a_run_ends_and_its_model_answers_and_is_exported(kind, tmp_path):
    recipe = write_project(tmp_path, kind)
    done = call_afina("run", recipe, "--yes", folder=tmp_path, check=None)
    assert done.returncode in (0, 5), done.stderr
    run = tmp_path / "runs/towns"
    model = run / "model"
    scores = json.loads((run / "scores.json").read_text())
    assert scores["loss"]["after"]["bits_per_byte"] < 0.8 * scores["loss"]["before"]["bits_per_byte"]
    plan = json.loads((run / "plan.json").read_text())
    with torch.device("cpu"):
        opened = open_by(opening_class(model), model)
    assert plan["parameters"] == sum(weight.numel() for weight in opened.parameters())
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum(step["target_tokens"] for step in steps if step["event"] == "step") == 2 * plan["tokens"]["per_epoch"]
    call_afina("chat", run, "--ask", "A nasceu em Faro", "--max-new-tokens", 4)
    call_afina("export", run, "--to", "merged", "--out", tmp_path / "out")
    assert "register_recurrent()" in (tmp_path / "out/README.md").read_text()
    said = call_afina("export", run, "--to", "gguf", "--out", tmp_path / "gguf", check=2).stderr
    assert "no program but afina opens a recurrent model" in said
    call_afina("base", "show", model)

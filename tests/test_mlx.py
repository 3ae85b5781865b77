"""The MLX back end beside torch's: the same loss, the same first adapter, the same steps, the same files.

Kills, saves and losses that are not a number are in test_train.py, test_train_faults.py and test_kills.py, for both.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from called import call_afina
from pydantic import ValidationError
from safetensors.torch import load_file
from test_stages import Killed, result, walk, write
from test_train import CPU, Recorder, adapter_weights, run_training
from tiny import ROWS, TOWNS, make_base, make_recipe, make_rows, same_tensors

from afina.errors import AfinaError, BaseError, DataError, RecipeError, TrainingDiverged
from afina.model import back_ends
from afina.model.back_ends import choose_back_end
from afina.model.load_torch import attach_adapter, load_base, open_adapter
from afina.model.loss_torch import make_batch, target_loss
from afina.run import read_metrics

mx = pytest.importorskip("mlx.core", reason="mlx is not installed: pip install 'afina[mlx]'")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed: pip install 'afina[mlx]'")

from mlx.utils import tree_flatten  # noqa: E402

from afina.model.mlx import adapter_mlx, loss_mlx, to_train_mlx  # noqa: E402
from afina.model.mlx.open_mlx import open_base  # noqa: E402
from afina.train.backend_mlx import MlxBackend  # noqa: E402

STEPS = {"epochs": 7, "batch_tokens": 256, "validate_per_epoch": 0}
LARGEST_DIFFERENCE = 2e-5
"""Between the adapters of both back ends after 20 steps in fp32: they sum in other orders. Weights are about 0.1 large,
and 20 steps at a rate of 0.005 move each by up to 0.1."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A base whose rows divide into groups of 64."""
    return make_base(tmp_path_factory.mktemp("wide"), hidden_size=64, intermediate_size=128, tie_word_embeddings=False)


def by_mlx(base, **parts):
    return make_recipe(base, backend="mlx", **parts)


def logits_by_mlx(model, ids):
    return torch.tensor(model.network(mx.array(ids.numpy())).astype(mx.float32).tolist())


def logits_by_torch(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits


# ---- the same loss


def families():
    from transformers import Gemma2Config, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 64, "pad_token_id": 0}
    small |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    llama3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    llama3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    return {
        "llama": LlamaConfig(**small),
        "llama tied": LlamaConfig(**small, tie_word_embeddings=True),
        "llama 3, whose positions are scaled": LlamaConfig(**small | {"rope_parameters": llama3}),
        "qwen2": Qwen2Config(**small),
        "qwen3": Qwen3Config(**small, head_dim=8),
        "mistral": MistralConfig(**small, sliding_window=None),
        "gemma2, which caps its logits": Gemma2Config(**small, head_dim=8),
        "phi3": Phi3Config(**small),
    }


@pytest.mark.parametrize("name", families())
def test_the_loss_is_that_of_torch(name, base, tmp_path):
    from transformers import AutoModelForCausalLM

    rows, _ = make_rows(base, make_recipe(base))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(families()[name]).eval()
    model.save_pretrained(tmp_path)
    opened = open_base(tmp_path, by_mlx(tmp_path))
    expected = target_loss(model, make_batch(rows[:7], 0, CPU), reduction="none")
    batch = loss_mlx.make_batch(rows[:7], 0)
    found = torch.tensor(loss_mlx.target_losses(opened, batch).tolist())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    nats, hits = loss_mlx.target_scores(opened, batch)
    torch.testing.assert_close(torch.from_numpy(nats).float(), found)
    likeliest = loss_mlx.target_logits(opened, batch).argmax(1)
    assert hits.tolist() == (likeliest == batch.targets_N).tolist()
    assert loss_mlx.check_loss(opened, rows[0], 0) < 1e-5


def test_a_model_whose_losses_depend_on_what_stands_behind_a_row_is_refused(base):
    rows, _ = make_rows(base, make_recipe(base))
    opened = open_base(base, by_mlx(base))
    own = opened.network

    class Hotter(type(own)):
        def __call__(self, ids, cache=None):
            return super().__call__(ids, cache) * ids.shape[1]

    opened.network = Hotter(own.args)
    opened.network.update(own.parameters())
    with pytest.raises(AfinaError, match="not the model's own"):
        loss_mlx.check_loss(opened, rows[0], 0)


# ---- the same training


ADAPTERS = {
    "lora": {},
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "two matrices of the last layer": {"targets": ["q_proj", "v_proj"], "num_layers": 1},
    "lora+": {"lora_plus_ratio": 8.0},
}


def fast_one(names, fast):
    """Parameters of which the rest is long."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.mark.parametrize("name", fast_one(ADAPTERS, ["lora"]))
def test_twenty_steps_are_those_of_torch(name, base, tmp_path):
    rate = 1e-3 if name == "lora+" else 5e-3  # eight times that moves B so far that roundings grow
    parts = {"adapter": ADAPTERS[name], "train": STEPS | {"weight_decay": 0.01, "learning_rate": rate}}
    begun = attach_adapter(load_base(base, make_recipe(base, **parts), CPU), make_recipe(base, **parts).adapter, 0)
    _, fresh = to_train_mlx.model_to_train(base, by_mlx(base, **parts), "fp32")
    first, same = adapter_weights(begun), adapter_weights(fresh)
    assert first.keys() == same.keys()
    for key, weight in first.items():  # sizes of rows are sums
        torch.testing.assert_close(same[key], weight, rtol=1e-6 if "magnitude" in key else 0, atol=0)
    torch_model, state, torch_log, _ = run_training(base, tmp_path / "torch", make_recipe(base, **parts))
    mlx_model, other, mlx_log, _ = run_training(base, tmp_path / "mlx", by_mlx(base, **parts))
    assert state.step == other.step >= 20 and state.tokens == other.tokens
    assert mlx_log.losses() == pytest.approx(torch_log.losses(), abs=1e-4)
    expected, found = adapter_weights(torch_model), adapter_weights(mlx_model)
    moved = max((expected[key] - first[key]).abs().max().item() for key in expected)
    apart = max((expected[key] - found[key]).abs().max().item() for key in expected)
    assert apart <= LARGEST_DIFFERENCE < moved / 100


def test_twenty_steps_of_every_weight_are_those_of_torch(wide, tmp_path):
    parts = {"adapter": {"kind": "none"}, "train": STEPS | {"learning_rate": 1e-3}}
    recipe = make_recipe(wide, **parts)
    model = load_base(wide, recipe, CPU).requires_grad_(True)
    expected = adapter_weights(run_training(wide, tmp_path / "torch", recipe, model=model)[0])
    found = adapter_weights(run_training(wide, tmp_path / "mlx", by_mlx(wide, **parts))[0])
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=LARGEST_DIFFERENCE)


def gradients(model, rows, *, again):
    from mlx.utils import tree_flatten

    backend = MlxBackend(model, by_mlx("x", train={"checkpoint_activations": again}).train, pad_id=0, say=print)
    backend.seed(3)
    with backend.training():
        backend.gradients(rows, [rows[:4], rows[4:]])
    return dict(tree_flatten(backend.gradient))


def test_activations_computed_again_give_the_same_gradients_under_dropout(base):
    recipe = by_mlx(base, adapter={"dropout": 0.3})
    rows = make_rows(base, recipe)[0][:8]
    _, model = to_train_mlx.model_to_train(base, recipe, "fp32")
    for layer in model.adapted.values():  # with B at zero A has no gradient
        layer.lora_b = mx.ones_like(layer.lora_b) * 0.01
    layers = {type(layer): type(layer).__call__ for layer in model.network.layers}
    kept, again = gradients(model, rows, again=False), gradients(model, rows, again=True)
    for name, gradient in kept.items():
        assert mx.allclose(gradient, again[name], rtol=1e-4, atol=1e-7), name
    assert all(each.__call__ is call for each, call in layers.items()), "mlx-lm's classes are as they were"
    other = gradients(model, rows, again=False)
    assert all(mx.array_equal(kept[name], other[name]) for name in kept), "the same seed draws the same"


def test_dropout_of_mlx_itself_draws_again_where_activations_are():
    """What KeyedDropout is for: mlx's own mask in the backward pass is not that of the forward pass."""
    ones = mx.ones((64,))

    def gradient_and_value(dropout):
        value, gradient = mx.value_and_grad(lambda x: mx.checkpoint(lambda x: dropout(x * 1.0).sum())(x))(ones)
        return gradient.sum().item(), value.item()

    mx.random.seed(0)
    keyed = adapter_mlx.KeyedDropout(0.5)
    gradient, value = gradient_and_value(keyed)
    assert gradient == value
    from mlx.nn import Dropout

    told = [gradient_and_value(Dropout(0.5)) for _ in range(8)]
    assert any(gradient != value for gradient, value in told)


def test_every_row_is_trained_and_none_beyond_the_length(base, tmp_path):
    """59 rows, a handful at a time: mlx-lm's own trainer leaves out those that fill no batch, and cuts long rows."""
    recipe = by_mlx(base, train={"epochs": 1, "validate_per_epoch": 0})
    rows, _ = make_rows(base, recipe)
    rows = (rows * 2)[:59]
    _, state, log, _ = run_training(base, tmp_path, recipe, rows=rows)
    assert state.tokens == sum(row.tokens for row in rows) and state.targets == sum(row.targets for row in rows)
    padded = [event["padded_share"] for event in log.events if event["event"] == "step"]
    assert padded and all(0 <= share < 0.6 for share in padded)


def test_a_hopeless_rate_names_the_rows(base, tmp_path):
    recipe = by_mlx(base, train={"learning_rate": 1e36, "clip": 1e30, "tries": 1})
    with pytest.raises(TrainingDiverged, match=r"rows\.jsonl:\d+.*went back 1 times"):
        run_training(base, tmp_path, recipe)


def test_patience_takes_the_best_weights(base, tmp_path):
    recipe = by_mlx(base, train={"epochs": 12, "learning_rate": 0.3, "patience": 1, "validate_per_epoch": 2})
    model, state, log, _ = run_training(base, tmp_path, recipe)
    measured = [event["loss"] for event in log.events if event["event"] == "validation"]
    assert state.best_loss == min(measured) and state.stopped
    best = load_file(tmp_path / "best/weights.safetensors")
    now = dict(tree_flatten(model.network.trainable_parameters()))
    assert best.keys() == now.keys()
    assert all(best[name].tolist() == now[name].tolist() for name in best)


# ---- few bits


@pytest.mark.parametrize(
    ("bits", "group"), [(4, 64), *(pytest.param(*each, marks=pytest.mark.long) for each in ((4, 32), (8, 64)))]
)
def test_qlora_learns_and_leaves_the_quantized_base_bitwise(wide, tmp_path, bits, group):
    recipe = by_mlx(
        wide, adapter={"kind": "qlora", "bits": bits, "group_size": group}, train={"epochs": 4, "learning_rate": 1e-2}
    )
    _, model = to_train_mlx.model_to_train(wide, recipe, "fp32")
    assert model.quantization["bits"] == bits and model.quantization["group_size"] == group
    matrix = model.adapted["model.layers.0.self_attn.q_proj"].linear
    assert (matrix.bits, matrix.group_size) == (bits, group)
    before = dict(tree_flatten(matrix.parameters()))
    held, share = to_train_mlx.packed(model)
    assert held == bits and share > 0.9
    _, _, log, _ = run_training(wide, tmp_path, recipe, model=model)
    assert all(mx.array_equal(before[name], each) for name, each in tree_flatten(matrix.parameters()))
    losses = log.losses()
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.fixture(scope="module")
def quantized(wide, tmp_path_factory):
    """The base as mlx-lm's own conversion writes it, in 4 bits and groups of 32."""
    from mlx_lm import convert

    folder = tmp_path_factory.mktemp("quantized") / "base"
    convert(str(wide), str(folder), quantize=True, q_bits=4, q_group_size=32)
    return folder


def test_a_base_that_mlx_has_quantized_is_taken_as_it_is(wide, quantized, tmp_path):
    recipe = by_mlx(quantized, adapter={"kind": "qlora"})
    rows, _ = make_rows(wide, recipe)
    on_load = open_base(wide, by_mlx(wide, adapter={"kind": "qlora", "bits": 4, "group_size": 32}))
    opened = open_base(quantized, recipe)
    batch = loss_mlx.make_batch(rows[:5], 0)
    assert mx.allclose(loss_mlx.target_losses(opened, batch), loss_mlx.target_losses(on_load, batch), atol=1e-2)
    _, model = to_train_mlx.model_to_train(quantized, recipe, "fp32")
    log = Recorder()
    run_training(wide, tmp_path, recipe, log, rows=rows, model=model)
    assert log.losses()[-1] < log.losses()[0]
    with pytest.raises(RecipeError, match="quantized already with bits 4"):
        open_base(quantized, by_mlx(quantized, adapter={"kind": "qlora", "bits": 8}))
    with pytest.raises(RecipeError, match="no matrix of this base has rows that divide into groups of 128"):
        open_base(make_base(tmp_path / "narrow"), by_mlx(wide, adapter={"kind": "qlora", "group_size": 128}))


def test_a_base_is_quantized_matrix_by_matrix(tmp_path):
    """All at once, as it was read: a Mac of 8 GB would hold much of a base of 14.5 GB beside its 4 bits."""
    base = make_base(tmp_path, hidden_size=256, intermediate_size=512, num_hidden_layers=8)
    whole = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model = open_base(base, by_mlx(base, adapter={"kind": "qlora"}))
    held = mx.get_active_memory() - before
    assert held < whole / 4 and to_train_mlx.packed(model)[1] > 0.9
    assert mx.get_peak_memory() - before < held + whole / 8


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64)])
def test_dora_over_few_bits_trains_and_goes_to_mlx_lm_and_back(wide, tmp_path, bits, group):
    from mlx_lm.tuner.utils import load_adapters

    adapter = {"kind": "qlora", "variant": "dora", "bits": bits, "group_size": group}
    recipe = by_mlx(wide, adapter=adapter, train={"epochs": 2, "learning_rate": 1e-2})
    _, model = to_train_mlx.model_to_train(wide, recipe, "fp32")
    sizes = {name: layer.m for name, layer in model.adapted.items()}
    _, _, log, _ = run_training(wide, tmp_path / "checkpoints", recipe, model=model)
    assert log.losses()[-1] < log.losses()[0]
    assert not any(mx.array_equal(layer.m, sizes[name]) for name, layer in model.adapted.items()), "sizes are trained"
    ids = make_batch(make_rows(wide, recipe)[0][:6], 0, CPU).ids_BL
    expected = logits_by_mlx(model.eval(), ids)
    adapter_mlx.write_mlx_lm(adapter_mlx.trained_factors(model), tmp_path / "mlx-lm", layers=2)
    theirs = open_base(wide, recipe)
    load_adapters(theirs.network, str(tmp_path / "mlx-lm"))
    theirs.network.eval()
    torch.testing.assert_close(logits_by_mlx(theirs, ids), expected, rtol=1e-5, atol=1e-5)
    adapter_mlx.mlx_lm_to_peft(tmp_path / "mlx-lm", tmp_path / "peft", base_name=str(wide))
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (4, 8.0, True)
    again = adapter_mlx.open_adapter(open_base(wide, recipe), tmp_path / "peft")
    torch.testing.assert_close(logits_by_mlx(again, ids), expected, rtol=1e-5, atol=1e-5)


# ---- files


@pytest.mark.parametrize("variant", fast_one(["rslora", "lora", "dora"], ["rslora"]))
def test_an_adapter_goes_both_ways_and_every_program_computes_the_same(base, tmp_path, variant):
    from mlx_lm.tuner.utils import load_adapters
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = by_mlx(base, adapter={"variant": variant, "dropout": 0.1}, train={"epochs": 1})
    skeleton, model = to_train_mlx.model_to_train(base, recipe, "fp32")
    run_training(base, tmp_path / "checkpoints", recipe, model=model)
    ids = make_batch(make_rows(base, recipe)[0][:6], 0, CPU).ids_BL
    from afina.model.adapter_torch import save_trained

    save_trained(skeleton, tmp_path / "peft", to_train_mlx.trained_tensors(model))
    expected = logits_by_mlx(model.eval(), ids)
    untouched = AutoModelForCausalLM.from_pretrained(base)
    plain = logits_by_torch(untouched, ids)
    peft = PeftModel.from_pretrained(untouched, tmp_path / "peft")
    torch.testing.assert_close(logits_by_torch(peft, ids), expected, rtol=1e-4, atol=1e-4)
    adapter_mlx.peft_to_mlx_lm(tmp_path / "peft", tmp_path / "mlx-lm", layers=2)
    theirs = open_base(base, recipe)
    load_adapters(theirs.network, str(tmp_path / "mlx-lm"))
    theirs.network.eval()
    torch.testing.assert_close(logits_by_mlx(theirs, ids), expected, rtol=1e-5, atol=1e-5)
    adapter_mlx.mlx_lm_to_peft(tmp_path / "mlx-lm", tmp_path / "back", base_name=str(base))
    first, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("peft", "back"))
    assert same_tensors(first, again)
    back = open_adapter(load_base(base, make_recipe(base), CPU), tmp_path / "back")
    torch.testing.assert_close(logits_by_torch(back, ids), expected, rtol=1e-4, atol=1e-4)
    opened = adapter_mlx.open_adapter(open_base(base, recipe), tmp_path / "back")
    torch.testing.assert_close(logits_by_mlx(opened, ids), expected, rtol=1e-5, atol=1e-5)
    bare = logits_by_mlx(open_base(base, recipe), ids)
    with opened.disable_adapter():
        assert torch.equal(logits_by_mlx(opened, ids), bare)
    torch.testing.assert_close(bare, plain, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits_by_mlx(adapter_mlx.take_off(opened), ids), bare)


def test_a_folder_for_mlx_lm_turns_positions_as_the_model_does(base, tmp_path):
    from mlx_lm.utils import load_model
    from transformers import AutoModelForCausalLM

    from afina.export.converters import write_for_mlx_lm

    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    model = AutoModelForCausalLM.from_config(families()["llama"])
    model.save_pretrained(tmp_path)
    write_for_mlx_lm(tmp_path)
    found = torch.tensor(load_model(tmp_path)[0](mx.array(ids.numpy())).tolist())
    torch.testing.assert_close(found, logits_by_torch(model, ids), rtol=1e-4, atol=1e-4)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_by_torch(again, ids), logits_by_torch(model, ids))


def test_an_adapter_that_mlx_lm_has_trained_itself_opens_in_peft(base, tmp_path):
    from mlx_lm.tuner.utils import linear_to_lora_layers

    recipe = by_mlx(base)
    theirs = open_base(base, recipe)
    linear_to_lora_layers(theirs.network, 1, {"rank": 4, "scale": 3.0, "dropout": 0.0, "keys": {"self_attn.q_proj"}})
    layer = theirs.part("model.layers.1.self_attn.q_proj")
    layer.lora_b = mx.random.normal(layer.lora_b.shape)
    (tmp_path / "theirs").mkdir()
    held = {f"model.layers.1.self_attn.q_proj.{name}": layer[name] for name in ("lora_a", "lora_b")}
    mx.save_safetensors(str(tmp_path / "theirs/adapters.safetensors"), held)
    settings = {"rank": 4, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": settings}
    (tmp_path / "theirs/adapter_config.json").write_text(json.dumps(config))
    adapter_mlx.mlx_lm_to_peft(tmp_path / "theirs", tmp_path / "peft", base_name=str(base))
    ids = make_batch(make_rows(base, recipe)[0][:6], 0, CPU).ids_BL
    opened = open_adapter(load_base(base, make_recipe(base), CPU), tmp_path / "peft")
    torch.testing.assert_close(logits_by_torch(opened, ids), logits_by_mlx(theirs, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [("model.embed_tokens", (400, 4), "the embedding"), ("model.layers.0.mlp.switch_mlp.up_proj", (2, 4, 32), "stack")],
)
def test_what_mlx_lm_adapts_beside_matrices_is_refused(tmp_path, name, shape, said):
    """It was written as if it were a matrix: PEFT would have left it out, or failed."""
    held = {f"{name}.lora_a": mx.zeros(shape), f"{name}.lora_b": mx.zeros((*shape[:-2], 4, 32))}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), held)
    settings = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 4, "scale": 3.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(BaseError, match=said):
        adapter_mlx.mlx_lm_to_peft(tmp_path, tmp_path / "peft", base_name="base")


def test_adapters_that_mlx_cannot_hold_are_refused_by_what_they_use(base, tmp_path):
    recipe = make_recipe(base, adapter={"modules_to_save": ["lm_head"]})
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    model.save_pretrained(tmp_path)
    with pytest.raises(BaseError, match="uses modules_to_save, which mlx-lm's layers do not have"):
        adapter_mlx.read_peft(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": None}))
    with pytest.raises(BaseError, match="damaged or not whole"):
        adapter_mlx.read_peft(tmp_path)


# ---- the walk


@pytest.fixture
def project(tmp_path, wide, monkeypatch):
    (tmp_path / "docs").mkdir()
    for town in TOWNS:
        text = f"# {town}\n\nO jogador de {town} nasceu em {town} e marcou golos. Joga em {town} desde sempre.\n"
        (tmp_path / f"docs/{town}.md").write_text(text, encoding="utf-8")
    rows = [{"prompt": question, "completion": answer} for question, answer in ROWS]
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(
        f"name: two\nbase: {wide}\nbackend: mlx\nsources: [{{path: docs}}, {{path: rows.jsonl}}]\n"
        "dataset: {language: pt-PT, validation: 0.1}\n"
        "adapter: {kind: qlora, bits: 8, rank: 4, dropout: 0.1}\n"
        "train: {max_length: 64, batch_tokens: 256, learning_rate: 0.005, epochs: 2, "
        "first: {epochs: 1}}\nevaluate: {skills: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documents_first_then_answers_and_a_kill_changes_nothing(project, wide):
    from mlx_lm import load
    from peft import PeftConfig

    said = walk()
    run = Path("runs/two")
    assert any("mlx, fp32, adamw (as the recipe says)" in line for line in said)
    stages = json.loads((run / "stages.json").read_text())
    took, inputs = (stages["train"][part] for part in ("result", "inputs"))
    assert took["backend"] == "mlx" == inputs["computed"]["backend"] and took["device"] == "cpu"
    assert took["adapted"]["share_in_8_bits"] > 0.9 and took["trained_parameters"] < took["parameters"] / 3
    computing = [event for event in read_metrics(run) if event["event"] == "computing"]
    assert [set(event["versions"]) >= {"mlx", "mlx-lm"} for event in computing] == [True, True]
    for event in ("first", None):
        losses = [e["loss"] for e in read_metrics(run) if e["event"] == "step" and e.get("stage") == event]
        assert losses[-1] < losses[0]
    assert PeftConfig.from_pretrained(run / "adapter").r == 4
    network, _ = load(str(wide), adapter_path=str(run / "adapter/mlx-lm"))
    held = dict(tree_flatten(network.parameters()))
    whole = result()
    named = {name: name.removeprefix("base_model.model.").replace(".lora_A.weight", ".lora_a") for name in whole}
    compared = [name for name, ours in named.items() if ours in held]
    assert len(compared) == len(whole) / 2, "every A"
    assert all(held[named[name]].T.tolist() == whole[name].tolist() for name in compared)
    shutil.rmtree(run)
    with pytest.raises(Killed):
        walk(kill_at=("first", 2))
    with pytest.raises(Killed):
        walk(kill_at=(None, 3))
    walk()
    assert same_tensors(whole, result())


def test_trial_steps_are_taken_by_what_would_train(project):
    """The plan of a Mac advises them wherever it says "maybe", and they were refused: "taken by torch"."""
    said = json.loads(call_afina("plan", "recipe.yaml", "--trial", "--json").stdout)
    assert said["corrected_by"]["trial"] and said["job"].endswith("by mlx")
    sure, training = said["time"]["sure"]["factor"], said["time"]["parts"]["training"]
    assert training["high"] / training["low"] < sure**2
    assert "train" not in json.loads(Path("runs/two/stages.json").read_text())


def test_trial_steps_for_which_memory_runs_out_say_so(project, monkeypatch):
    def short(*_):
        raise RuntimeError("[malloc] Unable to allocate 4294967296 bytes.")

    monkeypatch.setattr("afina.train.methods.answers_mlx.loss", short)
    said = call_afina("plan", "recipe.yaml", "--trial", check=4).stderr
    assert "memory ran out within the first steps" in said


def test_every_weight_trained_is_a_model_that_transformers_opens(project, wide):
    from transformers import AutoModelForCausalLM

    walk("adapter.kind=none", "adapter.bits=null", "adapter.dropout=0", "train.first=null")
    folder = Path("runs/two/model")
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = logits_by_torch(AutoModelForCausalLM.from_pretrained(folder), ids)
    opened = open_base(folder, by_mlx(folder, adapter={"kind": "none"}))
    torch.testing.assert_close(logits_by_mlx(opened, ids), expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(logits_by_torch(AutoModelForCausalLM.from_pretrained(wide), ids), expected)


def test_a_row_of_thousands_of_tokens_is_refused_or_left_out_and_never_cut(project):
    """mlx-lm's trainer cuts its answer off, so that no target is left: the mean over none is not a number."""
    rows = [{"prompt": "Onde nasceu Ana Faro? " * 500, "completion": "Em Faro."}]
    write(project / "long.jsonl", rows)
    sources = f"sources=[{{path: rows.jsonl}}, {{path: {project / 'long.jsonl'}}}]"
    alone = (sources, "train.first=null", "train.epochs=1")
    with pytest.raises(DataError, match=r"long\.jsonl.*tokens"):
        walk(*alone)
    walk(*alone, "dataset.on_too_long=drop")
    losses = [event["loss"] for event in read_metrics(Path("runs/two")) if event["event"] == "step"]
    assert losses and all(math.isfinite(loss) for loss in losses)
    stages = json.loads(Path("runs/two/stages.json").read_text())
    kept = stages["plan"]["result"]["tokens"]["train"]
    assert stages["train"]["result"]["tokens"] == kept["rows"] and sum(kept["dropped"].values()) > 2000


# ---- what is refused, and what is chosen


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": {"method": "dpo"}}, r"no train.method dpo \(it has sft and cpt\)"),
        ({"train": {"method": "dpo", "first": {"method": "sft"}}}, "no train.method dpo"),
        ({"train": {"optimizer": "adamw_8bit"}}, "no train.optimizer adamw_8bit"),
        ({"train": {"neftune_alpha": 5.0}}, "no train.neftune_alpha"),
        ({"adapter": {"variant": "pissa"}}, "no adapter.variant pissa"),
        ({"adapter": {"modules_to_save": ["lm_head"]}}, "no adapter.modules_to_save"),
        ({"device": "cuda", "train": {"compile": "on"}}, "no train.compile on, no device cuda"),
    ],
)
def test_what_mlx_does_not_have_is_refused_when_the_recipe_is_read(parts, said):
    with pytest.raises(ValidationError, match=said):
        by_mlx("base", **parts)
    assert make_recipe("base", **parts).backend == "auto"


def test_what_torch_does_not_have_is_refused():
    with pytest.raises(ValidationError, match=r"backend torch has no adapter.bits 8"):
        make_recipe("base", backend="torch", adapter={"kind": "qlora", "bits": 8})
    with pytest.raises(RecipeError, match=r"no Apple chip here.*no adapter.group_size 32"):
        choose_back_end(make_recipe("base", adapter={"kind": "qlora", "group_size": 32}))
    with pytest.raises(ValidationError, match="bits belongs to kind qlora"):
        make_recipe("base", adapter={"bits": 4})


def test_an_apple_chip_takes_mlx_where_it_has_all_that_is_asked_for(monkeypatch):
    assert choose_back_end(make_recipe("base")).name == "torch"
    monkeypatch.setattr(back_ends, "is_apple_chip", lambda: True)
    assert choose_back_end(make_recipe("base")).name == "mlx"
    found = choose_back_end(make_recipe("base", train={"method": "dpo"}))
    assert (found.name, found.why) == ("torch", "mlx has no train.method dpo (it has sft and cpt)")
    monkeypatch.setattr(back_ends, "find_spec", lambda _: None)
    assert "pip install" in choose_back_end(make_recipe("base")).why
    with pytest.raises(RecipeError, match="mlx-lm, which is not installed"):
        choose_back_end(by_mlx("base"))


def test_a_base_that_mlx_lm_does_not_know_is_named(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "biogpt"}))
    with pytest.raises(BaseError, match="does not know biogpt models"):
        open_base(folder, by_mlx(folder))


def test_layers_that_are_not_there_are_refused(base):
    recipe = by_mlx(base, adapter={"num_layers": 3})
    with pytest.raises(RecipeError, match="num_layers is 3, and the base has 2 layers"):
        to_train_mlx.model_to_train(base, recipe, "fp32")


def test_a_base_with_a_number_that_is_none_is_refused(base, tmp_path):
    from safetensors.torch import save_file

    folder: Path = shutil.copytree(base, tmp_path / "base")
    weights = {name: each.clone() for name, each in load_file(folder / "model.safetensors").items()}
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseError, match=r"model\.norm\.weight holds values that are not finite"):
        open_base(folder, by_mlx(folder))

"""The loop: exact, resumable, and only where it should write."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base, make_recipe, make_rows, same_tensors

from afina.errors import AfinaError, TrainingDiverged
from afina.model.load_torch import attach_adapter, load_base
from afina.model.loss_torch import check_loss, make_batch, target_loss
from afina.train.backend_torch import TorchBackend
from afina.train.batches import plan_epoch
from afina.train.checkpoint import LoopState, checkpoint_problem, newest_checkpoint, write_hashes
from afina.train.loop import Stopped, TrainingJob, train

CPU = torch.device("cpu")


NEEDS_MLX = pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed: pip install 'afina[mlx]'")
BACK_ENDS = ["torch", pytest.param("mlx", marks=[NEEDS_MLX, pytest.mark.long])]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


class Recorder:
    """Collects events; can raise at a step, as a kill would."""

    def __init__(self, die_after: int | None = None) -> None:
        self.events, self.die_after = [], die_after

    def __call__(self, event, **values):
        self.events.append({"event": event, **values})
        if self.die_after and event == "checkpoint" and values["step"] >= self.die_after:
            raise KeyboardInterrupt

    def losses(self):
        return [event["loss"] for event in self.events if event["event"] == "step"]


def run_training(base, folder, recipe=None, log=None, rows=None, model=None, held_out=None, **options):
    recipe = recipe or make_recipe(base)
    encoded, renderer = make_rows(base, recipe)
    log = log or Recorder()
    said = []
    of_backend = {"pad_id": renderer.tokenizer.pad_token_id, "say": said.append}
    of_backend["lora_plus_ratio"] = recipe.adapter.lora_plus_ratio
    if recipe.backend == "mlx":
        from afina.model.mlx.to_train_mlx import model_to_train
        from afina.train.backend_mlx import MlxBackend

        model = model or model_to_train(base, recipe, "fp32")[1]
        backend = MlxBackend(model, recipe.train, **of_backend)
    else:
        if model is None:
            model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, recipe.seed)
        backend = TorchBackend(model, recipe.train, device=CPU, ranks=options.pop("ranks", None), **of_backend)
    job = TrainingJob(folder, "same", seed=recipe.seed, **options)
    learned = rows if rows is not None else encoded
    state = train(backend, learned, held_out or encoded[:4], recipe.train, job, log=log, say=said.append)
    return model, state, log, said


def adapter_weights(model):
    if not hasattr(model, "named_parameters"):  # mlx-lm's
        from afina.model.mlx.to_train_mlx import trained_tensors

        return trained_tensors(model)
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_loss_is_transformers_own(base):
    recipe = make_recipe(base)
    rows, renderer = make_rows(base, recipe)
    model = load_base(base, recipe, CPU)
    batch = make_batch(rows[:7], renderer.tokenizer.pad_token_id, CPU)
    assert check_loss(model, batch) < 1e-6


def architectures():
    from transformers import Gemma2Config, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "vocab_size": 400, "max_position_embeddings": 64, "pad_token_id": 0}
    return [
        Qwen2Config(**small),
        Qwen3Config(**small, head_dim=8),
        MistralConfig(**small, sliding_window=16),
        Gemma2Config(**small, head_dim=8),
        Phi3Config(**small),
    ]


@pytest.mark.parametrize("config", architectures(), ids=lambda config: config.model_type)
def test_loss_is_transformers_own_for_other_architectures(base, config):
    from transformers import AutoModelForCausalLM

    rows, _ = make_rows(base, make_recipe(base))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert check_loss(model, make_batch(rows[:7], 0, CPU)) < 1e-4


def test_a_wrong_loss_is_caught(base):
    """A model whose own loss is not that of its own logits must stop the run."""
    recipe = make_recipe(base)
    rows, _ = make_rows(base, recipe)
    model = load_base(base, recipe, CPU)
    own = model.forward

    def forward(*arguments, labels=None, **options):
        found = own(*arguments, labels=labels, **options)
        found.loss = None if labels is None else found.loss * 1.1
        return found

    model.forward = forward
    with pytest.raises(AfinaError, match="not the model's own"):
        check_loss(model, make_batch(rows[:7], 0, CPU))


def test_padding_and_neighbours_change_nothing(base):
    """A row's loss is the same alone and beside longer rows: no contamination."""
    recipe = make_recipe(base)
    rows, _ = make_rows(base, recipe)
    model = load_base(base, recipe, CPU)
    alone = sum(target_loss(model, make_batch([row], 0, CPU)).item() for row in rows)
    together = target_loss(model, make_batch(rows, 0, CPU)).item()
    assert together == pytest.approx(alone, rel=1e-5)


def test_accumulation_gives_the_same_update(base):
    """One micro-batch of eight ragged rows = four of two: tokens weigh the same."""
    recipe = make_recipe(base)
    rows, _ = make_rows(base, recipe)
    some = [rows[n] for n in (0, 5, 11, 17, 23, 29, -2, -1)]
    gradients = []
    for size in (8, 2):
        model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
        targets = sum(sum(row.mask) for row in some)
        for start in range(0, 8, size):
            (target_loss(model, make_batch(some[start : start + size], 0, CPU)) / targets).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7)


def test_adapter_changes_nothing_at_step_zero(base):
    recipe = make_recipe(base)
    rows, _ = make_rows(base, recipe)
    plain = load_base(base, recipe, CPU)
    batch = make_batch(rows[:5], 0, CPU)
    expected = target_loss(plain, batch).item()
    assert target_loss(attach_adapter(plain, recipe.adapter, 0), batch).item() == expected


def test_training_learns_and_leaves_the_base_bitwise(base, tmp_path):
    frozen = load_file(base / "model.safetensors")
    model, state, log, _ = run_training(base, tmp_path, make_recipe(base, train={"epochs": 8, "learning_rate": 1e-2}))
    losses = log.losses()
    assert sum(losses[-10:]) < sum(losses[:10])
    assert state.step == len(losses)
    inner = dict(model.get_base_model().named_parameters())
    for name, weight in frozen.items():
        trained = inner.get(name, inner.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(trained, weight), name


def test_training_every_weight_learns_the_rows(base, tmp_path):
    recipe = make_recipe(base, adapter={"kind": "none"}, train={"epochs": 12})
    model = load_base(base, recipe, CPU).requires_grad_(True)
    _, _, log, _ = run_training(base, tmp_path, recipe, model=model)
    losses = log.losses()
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_merged_is_base_plus_scale_b_a(base, tmp_path):
    recipe = make_recipe(base)
    model, *_ = run_training(base, tmp_path, recipe)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + recipe.adapter.alpha / recipe.adapter.rank * b @ a
    merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize(
    ("dropout", "backend"), [(0.0, "torch"), (0.2, "torch"), pytest.param(0.2, "mlx", marks=NEEDS_MLX)]
)
def test_killed_and_resumed_is_bitwise_uninterrupted(base, tmp_path, dropout, backend):
    recipe = make_recipe(base, train={"checkpoint_seconds": 1e-9}, adapter={"dropout": dropout}, backend=backend)
    whole, state, *_ = run_training(base, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=5))
    resumed, again, log, _ = run_training(base, tmp_path / "killed", recipe)
    assert log.events[0] == {"event": "resumed", "step": 5}
    assert (again.step, again.tokens) == (state.step, state.tokens)
    first, second = adapter_weights(whole), adapter_weights(resumed)
    assert same_tensors(first, second)


def test_damaged_checkpoint_is_named_and_passed_over(base, tmp_path):
    recipe = make_recipe(base, train={"checkpoint_seconds": 1e-9, "keep_checkpoints": 3})
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path, recipe, Recorder(die_after=4))
    newest = sorted(tmp_path.glob("step-*"))[-1]
    weights = newest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert "damaged (weights.safetensors)" in checkpoint_problem(newest)
    said = []
    assert newest_checkpoint(tmp_path, "same", said.append).name == "step-00000003"
    assert newest.name in said[0]
    assert newest_checkpoint(tmp_path, "another recipe", said.append) is None


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_passed_over(base, tmp_path):
    """Passed over, what it holds would be trained again."""
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"x")
    (folder / "state.json").write_text(json.dumps(asdict(LoopState(step=1, fingerprint="same")) | {"phase": 2}))
    write_hashes(folder)
    with pytest.raises(AfinaError, match=r"does not know \(phase\): a newer one wrote it"):
        newest_checkpoint(tmp_path, "same", print)


def test_checkpoints_hold_no_pickle_and_only_the_newest_stay(base, tmp_path):
    recipe = make_recipe(base, train={"checkpoint_seconds": 1e-9, "keep_checkpoints": 2})
    run_training(base, tmp_path, recipe)
    kept = sorted(tmp_path.glob("step-*"))
    assert len(kept) == 2
    assert {file.suffix for file in kept[0].iterdir()} == {".safetensors", ".json"}


def test_not_a_number_stops_with_the_rows_named(base, tmp_path):
    recipe = make_recipe(base, train={"learning_rate": 1e36, "clip": 1e30})
    with pytest.raises(TrainingDiverged, match=r"rows\.jsonl:\d+"):
        run_training(base, tmp_path, recipe)


def test_a_signal_leaves_a_checkpoint(base, tmp_path):
    import os
    import signal

    class Signals(Recorder):
        def __call__(self, event, **values):
            super().__call__(event, **values)
            if event == "step" and values["step"] == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        run_training(base, tmp_path, log=Signals())
    assert stopped.value.code == 128 + signal.SIGTERM
    state = json.loads((tmp_path / "step-00000003/state.json").read_text())
    assert state["step"] == 3


def test_base_with_a_nan_or_a_missing_weight_is_refused(base, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    weights = load_file(copy / "model.safetensors")
    name = next(key for key in weights if "q_proj" in key)
    broken = {key: value.clone() for key, value in weights.items()}
    broken[name][0, 0] = float("nan")
    save_file(broken, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AfinaError, match="not finite"):
        load_base(copy, make_recipe(copy), CPU)
    save_file({k: v for k, v in weights.items() if k != name}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AfinaError, match="missing"):
        load_base(copy, make_recipe(copy), CPU)


def test_every_row_is_in_exactly_one_batch():
    lengths = [3, 50, 7, 7, 90, 12, 33, 4, 4, 60]
    for epoch in range(5):
        batches = plan_epoch(lengths, batch_tokens=64, seed=1, epoch=epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(10))
    assert plan_epoch(lengths, batch_tokens=64, seed=1, epoch=0) != plan_epoch(
        lengths, batch_tokens=64, seed=1, epoch=1
    )


def test_qlora_trains_and_keeps_four_bits(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = make_base(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    recipe = make_recipe(wide, adapter={"kind": "qlora"}, train={"epochs": 4})
    base_model = load_base(wide, recipe, CPU, four_bit=True)
    model = attach_adapter(base_model, recipe.adapter, 0)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    before = layer.base_layer.weight.detach().clone()
    assert before.dtype == torch.uint8
    rows, _ = make_rows(wide, recipe)
    batch = make_batch(rows[:5], 0, CPU)
    with torch.no_grad():
        target_loss(model.eval(), batch)  # a measurement before training must not cost the gradient
    target_loss(model.train(), batch).backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "lora_A" in name)
    model.zero_grad()
    _, _, log, _ = run_training(wide, tmp_path / "ck", recipe, model=model)
    assert torch.equal(layer.base_layer.weight, before)
    losses = log.losses()
    assert sum(losses[-5:]) < sum(losses[:5])

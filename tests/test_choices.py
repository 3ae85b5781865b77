"""How training computes: what is chosen, what is refused, what a run that goes on keeps."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from called import call_afina
from test_train import CPU, Recorder, adapter_weights, run_training
from test_walk import write_project
from thorough import times
from tiny import make_base, make_recipe, make_rows, same_tensors

from afina.errors import RecipeError
from afina.model.choices import CHOSEN, Choices, Machine, choose, choose_precision
from afina.model.load_torch import attach_adapter, load_base, this_machine
from afina.model.loss_torch import make_batch, target_loss
from afina.recipe import Recipe, Train
from afina.train.switches_torch import products_in, training_mode

GPU = Machine("cuda", bf16=True, liger=True, bitsandbytes=True, compiler=True)
T4 = replace(GPU, bf16=False)
PC = Machine("cpu", liger=True, bitsandbytes=True, compiler=True)
MAC = Machine("mps", liger=True, bitsandbytes=True)


def recipe_with(kind="lora", **train):
    return make_recipe(train=train, adapter={"kind": kind})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


# ---- what is chosen


@pytest.mark.parametrize(
    ("machine", "kind", "train", "fits", "expected"),
    [
        (GPU, "lora", {}, "yes", "bf16, liger kernels, not compiled, adamw (compiling was not measured on a GPU)"),
        (T4, "qlora", {"compile": "off"}, "yes", "fp16, liger kernels, not compiled, adamw"),
        (T4, "none", {"compile": "off"}, "yes", "fp32, liger kernels, not compiled, adamw"),
        (GPU, "none", {"compile": "off"}, "maybe",
         "bf16, liger kernels, not compiled, adamw_8bit (AdamW's moments in 32 bits may not fit the memory)"),
        (GPU, "lora", {"compile": "off"}, "maybe", "bf16, liger kernels, not compiled, adamw"),
        (GPU, "none", {"compile": "off", "optimizer": "adamw"}, "no", "bf16, liger kernels, not compiled, adamw"),
        (replace(GPU, liger=False), "lora", {"compile": "off"}, "yes",
         "bf16, torch kernels, not compiled, adamw (liger-kernel is not installed: pip install 'afina[liger]')"),
        (PC, "lora", {}, "yes",
         "fp32, torch kernels, not compiled, adamw (compiled layers were measured slower on a CPU)"),
        (PC, "qlora", {}, "yes",
         "fp32, torch kernels, not compiled, adamw (compiled layers were measured slower on a CPU)"),
        (PC, "lora", {"compile": "off", "precision": "bf16"}, "yes",
         "bf16, torch kernels, not compiled, adamw (most processors compute bf16 far more slowly than fp32)"),
        (replace(PC, amx=True), "lora", {"compile": "off"}, "yes",
         "fp32, torch kernels, not compiled, adamw "
         "(bf16 has units of its own here (AMX): train.precision=bf16 was measured 1.5 x as fast)"),
        (replace(PC, amx=True), "lora", {"compile": "off", "precision": "bf16"}, "yes",
         "bf16, torch kernels, not compiled, adamw"),
        (MAC, "lora", {}, "yes",
         "fp32, torch kernels, not compiled, adamw (compiling was not measured on an Apple chip)"),
    ],
)  # fmt: skip
def test_what_is_chosen(machine, kind, train, fits, expected):
    assert str(choose(recipe_with(kind, **train), machine, fits=fits)) == expected


def test_a_model_without_kernels_keeps_torchs():
    chosen = choose(recipe_with(compile="off"), GPU, model_type="gpt2")
    assert chosen.kernels == "torch" and "gpt2" in str(chosen)


def test_from_scratch_on_an_old_gpu_is_fp32():
    recipe = Recipe(name="x", sources=[{"path": "a"}], train={"method": "scratch"})
    assert choose_precision(recipe, T4) == "fp32" and choose_precision(recipe, GPU) == "bf16"


@pytest.mark.parametrize(
    ("machine", "train", "said", "fix"),
    [
        (
            replace(GPU, liger=False),
            {"kernels": "liger"},
            "liger-kernel is not installed",
            "pip install 'afina[liger]'",
        ),
        (PC, {"kernels": "liger"}, "run on NVIDIA GPUs alone, not on cpu", "kernels: auto"),
        (replace(PC, compiler=False), {"compile": "on"}, "needs a C++ compiler", "compile: auto"),
        (T4, {"precision": "bf16"}, "does not compute in bf16", "precision: auto"),
        (PC, {"optimizer": "paged_adamw_8bit"}, "there is no paging on cpu", "adamw_8bit saves the same"),
        (replace(PC, bitsandbytes=False), {"optimizer": "paged_adamw_8bit"}, "there is no paging on cpu", "adamw_8bit"),
        (replace(PC, bitsandbytes=False), {"optimizer": "adamw_8bit"}, "not installed", "pip install 'afina[qlora]'"),
        (MAC, {"optimizer": "adamw_8bit"}, "no 8-bit optimizer for mps", "adamw"),
    ],
)
def test_what_cannot_be_had_is_refused(machine, train, said, fix):
    with pytest.raises(RecipeError) as refused:
        choose(recipe_with(**train), machine)
    (problem,) = refused.value.problems
    assert said in problem.what and fix in problem.fix and problem.where == f"train.{next(iter(train))}"


def test_every_wish_that_cannot_be_met_is_said_at_once():
    with pytest.raises(RecipeError) as refused:
        choose(recipe_with(kernels="liger", optimizer="paged_adamw_8bit"), PC)
    assert {each.where for each in refused.value.problems} == {"train.kernels", "train.optimizer"}


def test_nothing_stays_at_auto():
    settings = choose(recipe_with(), GPU).settings(Train())
    assert [getattr(settings, name) for name in CHOSEN] == ["bf16", "liger", "off", "adamw"]
    assert Train.model_validate(settings.model_dump()) == settings


def test_this_machine_says_what_is_installed():
    found = this_machine(CPU)
    assert (found.kind, found.bf16, found.liger) == ("cpu", False, find_spec("liger_kernel") is not None)


# ---- what the loop does with it


def test_bf16_trains_and_resumes_bitwise(base, tmp_path):
    """The base in 16 bits, adapter and averages in 32. (A CPU computes it slowly, not otherwise.)"""
    recipe = make_recipe(base, train={"checkpoint_seconds": 1e-9, "precision": "bf16"}, adapter={"dropout": 0.2})
    whole, _, log, _ = run_training(base, tmp_path / "whole", recipe)
    assert next(whole.parameters()).dtype == torch.bfloat16
    assert {weight.dtype for weight in adapter_weights(whole).values()} == {torch.float32}
    with pytest.raises(KeyboardInterrupt):
        run_training(base, tmp_path / "killed", recipe, Recorder(die_after=5))
    resumed = adapter_weights(run_training(base, tmp_path / "killed", recipe)[0])
    assert same_tensors(adapter_weights(whole), resumed)
    full = run_training(base, tmp_path / "fp32", make_recipe(base, adapter={"dropout": 0.2}))[2]
    assert log.losses() == pytest.approx(full.losses(), rel=0.02)


def test_products_of_adapters_are_in_16_bits(base):
    recipe = make_recipe(base, train={"precision": "bf16"})
    model = attach_adapter(load_base(base, recipe, CPU), recipe.adapter, 0)
    rows, _ = make_rows(base, recipe)
    seen = []
    layer = model.get_base_model().model.layers[0].self_attn.q_proj.lora_A["default"]
    layer.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    batch = make_batch(rows[:2], 0, CPU)
    with products_in("bf16", CPU):
        target_loss(model, batch).backward()
    assert {*seen} == {torch.bfloat16}
    seen.clear()
    target_loss(model, batch)
    assert {*seen} == {torch.float32}
    assert layer.weight.grad.dtype == torch.float32


def test_the_rest_of_a_four_bit_base_stays_in_bf16(tmp_path):
    pytest.importorskip("bitsandbytes")
    wide = make_base(tmp_path, hidden_size=64, intermediate_size=128)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        recipe = make_recipe(wide, adapter={"kind": "qlora"}, train={"precision": precision})
        model = attach_adapter(load_base(wide, recipe, CPU, four_bit=True), recipe.adapter, 0)
        assert model.get_input_embeddings().weight.dtype == dtype


def test_layers_are_compiled_while_training_alone(base, tmp_path, monkeypatch):
    """With a compiler that changes nothing, so that the test is fast."""
    made = []

    def compile_(layer, **options):
        made.append((type(layer).__name__, options))
        layer._compiled_call_impl = functools.partial(layer._call_impl)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    plain = adapter_weights(run_training(base, tmp_path / "plain", make_recipe(base))[0])
    assert not made
    recipe = make_recipe(base, train={"compile": "on"})
    model = run_training(base, tmp_path / "compiled", recipe)[0]
    assert made == [("LlamaDecoderLayer", {"dynamic": True})] * 2
    assert same_tensors(adapter_weights(model), plain)
    assert all(part._compiled_call_impl is None for part in model.modules())
    with pytest.raises(ZeroDivisionError), training_mode(model, recipe.train):
        raise ZeroDivisionError
    assert all(part._compiled_call_impl is None for part in model.modules())


def test_the_share_of_the_peak_is_logged(base, tmp_path):
    log = run_training(base, tmp_path, peak_flops=1e12)[2]
    steps = [event for event in log.events if event["event"] == "step"]
    assert steps and all(event["mfu"] == round(event["flops_per_second"] / 1e12, 4) for event in steps)
    without = [event["mfu"] for event in run_training(base, tmp_path / "b")[2].events if "mfu" in event]
    assert without == [None] * len(steps)


# ---- what a run notes


def test_a_run_keeps_what_it_began_with(tmp_path, monkeypatch):
    """Chosen bf16 (as on a GPU), killed; the next start, which would choose fp32, goes on in bf16 and says so."""
    import afina.walk.chosen_settings as chosen_settings

    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    bf16 = Choices("bf16", "torch", False, "adamw", ("as if on a GPU",))
    own = chosen_settings.choose
    monkeypatch.setattr(chosen_settings, "choose", lambda *_, **__: bf16)
    call_afina("train", "recipe.yaml", "budget.hours=1e-9", check=4)
    said = call_afina("train", "recipe.yaml", "train.epochs=1").stderr
    assert "bf16, torch kernels, not compiled, adamw (as if on a GPU)" in said
    monkeypatch.setattr(chosen_settings, "choose", own)
    for wish in ("train.precision=bf16", "train.precision=auto")[: times(1, 2)]:  # what it was is no change
        said = call_afina("train", "recipe.yaml", "train.epochs=1", wish).stderr
        assert "train: done before, unchanged, kept" in said
    said = call_afina("train", "recipe.yaml", "train.epochs=1", "train.precision=fp32").stderr
    assert "computed.precision: bf16 -> fp32" in said
    stages = json.loads((tmp_path / "runs/clube/stages.json").read_text())
    assert stages["train"]["inputs"]["computed"] == {
        "precision": "fp32", "kernels": "torch", "compile": False, "optimizer": "adamw", "backend": "torch"
    }  # fmt: skip


def test_a_run_that_cannot_go_on_as_it_began_says_so(tmp_path, monkeypatch):
    import afina.walk.chosen_settings as chosen_settings

    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(chosen_settings, "choose", lambda *_, **__: Choices("fp32", "liger", False, "adamw"))
        assert "liger kernels run on NVIDIA GPUs alone" in call_afina("train", "recipe.yaml", check=2).stderr
    said = call_afina("train", "recipe.yaml", check=2).stderr  # begun with liger
    assert "starts anew with anything else" in said
    call_afina("train", "recipe.yaml", "train.kernels=torch", "train.epochs=1")


def test_paging_without_a_gpu_is_refused_before_the_base_is_opened(tmp_path, monkeypatch):
    import afina.model.load_torch as load_torch

    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load_torch, "load_base", None)
    said = call_afina("train", "recipe.yaml", "train.optimizer=paged_adamw_8bit", check=2).stderr
    assert "there is no paging on cpu" in said
